"""How many images are held out of a split: `data.validation`."""

from core.errors import UserError

MOST = 2048  # most images that "auto" holds out
MOST_TEST = 10_000  # most images of a test split that is cut from train, if the data have none


def check(key: str, wanted: object) -> None:
    """ValueError("key: ...") unless `wanted` is a number, a share, or "auto"."""
    number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
    whole = number and wanted >= 1 and wanted == int(wanted)  # type: ignore
    share = number and 0 < wanted < 1  # type: ignore
    if not (wanted == "auto" or whole or share):
        raise ValueError(
            f"{key}: must be a number of images (1 or more), a share between 0 and 1, or auto,"
            f" got {wanted}"
        )


def held_out(wanted: int | float | str, n: int, most: int = MOST) -> int:
    """The number of images that are held out of n: "auto" is a tenth of them, at most `most`.

    >>> held_out("auto", 60_000), held_out("auto", 1_200), held_out(0.25, 1_200), held_out(7, 1_200)
    (2048, 120, 300, 7)

    Raises `UserError` if none would be left.
    """
    if wanted == "auto":
        count = min(most, max(1, n // 10))
    else:
        count = int(wanted) if float(wanted) >= 1 else max(1, round(float(wanted) * n))
    if count >= n:
        raise UserError(f"data.validation: {count:,} images can not be held out of {n:,}")
    return count
