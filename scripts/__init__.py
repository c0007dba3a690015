"""What a person runs; each script is a short composition root with a visible loop."""

import core  # noqa: F401  (so that torchvision can be imported in any order)
