"""Units of information, and the functions that convert them.

Numbers are nats, with three exceptions. Code lengths of compressed files (`vae.bitsback`) are bits.
`bits_per_dim` is bits divided by the number of values of an image. Description lengths of labels
are also shown in kbit. 1 bit = log 2 nats.
All functions take and return floats, numpy arrays or torch tensors.
"""

import math
from typing import Any, TypeVar

Amount = TypeVar("Amount", bound=Any)  # float, numpy array or torch tensor

NATS_PER_BIT = math.log(2)


def bits(nats: Amount) -> Amount:
    """nats / log 2.

    >>> import math
    >>> bits(math.log(8))
    3.0
    """
    return nats / NATS_PER_BIT


def nats(bits: Amount) -> Amount:
    """bits log 2, the inverse of `bits`.

    >>> round(nats(3.0), 4)
    2.0794
    """
    return bits * NATS_PER_BIT


def bits_per_dim(nats: Amount, dimensions: int) -> Amount:
    """nats / (d log 2), for images of d discrete values. (For a density, it depends on the unit
    of x, so it has no meaning.) `ValueError` if d is below 1.

    >>> import math
    >>> bits_per_dim(784 * math.log(256), 784)
    8.0
    """
    if dimensions < 1:
        raise ValueError(f"dimensions: must be 1 or more, got {dimensions}")
    return bits(nats) / dimensions


def in_base(nats: Amount, base: float) -> Amount:
    """nats / log base: bits for 2, bans for 10, nats for e. `ValueError` for a base that is not
    finite or not above 1.
    """
    if not 1 < base < math.inf:
        raise ValueError(f"base: must be finite and above 1, such as 2 or math.e, got {base}")
    return nats if base == math.e else nats / math.log(base)
