"""The contests of scripts/bench.py, a file a section: our path and the peer's own code, on the same
input, in one process.
"""
