"""Windows to features, on the edge and in the cloud alike, so that what was trained is what is scored.

Version 1. A feature vector is statistic-major: for statistics ("mean", "std") and channels (a, b) it is
[mean(a), mean(b), std(a), std(b)]. Channels are standardised first, with the centre and scale of the model package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from schemas.errors import ModelError
from schemas.records import Floats

FEATURES_VERSION = 1


def _mean_abs_step(x: Floats) -> Floats:
    if x.shape[1] < 2:
        return np.zeros((x.shape[0], x.shape[2]), np.float32)
    return np.asarray(np.abs(np.diff(x, axis=1)).mean(axis=1), np.float32)


def _extreme(choose: np.ufunc, x: Floats) -> Floats:
    """Smallest or largest reading, exactly `choose.reduce(x, axis=1)`.

    numpy reduces along the middle axis a few channels at a time. Halves against each other are long runs of memory,
    which is three to five times as fast, and the order makes no difference to what is smallest.
    """
    while (readings := x.shape[1]) > 4:
        half = readings // 2
        folded: Floats = choose(x[:, :half], x[:, half : 2 * half])
        if readings % 2:
            choose(folded[:, 0], x[:, -1], out=folded[:, 0])
        x = folded
    return np.asarray(choose.reduce(x, axis=1), np.float32)


#: Name -> function of float32[batch, readings, channels] to float32[batch, channels]. `std` is the population's;
#: `rise` is last minus first; `step` is the mean absolute difference between neighbours.
STATISTICS: dict[str, Callable[[Floats], npt.NDArray[np.floating]]] = {
    "mean": lambda x: x.mean(axis=1),
    "std": lambda x: x.std(axis=1),
    "min": lambda x: _extreme(np.minimum, x),
    "max": lambda x: _extreme(np.maximum, x),
    "rise": lambda x: x[:, -1, :] - x[:, 0, :],
    "step": _mean_abs_step,
}


_BUILT_IN = frozenset(STATISTICS)


def add_statistic(name: str, function: Callable[[Floats], Floats]) -> None:
    """Make a statistic of one's own known in this process, for packages that list it by name.

    Raises ValueError: the name is one of ours, or not a plain name.
    """
    if name in _BUILT_IN:
        raise ValueError(f"{name!r} is a statistic that exists already; give yours another name")
    if not name.isidentifier():
        raise ValueError(f"{name!r} is not a plain name for a statistic")
    STATISTICS[name] = function


def standardise(windows: Floats, centre: Floats, scale: Floats) -> Floats:
    """(x - centre) / scale per channel; float32[batch, readings, channels] in and out."""
    return np.asarray((windows - centre) / scale, np.float32)


def extract(windows: Floats, statistics: Sequence[str]) -> Floats:
    """Features of windows of equal length.

    Args:    windows: float32[batch, readings, channels], standardised and finite, readings >= 1.
             statistics: names from STATISTICS.
    Returns: float32[batch, len(statistics) * channels].
    Raises:  ModelError: an unknown statistic, or windows that are not three-dimensional.

    >>> extract(np.array([[[1.0], [3.0]]], np.float32), ["mean", "rise"]).tolist()
    [[2.0, 2.0]]
    """
    if windows.ndim != 3 or windows.shape[1] < 1:
        raise ModelError("windows must be batch x readings x channels with at least one reading", shape=windows.shape)
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown:
        raise ModelError(
            "unknown statistics",
            unknown=unknown,
            fix=f"known are {', '.join(STATISTICS)}; one of your own is made known first, see docs/plugins.md",
        )
    parts = [STATISTICS[name](windows) for name in statistics]
    return np.ascontiguousarray(np.concatenate(parts, axis=1), np.float32)
