"""The commands; a script with the name of a command is its entry."""

import core  # noqa: F401  (so that torchvision can be imported in any order)
