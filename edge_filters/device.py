"""What the engine remembers about one device: its deciders, its counters, what was applied to it. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from edge_filters.aggregator import Aggregator
from edge_filters.decider import Decider
from edge_filters.thresholds import Thresholds
from edge_filters.updates import ModelUpdates
from edge_filters.windower import Windower
from schemas.records import LEDGER, Applied, DeviceStatus, FeedbackKind, Health, ModelUpdate, ThresholdUpdate
from schemas.scoring import Scorer

#: Feedback messages that a status tells about, the latest ones.
APPLIED_KEPT = 20


#: A `max_gap` that no gap is longer than. How long a pause a model may look across depends on the signal, not on us.
NO_GAP_US = 2**62


@dataclass(frozen=True, slots=True)
class Rules:
    """How devices are filtered: the numbers of the configuration, in microseconds."""

    max_gap_us: int = NO_GAP_US
    max_wait_us: int | None = None
    aggregate_us: int = 1_000_000
    audit_rate: float = 0.0


class Slot:
    """One package in use, with the devices that run it; a model update moves all of them in one step."""

    def __init__(self, scorer: Scorer, cohort: str, updates: ModelUpdates) -> None:
        self.scorer = scorer
        self.cohort = cohort
        self.updates = updates
        self.devices: list[Device] = []
        self._take_over(scorer)

    def _take_over(self, scorer: Scorer) -> None:
        manifest = scorer.manifest
        self.scorer = scorer
        self.sha256 = scorer.package.sha256
        self.name, self.version = manifest.name, manifest.version
        self.window_readings = manifest.window_readings
        # features exist for any number of readings, but a spread needs two; a raw window has one
        # length, and so has every window of a model that carries state from one to the next
        short = scorer.half.feed == "features" and not scorer.carries
        self.fewest_readings = 2 if short else manifest.window_readings
        self.fewest_readings = min(self.fewest_readings, manifest.window_readings)

    def swap(self, scorer: Scorer, now_us: int) -> None:
        """Another version moves in, for every device of this slot."""
        self._take_over(scorer)
        self.updates.installed(scorer.package)
        for device in self.devices:
            device.windower.window_readings = self.window_readings
            device.thresholds.adopt(scorer.manifest, now_us)


class Device:
    """State of one device. `seq` counts its windows, `aggregate_seq` and `status_seq` their records."""

    def __init__(self, device_id: str, cohort: str, boot_epoch: int, slot: Slot, rules: Rules) -> None:
        manifest = slot.scorer.manifest
        self.device_id = device_id
        self.cohort = cohort
        self.boot_epoch = boot_epoch
        self.slot = slot
        self.channels = list(manifest.channels)
        self.windower = Windower(manifest.window_readings, rules.max_gap_us)
        self.aggregator = Aggregator(len(self.channels), rules.aggregate_us)
        self.decider = Decider()
        self.thresholds = Thresholds(device_id, cohort, manifest)
        self.seq = self.aggregate_seq = self.status_seq = 0
        self.counters = dict.fromkeys(LEDGER, 0)
        self.applied: deque[Applied] = deque(maxlen=APPLIED_KEPT)
        self.problem = ""
        self.said_invalid = self.said_unscored = self.queued = False
        self.news = True  # something to report before the next heartbeat
        slot.devices.append(self)

    def note(self, kind: FeedbackKind, update: ThresholdUpdate | ModelUpdate, reason: str, now_us: int) -> None:
        """Remember what became of a feedback message; an empty reason: it was accepted."""
        self.applied.append(
            Applied(
                kind=kind,
                version=update.version,
                accepted=not reason,
                reason=reason[:500],
                issued_at=update.issued_at,
                applied_at=now_us,
            )
        )
        self.counters["feedback_refused" if reason else "feedback_accepted"] += 1
        self.news = True

    def status(
        self, health: Health, now_us: int, spool_records: int = 0, spool_bytes: int = 0, problem: str = ""
    ) -> DeviceStatus:
        """The reported state. Whoever is OK but for a problem, its own or the process's, is DEGRADED."""
        problem = self.problem or problem
        in_force = self.thresholds.at(now_us)
        seq, self.status_seq = self.status_seq, self.status_seq + 1
        self.news = False
        return DeviceStatus(
            device_id=self.device_id,
            boot_epoch=self.boot_epoch,
            seq=seq,
            cohort=self.cohort,
            at=now_us,
            health=Health.DEGRADED if problem and health is Health.OK else health,
            problem=problem[:1000] or None,
            model_name=self.slot.name,
            model_version=self.slot.version,
            model_sha256=self.slot.sha256,
            thresholds_version=in_force.version,
            thresholds_source=in_force.source,
            escalate_at=in_force.levels.escalate_at,
            raise_at=in_force.levels.raise_at,
            clear_at=in_force.levels.clear_at,
            counters=dict(self.counters),
            spool_records=spool_records,
            spool_bytes=spool_bytes,
            applied=list(self.applied),
        )
