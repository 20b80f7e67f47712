"""What went wrong, from the oracle's account and what lies in the topics. Pure; a port of Jepsen's queue checks.

LOST     acknowledged by the edge, or in the topic of events, and without an answer
DUP      one event decided twice, or one window under two identities
CORRUPT  a record differs from what was sensed, or is none; a fleet window differs from its sum
GHOST    a decision or event that nobody sensed
TORN     the pipeline's position is behind an event that has no answer: a transaction seen in part
ORDER    records of one device that are not in the order of their identities
UNEXPLAINED  of the lost ones, those that no gap marker names
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.source import READINGS, Block, Key, block
from tests.faults.wire import Message, decoded

KINDS = ("lost", "doubled", "corrupt", "ghost", "torn", "disorder", "unexplained")
#: Sentences kept per kind; all are counted.
_EXAMPLES = 5

Identity = tuple[str, int, int]


@dataclass(slots=True)
class Account:
    """What the oracle gave, by device and event time, and which of it was acknowledged, by device and number.

    A block that was given just before a kill stays unacknowledged for ever, also when later ones are acknowledged.
    """

    given: dict[Key, Block] = field(default_factory=dict)
    acked: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def of(cls, lines: Iterable[str], seed: int) -> Account:
        """From the lines of the oracle's file."""
        found = cls()
        for line in lines:
            said: dict[str, Any] = json.loads(line)
            if "given" in said:
                made = block(seed, said["given"], said["number"])
                found.given[Key(made.device, said["first"])] = made
            elif "acked" in said:
                found.acked.add((said["acked"], said["number"]))
        return found

    @property
    def owed(self) -> set[Key]:
        """What must have become an event: acknowledged, and loud."""
        return {
            key for key, made in self.given.items() if made.must_escalate and (made.device, made.number) in self.acked
        }


@dataclass(slots=True)
class Seen:
    """What lies in the topics at the end. Without a pipeline `decisions` is None and events are the answers."""

    events: Sequence[Message]
    decisions: Sequence[Message] | None = None
    letters: Sequence[Message] = ()
    aggregates: Sequence[Message] = ()
    fleet: Sequence[Message] | None = None
    positions: Mapping[int, int] = field(default_factory=dict)
    #: Gap markers: what the product itself says that it gave up.
    gaps: Sequence[Message] = ()


