"""Probes of latent-variable models: what a code costs, and what it carries."""
