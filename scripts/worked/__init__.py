"""Worked examples of the theory: each is a function that yields lines of text."""
