"""What can be said about information: losses that train on it, bounds on it, and closed forms."""
