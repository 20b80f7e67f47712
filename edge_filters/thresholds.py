"""Which thresholds are in force on a device. Pure: accepts an update or raises UpdateRefused, and then nothing changed.

The rules, in this order: the update is for this device or its cohort (else it is none of our business); for the model
that runs; newer than the last one for the same target; not expired; finite and ordered; inside of the model's bounds.
What is addressed to the device goes before what is addressed to its cohort. When the time to live is over, the
defaults of the model package are back: old feedback must not steer a device that no longer hears new feedback.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from schemas.errors import UpdateRefused
from schemas.manifest import Levels, Manifest, within
from schemas.records import TargetKind, ThresholdsSource, ThresholdUpdate

_ORDER = (TargetKind.DEVICE, TargetKind.COHORT)


class InForce(NamedTuple):
    """Thresholds as the decider uses them; valid before `until_us`."""

    levels: Levels
    version: int
    source: ThresholdsSource
    until_us: float


class Thresholds:
    """Thresholds of one device."""

    def __init__(self, device_id: str, cohort: str, manifest: Manifest) -> None:
        self._targets = {TargetKind.DEVICE: device_id, TargetKind.COHORT: cohort}
        self._device_id = device_id
        self._manifest = manifest
        self._latest: dict[TargetKind, tuple[ThresholdUpdate, Levels]] = {}
        self.in_force = self._choose(0)

    @property
    def latest(self) -> list[ThresholdUpdate]:
        """The accepted updates, at most one per target: what a device keeps over a restart."""
        return [self._latest[kind][0] for kind in _ORDER if kind in self._latest]

    def at(self, now_us: int) -> InForce:
        """Thresholds in force at that time, microseconds."""
        if now_us >= self.in_force.until_us:
            self.in_force = self._choose(now_us)
        return self.in_force

    def offer(self, update: ThresholdUpdate, now_us: int) -> bool:
        """Take an update. True: it is accepted now. False: it is not for this device, or was accepted before.

        Raises:
            UpdateRefused: it is for this device and breaks a rule.
        """
        if update.target != self._targets.get(update.target_kind):
            return False
        known = self._latest.get(update.target_kind)
        if known is not None and known[0] == update:
            return False
        where: dict[str, Any] = {"target": update.target, "version": update.version}
        if update.model_name != self._manifest.name:
            raise UpdateRefused(
                "thresholds are for another model", **where, got=update.model_name, running=self._manifest.name
            )
        if known is not None and update.version <= known[0].version:
            raise UpdateRefused("thresholds are not newer than those in force", **where, have=known[0].version)
        if now_us >= update.expires_at:
            raise UpdateRefused("thresholds are expired", **where, late_by_s=(now_us - update.expires_at) / 1e6)
        levels = _levels(update, where)
        bounds = self._manifest.bounds
        if not within(bounds, levels):
            raise UpdateRefused(
                "thresholds lie outside of the model's bounds",
                **where,
                escalate_at=update.escalate_at,
                raise_at=update.raise_at,
                low=bounds.low,
                high=bounds.high,
            )
        self._latest[update.target_kind] = update, levels
        self.in_force = self._choose(now_us)
        return True

    def adopt(self, manifest: Manifest, now_us: int) -> None:
        """Another version of the model moved in: its defaults and bounds count from now on."""
        self._manifest = manifest
        self._latest = {kind: pair for kind, pair in self._latest.items() if within(manifest.bounds, pair[1])}
        self.in_force = self._choose(now_us)

    def _choose(self, now_us: int) -> InForce:
        for kind in _ORDER:
            pair = self._latest.get(kind)
            if pair is not None and now_us < pair[0].expires_at:
                return InForce(pair[1], pair[0].version, ThresholdsSource.FEEDBACK, pair[0].expires_at)
        source = ThresholdsSource.EXPIRED if self._latest else ThresholdsSource.DEFAULT
        return InForce(self._manifest.levels_of(self._device_id), 0, source, math.inf)


def _levels(update: ThresholdUpdate, where: dict[str, Any]) -> Levels:
    try:
        return Levels(escalate_at=update.escalate_at, raise_at=update.raise_at, clear_at=update.clear_at)
    except ValueError:
        raise UpdateRefused(
            "thresholds must be finite and satisfy clear_at <= escalate_at <= raise_at",
            **where,
            clear_at=update.clear_at,
            escalate_at=update.escalate_at,
            raise_at=update.raise_at,
        ) from None
