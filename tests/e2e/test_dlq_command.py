"""`tidegate dlq` on the real broker: what it counts, what it shows, and that a letter goes back once and only once."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from typing import Any

import pytest
from kafka import KafkaProducer

from deploy import records
from deploy.broker import Broker
from deploy.dlq.letters import Position, collect
from deploy.dlq.retry import Sender, judge
from schemas import topics
from schemas.codec import encode
from schemas.errors import UnavailableError
from schemas.records import Failure
from tests.command import tidegate
from tests.doubles import records as make
from tests.wait import until

pytestmark = pytest.mark.kafka

GOOD = [encode(make.event("pump-1", seq)) for seq in range(3)]


def letter(payload: bytes, *, source: str, reason: str = "DecodeError", **changes: Any) -> Failure:
    fields: dict[str, Any] = {
        "source": source,
        "partition": 2,
        "offset": 40,
        "key": b"pump-1",
        "payload": payload,
        "stage": "split",
        "reason": reason,
        "problem": "unknown schema fingerprint",
        "failed_at": 1_790_000_000_000_000,
    }
    return Failure(**fields | changes)


class Rig:
    def __init__(self, broker: Broker, prefix: str) -> None:
        self.servers, self.prefix = broker.bootstrap_servers, prefix
        self.dead = topics.DEAD_LETTERS.named(prefix)
        self.events = topics.EVENTS.named(prefix)

    def put(self, *values: bytes) -> None:
        producer = KafkaProducer(bootstrap_servers=self.servers)
        for value in values:
            producer.send(self.dead, value, key=b"k").get(10)
        producer.close()

    def dlq(self, *words: str) -> subprocess.CompletedProcess[str]:
        return tidegate("dlq", *words, "-b", self.servers, "--prefix", self.prefix, timeout_s=90)

    def read(self, topic: str) -> list[Any]:
        """Everything committed; fails when the reader does not find the end."""
        late = time.monotonic() + 20
        found = list(records.messages(self.servers, [topic], stop=lambda: time.monotonic() > late))
        assert time.monotonic() < late, "the reader did not find the end of the topic"
        return found


@pytest.fixture
def rig(broker: Broker, catalogue: str) -> Rig:
    return Rig(broker, catalogue)


def test_letters_are_listed_shown_and_sent_back_once(rig: Rig) -> None:
    rig.put(
        encode(letter(GOOD[0], source=rig.events)),
        encode(letter(GOOD[1][:-3], source=rig.events, problem="payload does not fit its schema")),
        encode(letter(b"", source=rig.events, reason="LostRecords", stage="source", key=None)),
        b"junk",
        encode(letter(encode(make.aggregate()), source=f"{rig.prefix}edge.aggregates", reason="LateData")),
    )
    listed = rig.dlq("list", "-o", "json")
    assert listed.returncode == 0, listed.stderr
    groups = {(g["source"], g["reason"]): (g["count"], g["retried"], g["newest"]) for g in json.loads(listed.stdout)}
    assert groups == {
        ("edge.events", "DecodeError"): (2, 0, "cloud.deadletter/0@1"),
        ("edge.events", "LostRecords"): (1, 0, "cloud.deadletter/0@2"),
        ("", "Unreadable"): (1, 0, "cloud.deadletter/0@3"),
        ("edge.aggregates", "LateData"): (1, 0, "cloud.deadletter/0@4"),
    }

    shown = rig.dlq("show", "0@1")
    assert shown.returncode == 0, shown.stderr
    assert "from      edge.events/2@40" in shown.stdout
    assert "device_id = 'pump-1'" in shown.stdout
    assert "stops     field values at byte" in shown.stdout
    assert "next      it cannot be sent again: it would be refused again: payload does not fit" in shown.stdout

    assert rig.dlq("retry").returncode == 78
    assert rig.dlq("retry", "0@77").returncode == 78
    tried = rig.dlq("retry", "--all", "--dry-run")
    assert "1 would be sent, 0 skipped, 4 cannot be sent again" in tried.stderr
    assert rig.read(rig.events) == []

    done = rig.dlq("retry", "--all", "-o", "json")
    assert done.returncode == 1, done.stderr
    results = [(row["letter"].rpartition("@")[2], row["result"]) for row in json.loads(done.stdout)]
    assert results == [("0", "sent"), ("1", "refused"), ("2", "refused"), ("3", "refused"), ("4", "refused")]
    whys = [row["why"] or "" for row in json.loads(done.stdout)]
    assert "there is no payload to send" in whys[2]
    assert "closed for good" in whys[4]

    once_more = rig.dlq("retry", "0@0")
    assert once_more.returncode == 0, once_more.stderr
    assert "0 sent, 1 skipped" in once_more.stderr
    (back,) = rig.read(rig.events)
    assert (back.partition, back.key, back.value) == (2, b"pump-1", GOOD[0])
    assert dict(back.headers)[topics.RETRY_HEADER] == b"cloud.deadletter/0@0"

    assert rig.dlq("retry", "0@0", "--again").returncode == 0
    assert [m.value for m in rig.read(rig.events)] == [GOOD[0]] * 2
    (decoded,) = (
        g
        for g in json.loads(rig.dlq("list", "-o", "json").stdout)
        if g["source"] == "edge.events" and g["reason"] == "DecodeError"
    )
    assert (decoded["count"], decoded["retried"]) == (2, 1)


def test_a_record_that_came_back_is_not_sent_again_unasked(rig: Rig) -> None:
    rig.put(encode(letter(GOOD[0], source=rig.events)))
    assert rig.dlq("retry", "0@0").returncode == 0
    rig.put(encode(letter(GOOD[0], source=rig.events, offset=41)))  # refused anew, as another letter
    (offset,) = (m.offset for m in rig.read(rig.dead) if m.value is not None and m.offset)
    came_back = rig.dlq("retry", f"0@{offset}")
    assert "the same record was sent again as cloud.deadletter/0@0 and came back" in came_back.stdout
    assert len(rig.read(rig.events)) == 1


def test_two_who_retry_at_once_send_a_letter_once(rig: Rig) -> None:
    rig.put(*(encode(letter(payload, source=rig.events)) for payload in GOOD))
    box = collect(rig.read(rig.dead), lambda _: True)
    letters = [v.letter for v in judge(box.letters, box, rig.prefix, 0) if v.sends]
    assert len(letters) == 3
    with Sender(rig.servers, rig.prefix) as slow:  # has decided, and is overtaken before it sends
        with Sender(rig.servers, rig.prefix) as quick:
            quick.send(letters)
        with pytest.raises(UnavailableError, match="could not be sent again"):
            slow.send(letters)
    assert [m.value for m in rig.read(rig.events)] == GOOD
    assert collect(rig.read(rig.dead)).retried == {Position(0, 0), Position(0, 1), Position(0, 2)}


def test_a_broker_that_dies_in_the_middle_leaves_each_letter_sent_once(broker: Broker, rig: Rig) -> None:
    payloads = [encode(make.event("pump-1", seq)) for seq in range(350)]
    rig.put(*(encode(letter(payload, source=rig.events)) for payload in payloads))
    box = collect(rig.read(rig.dead), lambda _: True)
    begun = threading.Event()

    def attempt() -> None:
        with Sender(rig.servers, rig.prefix) as sender:
            seen = collect(rig.read(rig.dead), lambda _: True)
            sender.send([v.letter for v in judge(seen.letters, seen, rig.prefix, 0) if v.sends], lambda _: begun.set())

    failed: list[UnavailableError] = []

    def first() -> None:
        try:
            attempt()
        except UnavailableError as error:
            failed.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    until(begun.is_set, "the first transaction")
    broker.kill()
    broker.start()
    thread.join(90)
    assert not thread.is_alive()
    attempt()
    sent = [m.value for m in rig.read(rig.events)]
    assert sorted(sent) == sorted(payloads)
    assert len(collect(rig.read(rig.dead)).retried) == len(box.letters) == 350
