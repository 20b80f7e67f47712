from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_filters.blocks import Block
from edge_filters.device import Rules
from edge_filters.io.spool import FileSpool
from edge_filters.io.state import FileStore
from edge_filters.ports import Delivery, Feedback, Report
from edge_filters.shell import Limits, Shell
from schemas import topics
from schemas.artifacts import cut
from schemas.codec import decode
from schemas.errors import DecodeError
from schemas.records import DeviceStatus, EdgeEvent, Health
from tests.doubles.edge_parts import MemoryOutbox, block, engine, model_update, thresholds


class ScriptedSensor:
    """Gives the blocks of a list, one after the other; an exception in it is raised."""

    def __init__(self, script: Sequence[Any], can_wait: bool = True, every_s: float = 0.0) -> None:
        self.channels = ("a", "b")
        self.can_wait = can_wait
        self._script, self._every_s, self._due_s = list(script), every_s, 0.0
        self.closed = False

    def start(self, monotonic_s: float, wall_us: int) -> None:
        self._due_s = monotonic_s

    def due_s(self) -> float | None:
        return self._due_s if self._script else None

    def read(self) -> Block | None:
        self._due_s += self._every_s
        item = self._script.pop(0)
        if isinstance(item, Exception):
            raise item
        return item  # type: ignore[no-any-return]

    def close(self) -> None:
        self.closed = True


class ScriptedInbox:
    """Gives out what the test put in."""

    ready = True
    problem = ""
    hears_claims = True

    def __init__(self) -> None:
        self.items: list[Feedback | str] = []
        self.chunks: dict[bytes, list[Feedback]] = {}
        self.wanted: list[Collection[bytes]] = []

    def poll(self) -> list[Feedback | str]:
        out, self.items = self.items, []
        return out

    def want(self, files: Collection[bytes]) -> None:
        for file in files:
            self.items += self.chunks.pop(file, [])
        self.wanted.append(files)

    def close(self) -> None:
        pass


class Rig:
    """A shell with everything in memory but the spool."""

    def __init__(self, folder: Path, sensors: dict[str, ScriptedSensor], **limits: Any) -> None:
        self.outbox, self.inbox = MemoryOutbox(), ScriptedInbox()
        self.store = FileStore(folder / "state")
        self.spool = FileSpool(folder / "spool", max_bytes=1 << 20, fsync="never")
        self.engine = engine(*sensors, rules=Rules(aggregate_us=10_000_000))
        self.sensors = sensors
        self.shell = Shell(
            self.engine,
            dict(sensors),
            self.spool,
            self.outbox,
            self.inbox,
            self.store,
            Limits(**{"drain_s": 0.2, "status_every_s": 0.05} | limits),
        )

    def run(self, stop: threading.Event | None = None) -> None:
        self.shell.run(stop or threading.Event())

    def sent(self, topic: topics.Topic, record: type[Any]) -> list[Any]:
        return [decode(parcel.payload, record) for parcel in self.outbox.sent if parcel.topic == topic.name]

    @property
    def statuses(self) -> list[DeviceStatus]:
        return self.sent(topics.STATUS, DeviceStatus)


@pytest.fixture(autouse=True)
def _hear_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_filters")


def test_it_runs_until_the_sensors_end_sends_everything_and_says_good_bye(tmp_path: Path) -> None:
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 4), block([5.0] * 3)])})
    rig.run()
    assert len(rig.sent(topics.EVENTS, EdgeEvent)) == 2  # the second one short, from the flush
    last = rig.statuses[-1]
    assert last.health is Health.STOPPED
    counters = last.counters
    assert counters["records_enqueued"] == counters["records_acked"] == 3
    assert counters["readings_sensed"] == counters["readings_aggregated"] == 7
    assert (last.spool_records, last.spool_bytes) == (0, 0)
    assert rig.sensors["pump-7"].closed
    assert rig.outbox.closed


