"""The shared representation-learning core: what every method and every probe stands on. It imports no other room."""

from core import torchvision_operators

torchvision_operators.declare_if_missing()
