"""The contests of `twobounds bench`, one file for each section. A contest runs our code and another
library's (the "peer") on the same input, in one process. intervals.py, parity.py and verdicts.py
are programs of their own.
"""
