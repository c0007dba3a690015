"""Encoders that this project did not train, plain features, and exports for other programs."""
