"""Intervals of a proportion."""

from __future__ import annotations

import math

from mezzotint.errors import DataError


def wilson(count: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a proportion: where it lies, though few were counted, or all or none.

    Args:
        count: How often it happened.
        total: How often it could have.
        z: Width in standard deviations; the default covers 95 %.

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        DataError: Nothing was counted, or more than could be.

    Example:
        >>> [round(end, 4) for end in wilson(8, 10)]
        [0.4902, 0.9433]

    Source: Wilson 1927; Brown et al. 2001, equation 4.
    """
    if not 0 <= count <= total or total == 0:
        raise DataError(f"a proportion of {count} in {total}; count at least one, and no more than all")
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return 0.0 if count == 0 else middle - half, 1.0 if count == total else middle + half