def test_a_sensor_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage = DecodeError("the file ends inside of a block", offset=7)
    rig = Rig(
        tmp_path,
        {
            "pump-7": ScriptedSensor([block([5.0] * 4), damage, block([5.0] * 4)]),
            "pump-8": ScriptedSensor([RuntimeError("cable")]),
            "pump-9": ScriptedSensor([block([5.0] * 4, "pump-9")] * 3, every_s=0.1),
        },
    )
    rig.run()
    assert [e.device_id for e in rig.sent(topics.EVENTS, EdgeEvent)].count("pump-9") == 3
    assert "pump-7: the file ends inside of a block (offset=7); this device is silent" in caplog.text
    assert "pump-8: the sensor failed: RuntimeError: cable; this device is silent" in caplog.text
    assert damage in rig.shell.failures
    assert len(rig.shell.failures) == 2
    degraded = {s.device_id: s.problem for s in rig.statuses if s.health is Health.DEGRADED}
    assert degraded == {
        "pump-7": "the file ends inside of a block (offset=7)",
        "pump-8": "the sensor failed: RuntimeError: cable",
    }


class Sloppy(ScriptedSensor):
    """A sensor of somebody else: lists instead of arrays, or nothing works."""

    def start(self, monotonic_s: float, wall_us: int) -> None:
        super().start(monotonic_s, wall_us)
        if not self._script:
            raise OSError("no such port")


def test_sensors_of_others_may_be_sloppy_or_fail_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = block([5.0] * 4, "somebody else")
    doubles = Block("x", wide.times.astype(np.uint64), wide.values.astype(np.float64))  # type: ignore[arg-type]
    rig = Rig(tmp_path, {"pump-7": Sloppy([wide, doubles]), "pump-8": Sloppy([]), "pump-9": Sloppy([object()])})
    rig.run()
    assert [(e.device_id, e.seq) for e in rig.sent(topics.EVENTS, EdgeEvent)] == [("pump-7", 0), ("pump-7", 1)]
    assert "pump-8: the sensor failed: OSError: no such port" in caplog.text
    assert "pump-9: the sensor failed: AttributeError" in caplog.text


def test_feedback_that_cannot_be_heard_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([0.0] * 4)] * 5, every_s=0.06)})
    rig.inbox.problem = "the broker has no topic feedback.models"
    rig.run()
    said = [r.getMessage() for r in caplog.records]
    assert said.count("the broker has no topic feedback.models; the thresholds and models in force stay") == 1


def test_while_the_broker_is_away_it_decides_spools_says_one_sentence_and_keeps_it_for_the_next_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_filters.shell.AWAY_S", 0.05)
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 4)] * 10, every_s=0.05)})
    rig.outbox.ready, rig.outbox.problem = False, "cannot use the broker at here: nobody there"
    rig.run()
    assert rig.engine.devices["pump-7"].counters["windows_escalated"] == 10
    assert rig.outbox.sent == []
    said = [r.getMessage() for r in caplog.records]
    assert (
        said.count("cannot use the broker at here: nobody there; deciding goes on, and records wait in the spool") == 1
    )
    assert said[-1] == "11 records wait in the spool; they are sent after the next start"
    again = FileSpool(tmp_path / "spool", max_bytes=1 << 20, fsync="never")
    assert again.waiting_records == 11
    again.close()


def test_a_spool_that_overflows_is_said_once_in_a_while_and_counted_per_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 40_000)] * 8, can_wait=False, every_s=0.06)})
    rig.engine.slots[0].window_readings = rig.engine.devices["pump-7"].windower.window_readings = 40_000
    rig.outbox.ready = False
    rig.run()
    counters = rig.engine.devices["pump-7"].counters
    assert counters["records_dropped"] > 1
    waiting = FileSpool(tmp_path / "spool", max_bytes=1 << 20, fsync="never")
    assert counters["records_enqueued"] == counters["records_dropped"] + waiting.waiting_records
    waiting.close()
    said = [r.getMessage() for r in caplog.records if "the spool is full" in r.getMessage()]
    assert len(said) == 2  # when it began, and how many more at the end
    assert said[0].endswith("dropped, bulk before urgent; raise spool.max_bytes, or bring the broker back")


