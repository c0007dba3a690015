"""What holds a claim of the documentation against the code, a file a claim."""
