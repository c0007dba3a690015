"""Probes of latent-variable models: the rate of a code, and the information in it."""
