"""Variational encoders: an image is compressed into a code whose rate is counted in nats."""
