"""Imported last by the server of `tests.front_door`: its forks share its memory, and a garbage
collection in one of them does not copy all of it.
"""

import gc

gc.collect()
gc.freeze()
