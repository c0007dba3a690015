"""Checks of claims of the documentation, one file for each."""
