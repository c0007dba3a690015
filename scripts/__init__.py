"""The commands. A command runs the script of its name."""

import core  # noqa: F401  (so that torchvision can be imported in any order)
