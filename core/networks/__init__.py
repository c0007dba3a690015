"""Encoders, decoders, and likelihoods of pixels."""
