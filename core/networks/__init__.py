"""Encoders, decoders, and what a decoder says about pixels."""
