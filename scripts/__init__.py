"""The commands: `twobounds NAME` runs the script NAME.py of this folder."""

import core  # noqa: F401  (so that torchvision can be imported in any order)
