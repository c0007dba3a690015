"""Import this last in the server of `tests.front_door`. The forks of the server share its memory.
With this module, a garbage collection in a fork does not copy all of this memory.
"""

import gc

gc.collect()
gc.freeze()
