"""Probes of labels: accuracy, information, bounds on errors and description length."""
