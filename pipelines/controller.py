"""The threshold controller: from how often edge and heavy model disagree to the thresholds an edge shall obey. Pure.

Escalating costs bytes and cloud time, answering alone costs missed anomalies. Both errors are measured per device:
- escalated windows that the heavy model calls normal: the override rate. Too high: escalate less;
- audited windows (a random sample of those NOT escalated) that it calls anomalous: the missed rate. Too high:
  escalate more. Without the audit the loop would only ever see what it had already chosen to look at.

Against oscillation: a dead band between the two limits, a step bounded to a share of the default level, a minimum of
evidence per step, and only evidence made under the thresholds that were issued last. Against staleness: every update
expires, and is renewed while the evidence still supports it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from schemas.errors import ConfigError, DecodeError
from schemas.manifest import Levels, Manifest
from schemas.records import DecidedBy, Decision, Outcome, TargetKind, ThresholdUpdate

MAX_EVIDENCE_IDS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerPolicy:
    """Limits of the controller.

    Attributes:
        min_escalated: escalated windows needed before the override rate counts.
        min_audited: audited windows needed before the missed rate counts.
        override_high: above this override rate the device escalates too much.
        missed_high: above this missed rate the device escalates too little; it wins over override_high.
        step: largest change of a level per update, as a share of its default.
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

    def merge(self, other: Evidence) -> Evidence:
        """Evidence of both. Only defined for one device under one version of thresholds."""
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
            return cls(**(raw | {"event_ids": tuple(raw["event_ids"])}))
        except (ValueError, TypeError, KeyError) as cause:
            raise DecodeError("not evidence of the controller") from cause


def of_decision(decision: Decision) -> Evidence | None:
    """Evidence of one escalated window; None where the heavy model did not answer."""
    if decision.decided_by is not DecidedBy.HEAVY:
        return None
    return Evidence(
        device_id=decision.device_id,
        model_name=decision.model_name,
        thresholds_version=decision.thresholds_version,
        at_us=decision.decided_at,
        escalated=1,
        overridden=int(decision.outcome is Outcome.NORMAL),
        event_ids=(decision.identity.event_id,),
    )


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
class DeviceState:
    """What the controller remembers of one device. `version` 0: nothing was issued, the package's defaults hold."""

    version: int = 0
    model_name: str = ""
    levels: tuple[float, float, float] | None = None
    issued_at_us: int = 0
    expires_at_us: int = 0
    gathered: Evidence | None = field(default=None)

    def to_bytes(self) -> bytes:
        """JSON, for Beam's state."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> DeviceState:
        """Inverse of to_bytes. Raises DecodeError."""
        try:
            raw = json.loads(data)
            gathered = raw.pop("gathered")
            levels = raw.pop("levels")
            return cls(
                **raw,
                levels=tuple(levels) if levels else None,
                gathered=Evidence.from_bytes(json.dumps(gathered).encode()) if gathered else None,
            )
        except (ValueError, TypeError, KeyError) as cause:
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
        if state.model_name != new.model_name:
            state = DeviceState(version=state.version, model_name=new.model_name)
        expired = bool(state.version) and new.at_us >= state.expires_at_us
        in_force = 0 if expired else state.version
        if new.thresholds_version != in_force and not (state.levels is None and new.thresholds_version == 0):
            return state, None  # made under other thresholds than those that hold now: it says nothing about them
        old = state.gathered
        gathered = new if old is None or old.thresholds_version != new.thresholds_version else old.merge(new)
        state = replace(state, gathered=gathered)
        defaults = manifest.levels_of(new.device_id)
        current = defaults if expired or state.levels is None else _levels(state.levels)
        direction, reason = self._judge(gathered)
        age_us = new.at_us - state.issued_at_us
        renew = bool(in_force) and not direction and gathered.escalated + gathered.audited >= self._policy.min_audited
        if not direction and not (renew and age_us > self._policy.ttl_us // 2):
            return state, None
        target = self._moved(current, defaults, manifest, direction)
        if direction and target == current:
            return replace(state, gathered=None), None  # at the edge of the safe envelope already
        return self._issue(state, gathered, target, reason or "the evidence still supports these thresholds")

    def _judge(self, seen: Evidence) -> tuple[int, str]:
        """+1 escalate less, -1 escalate more, 0 stay; and why."""
        p = self._policy
        if seen.audited >= p.min_audited and seen.missed > p.missed_high * seen.audited:
            return -1, f"the heavy model calls {seen.missed} of {seen.audited} audited windows anomalous"
        if seen.escalated >= p.min_escalated and seen.overridden > p.override_high * seen.escalated:
            return +1, f"the heavy model calls {seen.overridden} of {seen.escalated} escalated windows normal"
        return 0, ""

    def _moved(self, current: Levels, defaults: Levels, manifest: Manifest, direction: int) -> Levels:
        bounds = manifest.bounds
        by = direction * self._policy.step

        def clip(value: float) -> float:
            return min(max(value, bounds.low), bounds.high)

        escalate_at = clip(current.escalate_at + by * abs(defaults.escalate_at))
        raise_at = max(escalate_at, clip(current.raise_at + by * abs(defaults.raise_at)))
        clear_at = min(escalate_at, current.clear_at + by * abs(defaults.clear_at))
        return Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at)

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
        return DeviceState.of_update(update), update


def _levels(values: tuple[float, float, float]) -> Levels:
    escalate_at, raise_at, clear_at = values
    return Levels(escalate_at=escalate_at, raise_at=raise_at, clear_at=clear_at)
