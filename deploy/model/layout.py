"""Where a window goes in an input tensor: as readings and channels, as one row of numbers, or as features. Pure."""

from __future__ import annotations

from typing import Any

from deploy.model.said import Said, Understood
from schemas.errors import ConfigError, ModelError
from schemas.feeding import Tensor
from schemas.manifest import Feed, Layout

#: Statistics of a model that is fed features, where nothing else is said.
USUAL_STATISTICS = ("mean", "std", "min", "max")


def feed_of(tensor: Tensor, channels: tuple[str, ...], said: Said, got: Understood) -> Feed:
    """How one input is made from the window; what it tells of the window goes into `got`.

    Raises: ModelError: it has no place for a window. ConfigError: the window does not fit it.
    """
    feed: dict[str, Any] = {
        "input": tensor.name,
        "dtype": tensor.dtype,
        "channels": list(channels),
        "scaled": not said.unscaled,
        "feed": said.feed or "window",
    }
    if feed["feed"] == "features":
        return Feed(**feed, statistics=_statistics(tensor, len(channels) or got.channels, said, got))
    shape = tensor.shape[1:]
    if not tensor.shape or len(shape) not in (1, 2):
        raise ModelError(
            "an input of the model has no place for a window",
            input=tensor.name,
            takes=str(tensor),
            fix="export it as [batch, readings, channels], [batch, channels, readings] or [batch, numbers]; a fourth "
            "dimension can be added by a Reshape inside of the model",
        )
    wide = len(channels) or got.channels
    long = said.frame_readings or got.window_readings
    fed = long + said.context_readings if long else None
    if len(shape) == 2:
        layout, fed, wide = _of_two(tensor, shape[0], shape[1], fed, wide, said.layout, got)
    else:
        layout, fed, wide = _of_one(tensor, shape[0], fed, wide, said.layout, got)
    if not channels and got.channels is None:
        got.channels = wide
    if fed is None:
        got.open.append(f"how many readings are a window? {tensor.name} takes any number: --window N")
    elif got.window_readings is None:
        got.window_readings = fed - said.context_readings
    return Feed(**feed, layout=layout)


def _statistics(tensor: Tensor, wide: int | None, said: Said, got: Understood) -> list[str]:
    statistics = list(said.statistics or USUAL_STATISTICS)
    takes = tensor.shape[-1] if len(tensor.shape) == 2 else None
    if len(tensor.shape) != 2:
        raise ModelError("features are [batch, numbers]", input=tensor.name, takes=str(tensor))
    if takes is not None and wide is not None and takes != wide * len(statistics):
        raise ConfigError(
            "the features do not fit the input",
            input=tensor.name,
            takes=str(tensor),
            gives=f"{len(statistics)} statistics of {wide} channels: {wide * len(statistics)} numbers",
            fix="--statistics a,b,… and --channels a,b,…",
        )
    if wide is None and takes is not None:
        if takes % len(statistics):
            raise ConfigError("the features do not fit the input", takes=str(tensor), fix="--statistics a,b,…")
        got.channels = takes // len(statistics)
    if got.window_readings is None:
        got.open.append("how many readings are a window? features are made of any number: --window N")
    return statistics


Fit = tuple[Layout, int | None, int | None]


def _of_two(
    tensor: Tensor,
    first: int | None,
    second: int | None,
    long: int | None,
    wide: int | None,
    told: Layout | None,
    got: Understood,
) -> Fit:
    """Layout, readings and channels of an input [batch, first, second]."""
    if told in ("flat", "flat-channels"):
        raise ConfigError("a flat window is [batch, numbers]", input=tensor.name, takes=str(tensor))

    def fits(readings: int | None, channels: int | None) -> bool:
        return (readings is None or long is None or readings == long) and (
            channels is None or wide is None or channels == wide
        )

    both: tuple[tuple[Layout, bool], ...] = (("rows", fits(first, second)), ("channels", fits(second, first)))
    ways = [name for name, ok in both if ok]
    if told is not None:
        ways = [way for way in ways if way == told]
    if not ways:
        raise ConfigError(
            "the window does not fit the input",
            input=tensor.name,
            takes=str(tensor),
            readings=long or "not told",
            channels=wide or "not told",
            fix="--window N, --channels a,b,… and --layout rows or channels",
        )
    layout = ways[0]
    if len(ways) == 2:
        if long is None and wide is None and first is not None and second is None:
            layout = "channels"  # a fixed number of channels, and any number of readings
        got.notes.append(
            f"{tensor.name} is read as [batch, {'readings, channels' if layout == 'rows' else 'channels, readings'}]; "
            "--layout says otherwise"
        )
    readings, channels = (first, second) if layout == "rows" else (second, first)
    return layout, long if readings is None else readings, wide if channels is None else channels


def _of_one(
    tensor: Tensor, numbers: int | None, long: int | None, wide: int | None, told: Layout | None, got: Understood
) -> Fit:
    """Layout, readings and channels of an input [batch, numbers]."""
    if told in ("rows", "channels"):
        raise ConfigError(f"layout {told} needs [batch, …, …]", input=tensor.name, takes=str(tensor))
    layout: Layout = told or "flat"
    if numbers is None:
        return layout, long, wide
    if wide is None and long is None:
        got.notes.append(
            f"{tensor.name} takes {numbers} numbers: read as {numbers} readings of one channel; --window 1: channels"
        )
        wide = 1
    if wide is None:
        wide = numbers // (long or 1)
    if long is None:
        long = max(1, numbers // wide)
    if long * wide != numbers:
        raise ConfigError(
            "the window does not fit the input",
            input=tensor.name,
            takes=str(tensor),
            gives=f"{long} readings of {wide} channel(s): {long * wide} numbers",
            fix="--window N and --channels a,b,…; --feed features where it takes statistics of the window",
        )
    if wide > 1 and long > 1 and told is None:
        got.notes.append(f"{tensor.name} is read as reading after reading; --layout flat-channels is the other way")
    return layout, long, wide
