"""Probes of encoders that read captions: information, retrieval, classes named by words."""
