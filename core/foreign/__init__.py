"""Encoders that were not trained here, plain features, and files for use elsewhere."""
