"""The threshold controller: from how often edge and heavy model disagree to the thresholds an edge shall obey. Pure.

Escalating costs bytes and cloud time, answering alone costs missed anomalies. Both errors are measured per device:
- escalated windows that the heavy model calls normal: the override rate. Too high: escalate less;
- audited windows (a random sample of those NOT escalated) that it calls anomalous: the missed rate. Too high:
  escalate more. Without the audit the loop would only ever see what it had already chosen to look at.

Against oscillation: a dead band between the two limits, a step bounded to a share of the default level, a minimum of
evidence per step, only evidence made under the thresholds that were issued last, and a ceiling: where too much was
missed once, the level does not go again before a while has passed. Against staleness: every update expires, is renewed
while the evidence still supports it, and evidence that was judged and led to nothing does not count for ever.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Levels, Manifest, within
from schemas.records import DecidedBy, Decision, Outcome, TargetKind, ThresholdUpdate

MAX_EVIDENCE_IDS = 64
#: Evidence of a kind that reached this many times its minimum without moving anything is counted anew; else a long
#: quiet past would outvote what happens now.
_JUDGED_AFTER = 4
#: A level that missed too much is tried again after this many times to live.
_CEILING_TTLS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerPolicy:
    """Limits of the controller.

    Attributes:
        min_escalated: escalated windows needed before the override rate counts.
        min_audited: audited windows needed before the missed rate counts.
        override_high: above this override rate the device escalates too much.
        missed_high: above this missed rate the device escalates too little; it wins over override_high.
        step: largest change of a level per update, as a share of its default (of the largest default where its own
            is 0, of the width of the bounds where all are).
        ttl_us: how long an update holds, microseconds.
    """

    min_escalated: int = 30
    min_audited: int = 20
    override_high: float = 0.5
    missed_high: float = 0.1
    step: float = 0.1
    ttl_us: int = 600_000_000

    def __post_init__(self) -> None:
        if not (0 < self.override_high < 1 and 0 < self.missed_high < 1 and 0 < self.step <= 0.5):
            raise ConfigError("controller rates must lie in (0, 1) and the step in (0, 0.5]", got=asdict(self))
        if min(self.min_escalated, self.min_audited, self.ttl_us) < 1:
            raise ConfigError("controller counts and ttl must be at least 1", got=asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What one device's windows told: counts that add up, and the newest event ids. `at_us`: newest decision."""

    device_id: str
    model_name: str
    thresholds_version: int
    at_us: int
    escalated: int = 0
    overridden: int = 0
    audited: int = 0
    missed: int = 0
    event_ids: tuple[str, ...] = ()

    def joins(self, other: Evidence) -> bool:
        """Whether both tell about the same thresholds of one device and model."""
        mine = self.device_id, self.model_name, self.thresholds_version
        return mine == (other.device_id, other.model_name, other.thresholds_version)

    def merge(self, other: Evidence) -> Evidence:
        """Evidence of both. Only defined where `joins` says so."""
        return replace(
            self,
            at_us=max(self.at_us, other.at_us),
            escalated=self.escalated + other.escalated,
            overridden=self.overridden + other.overridden,
            audited=self.audited + other.audited,
            missed=self.missed + other.missed,
            event_ids=(self.event_ids + other.event_ids)[-MAX_EVIDENCE_IDS:],
        )

    def to_bytes(self) -> bytes:
        """JSON, for Beam's wire between two steps."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Evidence:
        """Inverse of to_bytes. Raises DecodeError."""
        try:
            raw = json.loads(data)
            seen = cls(**(raw | {"event_ids": tuple(raw["event_ids"])}))
            if not all(isinstance(name, str) for name in (seen.device_id, seen.model_name, *seen.event_ids)):
                raise ValueError("a name that is none")
            numbers = (seen.thresholds_version, seen.at_us, seen.escalated, seen.overridden, seen.audited, seen.missed)
            if not all(isinstance(number, int) for number in numbers):
                raise ValueError("a count that is none")
            return seen
        except (ValueError, TypeError, KeyError, RecursionError) as cause:
            raise DecodeError("not evidence of the controller") from cause


def merged(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Evidence merged per device, model and version of thresholds, in order of first appearance."""
    out: dict[tuple[str, str, int], Evidence] = {}
    for seen in evidence:
        key = seen.device_id, seen.model_name, seen.thresholds_version
        out[key] = out[key].merge(seen) if key in out else seen
    return list(out.values())


