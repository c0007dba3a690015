"""A run: its config, its loop, its checkpoints, and what it does after an error."""
