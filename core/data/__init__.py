"""Where images come from, and the views that are made of them."""
