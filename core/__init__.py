"""The shared representation-learning core: what every method and every probe stands on. It imports
no other room.
"""

import os

# Two threads that spin at every barrier of a busy machine run five times slower than two that
# sleep, and sleeping costs an idle one nothing. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from core import torchvision_operators

torchvision_operators.declare_if_missing()
