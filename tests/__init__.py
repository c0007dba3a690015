"""The tests, in folders named like the packages that they test."""

import core  # noqa: F401  (before torch, because it sets how threads wait)
