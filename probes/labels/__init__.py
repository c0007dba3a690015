"""What frozen features know about labels."""
