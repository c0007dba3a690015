"""Encoders of images and texts, decoders, and likelihoods of pixels."""
