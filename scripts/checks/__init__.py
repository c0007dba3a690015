"""Checks of what the documentation claims, one file for each."""