@dataclass(slots=True)
class Verdict:
    """How often each kind occurred, a few examples, and what is worth knowing beside."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    given: int = 0
    owed: int = 0
    answered: int = 0
    resent: int = 0

    def add(self, kind: str, sentence: str) -> None:
        """One more of a kind."""
        self.counts[kind] += 1
        if self.counts[kind] <= _EXAMPLES:
            self.examples.setdefault(kind, []).append(sentence)

    @property
    def red(self) -> bool:
        """Whether anything at all is wrong."""
        return any(self.counts[kind] for kind in KINDS)

    def __str__(self) -> str:
        wrong = [
            f"{self.counts[kind]} {kind} ({'; '.join(self.examples[kind])})" for kind in KINDS if self.counts[kind]
        ]
        return "; ".join(wrong) or f"{self.answered} answers, nothing wrong"


def check(account: Account, seen: Seen) -> Verdict:
    """Compare."""
    verdict = Verdict(given=len(account.given), owed=len(account.owed))
    events = _check_events(account, seen.events, verdict)
    answered = {key for key, _ in events.values()}
    if seen.decisions is not None:
        letters = _letters(seen.letters, "edge.events", verdict)
        decided = _check_decisions(account, seen.decisions, events, verdict)
        answered = decided | {key for key, place in events.values() if place in letters}
        for identity, (key, (partition, offset)) in events.items():
            if key in answered:
                continue
            if key not in account.owed:
                verdict.add("lost", f"{identity} is in the topic and has no answer")
            if offset < seen.positions.get(partition, 0):
                verdict.add("torn", f"{identity}: the position {partition}:{seen.positions[partition]} is behind it")
    for key in sorted(account.owed - answered):
        made = account.given[key]
        verdict.add("lost", f"{made.device} block {made.number} at {key.sensed_from}")
    verdict.answered = len(answered)
    if seen.fleet is not None:
        refused = _letters(seen.letters, "edge.aggregates", verdict)
        taken = [message for message in seen.aggregates if (message.partition, message.offset) not in refused]
        _check_fleet(taken, seen.fleet, verdict)
    named = _named(seen.gaps, verdict) - events.keys()
    for _ in range(verdict.counts["lost"] - len(named)):
        verdict.add("unexplained", "a lost record that no gap marker speaks of")
    return verdict


def _identity(fields: Mapping[str, Any]) -> Identity:
    return fields["device_id"], fields["boot_epoch"], fields["seq"]


def _check_events(
    account: Account, messages: Sequence[Message], verdict: Verdict
) -> dict[Identity, tuple[Key, tuple[int, int]]]:
    """Block and first place of every event by identity."""
    found: dict[Identity, tuple[Key, tuple[int, int]]] = {}
    bytes_of: dict[Identity, bytes] = {}
    owner: dict[Key, Identity] = {}
    newest: dict[str, Identity] = {}
    for message, fields, why in decoded(messages):
        if fields is None or fields[""] != "EdgeEvent":
            verdict.add("corrupt", f"events {message.partition}:{message.offset} is no event: {why}")
            continue
        identity, key = _identity(fields), Key(fields["device_id"], fields["sensed_from"])
        if identity in found:
            verdict.resent += 1
            if bytes_of[identity] != message.value:
                verdict.add("corrupt", f"{identity} stands for two different records")
            continue
        made = account.given.get(key)
        if made is None:
            verdict.add("ghost", f"event {identity} at {key.sensed_from}: nobody sensed it")
            continue
        if fields["values"] != made.values or fields["score"] != made.mean or message.key.decode() != made.device:
            verdict.add("corrupt", f"event {identity} is not what was sensed: score {fields['score']}, {made.mean} due")
        if owner.setdefault(key, identity) != identity:
            verdict.add("doubled", f"block {made.number} of {made.device} is {owner[key]} and {identity}")
        if identity <= newest.get(made.device, identity) and made.device in newest:
            verdict.add("disorder", f"event {identity} behind {newest[made.device]}")
        newest[made.device] = identity
        found[identity], bytes_of[identity] = (key, (message.partition, message.offset)), message.value
    return found


def _check_decisions(
    account: Account,
    messages: Sequence[Message],
    events: Mapping[Identity, tuple[Key, tuple[int, int]]],
    verdict: Verdict,
) -> set[Key]:
    """Blocks that have a decision."""
    done: dict[Identity, int] = {}
    keys: set[Key] = set()
    newest: dict[str, Identity] = {}
    for message, fields, why in decoded(messages):
        if fields is None or fields[""] != "Decision":
            verdict.add("corrupt", f"decisions {message.partition}:{message.offset} is no decision: {why}")
            continue
        identity, key = _identity(fields), Key(fields["device_id"], fields["sensed_from"])
        made, event = account.given.get(key), events.get(identity)
        if made is None or event is None:
            verdict.add("ghost", f"decision of {identity} at {key.sensed_from}: there is no such event")
            continue
        if identity in done:
            verdict.add("doubled", f"{identity} is decided at {done[identity]} and {message.offset}")
            continue
        done[identity] = message.offset
        if event[0] != key or fields["edge_score"] != made.mean:
            verdict.add("corrupt", f"the decision of {identity} is about something else")
        if fields["decided_by"] == "HEAVY" and fields["outcome"] != made.outcome:
            verdict.add("corrupt", f"{identity} is {fields['outcome']}; {made.outcome} is right")
        if made.device in newest and identity < newest[made.device]:
            verdict.add("disorder", f"the decision of {identity} behind that of {newest[made.device]}")
        newest[made.device] = max(identity, newest.get(made.device, identity))
        keys.add(key)
    return keys


def _named(messages: Sequence[Message], verdict: Verdict) -> set[Identity]:
    """Events that gap markers name."""
    found: set[Identity] = set()
    for message, fields, why in decoded(messages):
        if fields is None or fields[""] != "GapMarker":
            verdict.add("corrupt", f"gap markers {message.partition}:{message.offset} is none: {why}")
        elif fields["lane"] == "edge.events":
            for first, last in zip(fields["firsts"], fields["lasts"], strict=True):
                found |= {(fields["device_id"], fields["boot_epoch"], seq) for seq in range(first, last + 1)}
    return found


def _letters(messages: Sequence[Message], topic: str, verdict: Verdict) -> set[tuple[int, int]]:
    """Places in a topic for which there is a dead letter."""
    found: set[tuple[int, int]] = set()
    for message, fields, why in decoded(messages):
        if fields is None:
            verdict.add("corrupt", f"dead letters {message.partition}:{message.offset}: {why}")
        elif fields[""] == "Failure" and fields["source"].endswith(topic):
            place = fields["partition"], fields["offset"]
            if place in found:
                verdict.add("doubled", f"two dead letters for {topic} {place}")
            found.add(place)
    return found


@dataclass(slots=True)
class _Sum:
    readings: int = 0
    invalid: int = 0
    scored: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    total: tuple[float, ...] = ()


def _check_fleet(aggregates: Sequence[Message], fleet: Sequence[Message], verdict: Verdict) -> None:
    """Fleet windows against sums of the devices' aggregates, made here once more."""
    sums: dict[tuple[str, int], _Sum] = defaultdict(_Sum)
    once: set[Identity] = set()
    for message, fields, why in decoded(aggregates):
        if fields is None or fields[""] != "EdgeAggregate":
            verdict.add("corrupt", f"aggregates {message.partition}:{message.offset} is no aggregate: {why}")
            continue
        if _identity(fields) in once:
            verdict.resent += 1
            continue
        once.add(_identity(fields))
        at = sums[fields["cohort"], fields["window_start"]]
        wide = len(fields["channels"])
        low, high = (struct.unpack(f"<{wide}f", fields[name]) for name in ("min", "max"))
        mean = struct.unpack(f"<{wide}d", fields["mean"])
        at.low = tuple(map(min, at.low or low, low))
        at.high = tuple(map(max, at.high or high, high))
        at.total = tuple(a + b * fields["readings"] for a, b in zip(at.total or (0.0,) * wide, mean, strict=True))
        at.readings += fields["readings"]
        at.invalid += fields["invalid"]
        at.scored += fields["windows_scored"]
    newest: dict[tuple[str, int], dict[str, Any]] = {}
    for message, fields, why in decoded(fleet):
        if fields is None or fields[""] != "FleetWindow":
            verdict.add("corrupt", f"fleet {message.partition}:{message.offset} is no window: {why}")
            continue
        window = fields["cohort"], fields["window_start"]
        if window not in newest or fields["revision"] >= newest[window]["revision"]:
            newest[window] = fields
    for window, at in sums.items():
        given = newest.pop(window, None)
        if given is None:
            verdict.add("lost", f"the fleet window {window}")
            continue
        right = (at.readings, at.invalid, at.scored, list(at.low), list(at.high))
        told = tuple(given[name] for name in ("readings", "invalid", "windows_scored", "min", "max"))
        means = [total / at.readings for total in at.total]
        if told != right or not all(
            math.isclose(a, b, rel_tol=1e-9) for a, b in zip(means, given["mean"], strict=True)
        ):
            verdict.add("corrupt", f"the fleet window {window} says {told[:3]}, and its devices {right[:3]}")
    for window in newest:
        verdict.add("ghost", f"the fleet window {window}: no device has one")


def readings_of(aggregates: Sequence[Message]) -> int:
    """Readings in all aggregates, each counted once."""
    once = {_identity(f): f["readings"] for _, f, _ in decoded(aggregates) if f is not None}
    return sum(once.values())


def readings_given(account: Account) -> int:
    """Readings that the oracle gave and that were acknowledged."""
    return sum(READINGS for made in account.given.values() if (made.device, made.number) in account.acked)
