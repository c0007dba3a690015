"""A run: its config, its loop, its checkpoints, and its faults."""
