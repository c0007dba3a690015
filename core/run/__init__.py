"""A run: its config, its loop, its checkpoints, and whatever may happen to it."""
