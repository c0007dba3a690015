"""What two views of an image share, and how an encoder lays images out."""
