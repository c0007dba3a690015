"""The shared core of all methods and probes. It imports only one other package of the project:
`configs`, which holds the packaged YAML files.

`import core` is fast: torch is imported only when a name that needs it is first used.

>>> from core import load
>>> method, run, step, digest = load("runs/mine")  # a run folder or a checkpoint
>>> import torch
>>> method.encode(torch.rand(2, *method.shape)).features.shape
torch.Size([2, 256])
"""

import os
from typing import TYPE_CHECKING

# On a busy machine, threads that spin at a barrier are five times slower than threads that sleep.
# On an idle machine both are equally fast. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from core import torchvision_operators
from core.lazy import exports

torchvision_operators.declare_when_imported()

if TYPE_CHECKING:
    from core.loading import load as load

__getattr__, __dir__ = exports(__name__, {"load": "core.loading"})
