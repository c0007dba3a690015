"""The contests of `twobounds bench`, one file for each section: our code and a peer's own code, on
the same input, in one process.
"""