def test_when_the_broker_comes_back_it_says_so_and_catches_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_filters.shell.AWAY_S", 0.05)
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 4)] * 10, every_s=0.05)}, drain_s=5.0)
    rig.outbox.ready, rig.outbox.problem = False, "away"
    turns = iter(range(1000))
    tick = rig.shell._tick

    def ticking(now: float) -> None:
        if next(turns) == 5:
            rig.outbox.ready, rig.outbox.problem = True, ""
        tick(now)

    monkeypatch.setattr(rig.shell, "_tick", ticking)
    rig.run()
    assert [e.seq for e in rig.sent(topics.EVENTS, EdgeEvent)] == list(range(10))
    assert any(r.getMessage().startswith("the broker is back; ") for r in caplog.records)


def test_a_sensor_that_can_wait_is_left_waiting_while_the_spool_is_filling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_filters.shell.ENOUGH_WAITING", 5)
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 4)] * 50)}, max_blocks=1, drain_s=5.0)
    rig.outbox.answer = Report(Delivery.PENDING)
    waiting: list[int] = []
    tick = rig.shell._tick

    def ticking(now: float) -> None:
        waiting.append(rig.spool.waiting_records)
        if len(waiting) > 4:
            rig.outbox.answer = Report(Delivery.DELIVERED)
            rig.outbox.settle()
        tick(now)

    monkeypatch.setattr(rig.shell, "_tick", ticking)
    rig.run()
    assert max(waiting[:5]) <= 7
    assert len(rig.sent(topics.EVENTS, EdgeEvent)) == 50


def test_stop_ends_it_in_the_middle_and_closes_what_is_open(tmp_path: Path) -> None:
    stop = threading.Event()
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([5.0] * 3)] * 1000, every_s=0.01)})
    thread = threading.Timer(0.3, stop.set)
    thread.start()
    rig.run(stop)
    counters = rig.statuses[-1].counters
    assert 0 < counters["readings_sensed"] < 3000
    assert counters["readings_sensed"] == counters["readings_aggregated"]
    assert counters["records_enqueued"] == counters["records_acked"]


def test_thresholds_are_applied_reported_at_once_and_kept_over_a_restart(tmp_path: Path) -> None:
    now = time.time_ns() // 1000
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([3.5] * 4)] * 10, every_s=0.05)}, status_every_s=60.0)
    rig.inbox.items = [thresholds(issued_at=now, expires_at=now + 10**9)]
    rig.run()
    applied = [status for status in rig.statuses if status.applied]
    assert applied[0].health is not Health.STOPPED
    assert (applied[0].thresholds_version, applied[0].raise_at) == (1, 5.0)
    assert rig.store.load("thresholds:DEVICE:pump-7") is not None


def test_a_model_update_is_fetched_built_installed_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = time.time_ns() // 1000
    update, data = model_update(2, gain=10.0, issued_at=now, expires_at=now + 10**9)
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([1.5] * 4)] * 20, every_s=0.05)})
    rig.inbox.items = [update]
    rig.inbox.chunks = {cut(data)[0].sha256: list(cut(data))}
    rig.run()
    versions = [event.model_version for event in rig.sent(topics.EVENTS, EdgeEvent)]
    assert set(versions) == {2}
    assert 0 < len(versions) < 20  # version 1 answered its windows here
    assert "model tiny: version 1 -> 2 on 1 device(s)" in caplog.text
    assert rig.store.load("model:tiny:pumps:manifest") == update.manifest
    assert rig.statuses[-1].model_version == 2


def test_a_feedback_record_that_cannot_be_read_is_said_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path, {"pump-7": ScriptedSensor([block([0.0] * 4)])})
    rig.inbox.items = ["a record of feedback.thresholds at offset 3 cannot be read and is passed over: no"]
    rig.run()
    assert "a record of feedback.thresholds at offset 3 cannot be read" in caplog.text
    assert rig.statuses[-1].counters["feedback_refused"] == 1
