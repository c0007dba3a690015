"""The shared core that every method and every probe stands on. It imports no other room.

Importing it is light (torch comes with the first name that needs it) and may stand anywhere among
a file's imports.

>>> from core import load
>>> method, run, step, digest = load("runs/mine")  # a run folder, or a checkpoint
>>> import torch
>>> method.encode(torch.rand(2, *method.shape)).features.shape
torch.Size([2, 256])
"""

import os
from typing import TYPE_CHECKING

# Two threads that spin at every barrier of a busy machine run five times slower than two that
# sleep, and sleeping costs an idle one nothing. OpenMP reads this when torch is first imported;
# where that has happened already it changes nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from core import torchvision_operators
from core.lazy import exports

torchvision_operators.declare_when_imported()

if TYPE_CHECKING:
    from core.loading import load as load

__getattr__, __dir__ = exports(__name__, {"load": "core.loading"})
