"""Contrastive encoders: two views of one image attract, all else repels."""
