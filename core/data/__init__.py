"""Sources of images, and the augmented views that are made from them."""
