"""What the code of a latent-variable model costs and carries."""
