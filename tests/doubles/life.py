"""One life of a device, with everything it would send, report and have decided."""

from __future__ import annotations

from typing import Any

from deploy.ledger.book import LANES, Book, Place
from pipelines.decide import by_edge
from schemas import topics
from schemas.ids import Identity, chosen_for_audit
from schemas.records import LEDGER, DeviceStatus, Health, ThresholdsSource
from tests.doubles import records as make

EVENTS, AGGREGATES, SAMPLES = LANES
SECOND = 1_000_000
RATE = 0.1


class Run:
    """What one life of a device makes: 100 windows of 250 ms; every third is an event, some of the rest are samples."""

    def __init__(self, windows: int = 100, epoch: int = 1, device: str = "pump-1") -> None:
        self.device, self.epoch, self.windows = device, epoch, windows
        self.events = {
            n: make.event(device, n, boot_epoch=epoch, sensed_from=self.at(n) - 9, sensed_to=self.at(n))
            for n in range(0, windows, 3)
        }
        self.samples = {
            n: make.audit(device, n, boot_epoch=epoch, sampled_at_rate=RATE)
            for n in range(windows)
            if n % 3 and chosen_for_audit(Identity(device, epoch, n).event_id, RATE)
        }
        self.aggregates = {
            s: make.aggregate(
                device,
                s,
                s * SECOND,
                boot_epoch=epoch,
                windows_escalated=sum(event.sensed_to // SECOND == s for event in self.events.values()),
            )
            for s in range(windows // 4)
        }
        self.decided = dict.fromkeys(self.events, 1)

    def at(self, window: int) -> int:
        return window * SECOND // 4 + 10

    def report(self, **changes: Any) -> DeviceStatus:
        sent = len(self.events) + len(self.samples) + len(self.aggregates)
        counters = dict.fromkeys(LEDGER, 0) | {
            "readings_sensed": 4 * len(self.aggregates),
            "readings_aggregated": 4 * len(self.aggregates),
            "windows_scored": self.windows,
            "windows_answered": self.windows - len(self.events),
            "windows_escalated": len(self.events),
            "windows_sampled": len(self.samples),
            "records_enqueued": sent,
            "records_acked": sent,
        }
        spool_records = changes.pop("spool_records", 0)
        return DeviceStatus(
            device_id=self.device,
            boot_epoch=self.epoch,
            seq=9,
            cohort="pumps",
            at=1,
            health=changes.pop("health", Health.STOPPED),
            problem=None,
            model_name="tiny",
            model_version=1,
            model_sha256=b"m" * 32,
            thresholds_version=0,
            thresholds_source=ThresholdsSource.DEFAULT,
            escalate_at=1.0,
            raise_at=2.0,
            clear_at=0.5,
            counters=counters | changes,
            spool_records=spool_records,
            spool_bytes=0,
        )

    def into(self, book: Book, report: DeviceStatus | None) -> None:
        if report is not None:
            book.take(Place(topics.STATUS.name, 0, 0, 0), report)
        for lane, records in ((EVENTS, self.events), (AGGREGATES, self.aggregates), (SAMPLES, self.samples)):
            for offset, record in enumerate(records.values()):
                book.take(Place(lane, 0, offset, 1000), record)
        for seq, count in self.decided.items():
            for _ in range(count):
                event = make.event(self.device, seq, boot_epoch=self.epoch)
                book.take(Place(topics.DECISIONS.name, 0, 0, 2000), by_edge(event, "test", 5))
