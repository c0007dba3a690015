"""The tests, in the rooms of the code that they test."""

import core  # noqa: F401  (before torch: it says how threads wait)
