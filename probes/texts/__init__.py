"""Probes of encoders that read captions: information, retrieval, classification by sentences."""
