"""A broker that takes nothing: the edge holds its sensors and its spool back, and its memory stays where it was."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from edge_filters.shell import ENOUGH_WAITING
from schemas import topics
from schemas.records import Health
from schemas.topics import CATALOGUE
from tests.doubles import recording
from tests.e2e.test_edge_process import Rig
from tests.wait import until

pytestmark = pytest.mark.kafka

#: What the process may grow by while it holds everything back: its clients' own buffers, and nothing by the record.
GROWTH_BYTES = 40 << 20


def waiting(rig: Rig) -> int:
    """Bytes in the spool."""
    return sum(path.stat().st_size for path in (rig.folder / "state").rglob("*") if path.is_file())


def test_a_broker_that_hangs_costs_disk_up_to_a_bound_and_no_memory(tmp_path: Path) -> None:
    """A broker of this test's own: it is stopped in the middle, for as long as it takes to fill up."""
    with Broker(tmp_path / "broker") as broker:
        with Cluster(broker.bootstrap_servers) as cluster:
            cluster.create(TopicState(t.named("p."), t.partitions, t.config) for t in CATALOGUE)
        rig = Rig(tmp_path, broker, "p.")
        recording.write(rig.folder / "r.avro", [5.0, 0.1] * 4 * 20_000, step_us=10_000, per_block=500)
        rig.configure('id = "p"\nsensor = { kind = "recorded", path = "r.avro", speed = "max" }')
        config = rig.folder / "edge.toml"  # what was on its way counts as lost sooner than by default
        config.write_text(config.read_text().replace("[model]", "request_timeout_ms = 5000\n[model]"))
        assert broker.process is not None
        server, process = broker.process, psutil.Process(rig.start().pid)
        try:
            until(lambda: rig.records(topics.EVENTS), "events")
            server.send_signal(signal.SIGSTOP)
            before = process.memory_info().rss
            sizes: list[int] = []

            def full() -> bool:
                """Whether the spool has stopped growing: it holds what is enough."""
                sizes.append(waiting(rig))
                return len(sizes) > 40 and sizes[-1] == sizes[-40] > 1 << 20

            until(full, "the sensor is held back", within_s=60)
            grown = process.memory_info().rss - before
            server.send_signal(signal.SIGCONT)
            assert rig.process is not None
            assert rig.process.wait(120) == 0, rig.said()
        finally:
            server.send_signal(signal.SIGCONT)
            if rig.process is not None and rig.process.poll() is None:
                rig.process.kill()
                rig.process.wait()
        assert grown < GROWTH_BYTES
        last = rig.statuses()[-1]
        assert last.health is Health.STOPPED
        assert last.counters["readings_sensed"] == 160_000
        assert last.counters["records_dropped"] == 0
        sent = rig.records(topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
        assert len({(type(r), r.identity) for r in sent}) == last.counters["records_acked"] > ENOUGH_WAITING
