"""The contests of `twobounds bench`, one file for each section: our code and another library's (the
"peer"), on the same input, in one process. parity.py, verdicts.py and intervals.py are programs of their own.
"""