def of_decisions(decisions: Iterable[Decision]) -> list[Evidence]:
    """Evidence of escalated windows, merged as `merged` does.

    Left out are those that the heavy model did not answer, and windows that were sent to say that an alarm is over: the
    edge called them normal itself.
    """
    groups: dict[tuple[str, str, int], list[Decision]] = {}
    for decision in decisions:
        if decision.decided_by is DecidedBy.HEAVY and decision.provisional is not Outcome.NORMAL:
            key = decision.device_id, decision.model_name, decision.thresholds_version
            groups.setdefault(key, []).append(decision)
    return [
        Evidence(
            device_id=device_id,
            model_name=model_name,
            thresholds_version=version,
            at_us=max(d.decided_at for d in group),
            escalated=len(group),
            overridden=sum(d.outcome is Outcome.NORMAL for d in group),
            event_ids=tuple(d.identity.event_id for d in group[-MAX_EVIDENCE_IDS:]),
        )
        for (device_id, model_name, version), group in groups.items()
    ]


def of_audit(
    device_id: str, model_name: str, thresholds_version: int, event_id: str, anomalous: bool, at_us: int
) -> Evidence:
    """Evidence of one audited window that the edge had answered by itself."""
    return Evidence(
        device_id=device_id,
        model_name=model_name,
        thresholds_version=thresholds_version,
        at_us=at_us,
        audited=1,
        missed=int(anomalous),
        event_ids=(event_id,),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """An `escalate_at` that missed too much under one version of the model, and until when that is believed."""

    escalate_at: float
    model_version: int
    until_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """What the controller remembers of one device. `version` 0: nothing was issued, the package's defaults hold."""

    version: int = 0
    model_name: str = ""
    levels: tuple[float, float, float] | None = None
    issued_at_us: int = 0
    expires_at_us: int = 0
    gathered: Evidence | None = None
    ceiling: Ceiling | None = None

    def to_bytes(self) -> bytes:
        """JSON, for Beam's state."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceState:
        """Inverse of to_bytes. Raises DecodeError."""
        try:
            raw = json.loads(data)
            levels, gathered, ceiling = raw.pop("levels"), raw.pop("gathered"), raw.pop("ceiling", None)
            return cls(
                **raw,
                levels=tuple(levels) if levels else None,
                gathered=Evidence.from_bytes(json.dumps(gathered).encode()) if gathered else None,
                ceiling=Ceiling(**ceiling) if ceiling else None,
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as cause:
            raise DecodeError("not a state of the controller") from cause

    @classmethod
    def of_update(cls, update: ThresholdUpdate) -> DeviceState:
        """State after an update that an earlier run of the pipeline issued."""
        return cls(
            version=update.version,
            model_name=update.model_name,
            levels=(update.escalate_at, update.raise_at, update.clear_at),
            issued_at_us=update.issued_at,
            expires_at_us=update.expires_at,
        )


class ThresholdController:
    """Decides per device; holds nothing itself."""

    def __init__(self, policy: ControllerPolicy) -> None:
        self._policy = policy

    def step(self, state: DeviceState, new: Evidence, manifest: Manifest) -> tuple[DeviceState, ThresholdUpdate | None]:
        """State after new evidence of a device, and the update to publish, if any.

        `manifest` gives the defaults and the bounds. The clock is that of the evidence, so that the same evidence
        always gives the same update, also when it is seen again after a restart.
        """
        held = _held(state, new, manifest)
        in_force = state.version if held else 0
        if new.thresholds_version != in_force:
            return state, None  # made under other thresholds than those that hold now: it says nothing about them
        gathered = new if state.gathered is None or not state.gathered.joins(new) else state.gathered.merge(new)
        defaults = manifest.levels_of(new.device_id)
        current = held or defaults
        direction, reason = self._judge(gathered)
        target = self._moved(current, defaults, manifest, direction)
        if direction > 0 and self._too_high(target, defaults, state.ceiling, new, manifest):
            target = current
        if target != current:
            ceiling = state.ceiling
            if direction < 0:
                until_us = new.at_us + _CEILING_TTLS * self._policy.ttl_us
                ceiling = Ceiling(escalate_at=current.escalate_at, model_version=manifest.version, until_us=until_us)
            return self._issue(replace(state, ceiling=ceiling), gathered, target, reason)
        # An age below zero: the clock was set back, and what was issued would hold for longer than it should.
        old_enough = abs(new.at_us - state.issued_at_us) > self._policy.ttl_us // 2
        if in_force and old_enough and gathered.escalated + gathered.audited >= self._policy.min_audited:
            return self._issue(state, gathered, target, "the evidence still supports these thresholds")
        return replace(state, gathered=self._without_the_past(gathered)), None

    def _judge(self, seen: Evidence) -> tuple[int, str]:
        """+1 escalate less, -1 escalate more, 0 stay; and why."""
        p = self._policy
        if seen.audited >= p.min_audited and seen.missed > p.missed_high * seen.audited:
            return -1, f"the heavy model calls {seen.missed} of {seen.audited} audited windows anomalous"
        if seen.escalated >= p.min_escalated and seen.overridden > p.override_high * seen.escalated:
            return +1, f"the heavy model calls {seen.overridden} of {seen.escalated} escalated windows normal"
        return 0, ""

    def _moved(self, current: Levels, defaults: Levels, manifest: Manifest, direction: int) -> Levels:
        """One step from `current`, inside of the bounds, which hold for escalate_at and raise_at; clear_at follows."""
        if not direction:
            return current
        bounds = manifest.bounds

        def moved(value: float, default: float) -> float:
            return value + direction * self._policy.step * _unit(default, defaults, manifest)

        def clip(value: float) -> float:
            return min(max(value, bounds.low), bounds.high)

        escalate_at = clip(moved(current.escalate_at, defaults.escalate_at))
        raise_at = max(escalate_at, clip(moved(current.raise_at, defaults.raise_at)))
        stays = escalate_at == current.escalate_at  # at the edge of the bounds: without this, clear_at would drift away
        clear_at = current.clear_at if stays else moved(current.clear_at, defaults.clear_at)
        return Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=min(escalate_at, clear_at))

    def _too_high(
        self, target: Levels, defaults: Levels, ceiling: Ceiling | None, new: Evidence, manifest: Manifest
    ) -> bool:
        """Whether a level is one that missed too much not long ago; half a step makes up for rounding."""
        if ceiling is None or ceiling.model_version != manifest.version or new.at_us >= ceiling.until_us:
            return False
        half_a_step = 0.5 * self._policy.step * _unit(defaults.escalate_at, defaults, manifest)
        return target.escalate_at > ceiling.escalate_at - half_a_step

    def _without_the_past(self, seen: Evidence) -> Evidence:
        """The evidence less what was judged often enough."""
        stale_escalated = seen.escalated >= _JUDGED_AFTER * self._policy.min_escalated
        stale_audited = seen.audited >= _JUDGED_AFTER * self._policy.min_audited
        if not (stale_escalated or stale_audited):
            return seen
        return replace(
            seen,
            escalated=0 if stale_escalated else seen.escalated,
            overridden=0 if stale_escalated else seen.overridden,
            audited=0 if stale_audited else seen.audited,
            missed=0 if stale_audited else seen.missed,
            event_ids=(),
        )

    def _issue(
        self, state: DeviceState, seen: Evidence, levels: Levels, reason: str
    ) -> tuple[DeviceState, ThresholdUpdate]:
        update = ThresholdUpdate(
            target=seen.device_id,
            target_kind=TargetKind.DEVICE,
            version=max(state.version + 1, seen.at_us),
            model_name=seen.model_name,
            escalate_at=levels.escalate_at,
            raise_at=levels.raise_at,
            clear_at=levels.clear_at,
            issued_at=seen.at_us,
            expires_at=seen.at_us + self._policy.ttl_us,
            reason=reason,
            evidence=list(seen.event_ids),
            evidence_count=seen.escalated + seen.audited,
            override_rate=seen.overridden / seen.escalated if seen.escalated else None,
            missed_rate=seen.missed / seen.audited if seen.audited else None,
        )
        return replace(DeviceState.of_update(update), ceiling=state.ceiling), update


def _held(state: DeviceState, new: Evidence, manifest: Manifest) -> Levels | None:
    """Levels that the device obeys by what was issued; None where it is back at the defaults.

    That is so when nothing was issued, when it expired, and when it was issued for another model or does not fit into
    the bounds of the one that runs now: the device drops it by the same rules.
    """
    if state.levels is None or state.model_name != new.model_name or new.at_us >= state.expires_at_us:
        return None
    escalate_at, raise_at, clear_at = state.levels
    levels = Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at)
    return levels if within(manifest.bounds, levels) else None


def _unit(default: float, defaults: Levels, manifest: Manifest) -> float:
    """What a step is a share of; never 0, because a level whose default is 0 must be able to move, too."""
    largest = max(abs(defaults.escalate_at), abs(defaults.raise_at), abs(defaults.clear_at))
    return abs(default) or largest or manifest.bounds.high - manifest.bounds.low
