"""Import this last in the server of `tests.front_door`. Its forks share its memory, and then a
garbage collection in one of them does not copy all of this memory.
"""

import gc

gc.collect()
gc.freeze()
