"""The tests, in the rooms of the code that they test."""

import core  # noqa: F401  (before torch, because it sets how threads wait)
