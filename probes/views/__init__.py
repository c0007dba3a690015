"""Probes of views: the information that two views share, and the geometry of features."""
