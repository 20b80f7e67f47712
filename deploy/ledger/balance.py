"""The book balanced: what each device says it made against what is there, and every difference by name. Pure.

Three witnesses of what is missing, none of which needs to be believed alone: the counters of a device's last report,
the aggregates, which say how many windows of each moment were escalated, and the decisions, which name the events they
are of. All counters of one report belong to the same moment, and the sequence numbers below its count of windows are
its own. Gap markers name what the edge gave up, so they explain it by number; what else a device dropped it has only
counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from deploy.ledger.book import LANES, Book, LifeBook, Place
from deploy.text import utc
from edge_filters.gaps import merged
from schemas import topics
from schemas.ids import Identity, chosen_for_audit
from schemas.records import DeviceStatus, Health

_EVENTS, _AGGREGATES, _SAMPLES = LANES
_Ranges = tuple[tuple[int, int], ...]
#: Seqs that one finding names one by one, as ranges.
_NAMED = 20
#: Windows of a life up to which missing samples are sought by drawing anew, which takes microseconds each.
_DRAWN = 5_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One difference. `explained` says by what, and is empty where nothing does. `count` may be a lower bound."""

    kind: str  # missing, differing, repeated, undecided, waiting, doubled, counters
    device_id: str
    boot_epoch: int
    lane: str
    count: int
    what: str
    explained: str = ""
    ranges: tuple[tuple[int, int], ...] = ()  # of seq, both ends included; empty where the seqs are not known


@dataclass(frozen=True, slots=True)
class LaneRow:
    """One lane of one life. `made` is None where no report says; `there` counts identities, `again` further copies."""

    device_id: str
    boot_epoch: int
    lane: str
    made: int | None
    there: int
    missing: int
    again: int
    decided: int | None
    evicted: int = 0  # of the missing ones, those that a gap marker names


@dataclass(slots=True)
class DeviceRow:
    """One device over all its lives. Readings, windows and records as its reports count them."""

    device_id: str
    lives: int
    health: str
    sensed: int = 0
    aggregated: int = 0
    invalid: int = 0
    windows: int = 0
    unscored: int = 0
    answered: int = 0
    sent: int = 0
    evicted: int = 0
    in_spool: int = 0
    missing: int = 0
    unexplained: int = 0


@dataclass(slots=True)
class Balance:
    """All of it. Balanced when no finding is unexplained."""

    devices: list[DeviceRow] = field(default_factory=list)
    lanes: list[LaneRow] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def unexplained(self) -> list[Finding]:
        """Findings that nothing explains."""
        return [finding for finding in self.findings if not finding.explained]


def ranges_of(seqs: list[int]) -> tuple[tuple[int, int], ...]:
    """Numbers as ranges, both ends included.

    >>> ranges_of([3, 4, 5, 9])
    ((3, 5), (9, 9))
    """
    out: list[tuple[int, int]] = []
    for seq in sorted(seqs):
        if out and out[-1][1] == seq - 1:
            out[-1] = (out[-1][0], seq)
        else:
            out.append((seq, seq))
    return tuple(out)


def gaps_of(seen: Iterable[int], begin: int) -> tuple[tuple[int, int], ...]:
    """What is missing from `begin` up to the highest number seen. Costs by what was seen: a forged number is cheap.

    >>> gaps_of([1, 2, 5, 2**62], 0)
    ((0, 0), (3, 4), (6, 4611686018427387903))
    """
    out: list[tuple[int, int]] = []
    for seq in sorted(seen):
        if seq > begin:
            out.append((begin, seq - 1))
        begin = max(begin, seq + 1)
    return tuple(out)


def named(ranges: tuple[tuple[int, int], ...]) -> str:
    """Ranges for people.

    >>> named(((3, 5), (9, 9)))
    'seq 3..5, 9'
    """
    text = ", ".join(str(a) if a == b else f"{a}..{b}" for a, b in ranges[:_NAMED])
    return f"seq {text}" + (f" and {len(ranges) - _NAMED} more ranges" if len(ranges) > _NAMED else "")


def balance(book: Book, *, settled_ms: int) -> Balance:
    """Balance a book. Events stamped after `settled_ms` may still be undecided."""
    out = Balance()
    for device_id, lives in book.by_device():
        row = DeviceRow(device_id, len(lives), "unknown")
        missing: list[Finding] = []
        first_life = {lane: next((life for life in lives if life.lanes[lane].seen), None) for lane in LANES}
        for life in lives:
            begins = {lane: _begins(book, life, lane, first_life[lane]) for lane in LANES}
            out.findings += _counters(life)
            lost = list(_missing(life, begins))
            missing += lost
            out.findings += _copies(life)
            if book.checks_decisions:
                out.findings += _decisions(book, life, begins[_EVENTS], settled_ms)
            for lane in LANES:
                gone = [finding for finding in lost if finding.lane == lane]
                out.lanes.append(_lane_row(life, lane, gone, book.checks_decisions))
            _add(row, life)
        row.missing = sum(finding.count for finding in missing)
        named_gone = sum(finding.count for finding in missing if finding.explained)
        marked = sum(_size(merged(runs)) for life in lives for runs in life.given_up.values())
        others = max(0, row.evicted - marked)  # dropped without a marker: refused, too large, damaged
        row.unexplained = max(0, row.missing - named_gone - others - row.in_spool)
        out.findings += [
            finding if finding.explained else _explain(finding, row, row.missing - named_gone, others)
            for finding in missing
        ]
        out.devices.append(row)
    for place, problem in book.unreadable:
        reason = book.dead.get((place.topic, place.partition, place.offset), "")
        where = f"{place.topic}/{place.partition}@{place.offset}"
        explained = f"dead letter, {reason}" if reason else "it is no record of a device"
        out.findings.append(Finding("unreadable", "", 0, place.topic, 1, f"{where}: {problem}", explained))
    return out


# -- what should be there -------------------------------------------------------------------------------------------


def _begins(book: Book, life: LifeBook, lane: str, first: LifeBook | None) -> int | None:
    """First seq of this life that must be there; None where what was read says nothing about it."""
    if lane in book.missing:
        return None
    if lane not in book.cut:
        return 0
    if first is None or life.boot_epoch < first.boot_epoch:
        return None
    return min(life.lanes[lane].seen) if life is first else 0


def _windows(report: DeviceStatus) -> int:
    """Windows a device had numbered when it reported: every seq below is in its counters."""
    return report.counters.get("windows_scored", 0) + report.counters.get("windows_unscored", 0)


def _counters(life: LifeBook) -> Iterator[Finding]:
    """Whether a report's own sums hold."""
    report = life.report
    if report is None:
        return
    c = {name: report.counters.get(name, 0) for name in report.counters}

    def wrong(what: str, count: int) -> Finding:
        return Finding("counters", life.device_id, life.boot_epoch, topics.STATUS.name, abs(count), what)

    open_readings = c.get("readings_sensed", 0) - c.get("readings_invalid", 0) - c.get("readings_aggregated", 0)
    if open_readings < 0 or (open_readings and report.health is Health.STOPPED):
        yield wrong(
            f"{c.get('readings_sensed', 0)} readings sensed are not {c.get('readings_invalid', 0)} invalid + "
            f"{c.get('readings_aggregated', 0)} aggregated",
            open_readings,
        )
    undecided = c.get("windows_scored", 0) - c.get("windows_answered", 0) - c.get("windows_escalated", 0)
    if undecided:
        yield wrong(
            f"{c.get('windows_scored', 0)} windows scored are not {c.get('windows_answered', 0)} answered + "
            f"{c.get('windows_escalated', 0)} escalated",
            undecided,
        )
    waiting = _waiting(report)
    if not 0 <= waiting <= report.spool_records:
        yield wrong(
            f"{c.get('records_enqueued', 0)} records enqueued are not {c.get('records_acked', 0)} acknowledged + "
            f"{c.get('records_dropped', 0)} evicted + at most {report.spool_records} in the spool",
            waiting if waiting < 0 else waiting - report.spool_records,
        )


def _waiting(report: DeviceStatus) -> int:
    """Records of the device in the spool of its process when it reported."""
    c = report.counters
    return c.get("records_enqueued", 0) - c.get("records_acked", 0) - c.get("records_dropped", 0)


def _missing(life: LifeBook, begins: dict[str, int | None]) -> Iterator[Finding]:
    yield from _missing_aggregates(life, begins[_AGGREGATES])
    yield from _missing_events(life, begins[_EVENTS])
    yield from _missing_samples(life, begins[_SAMPLES])


def _lost(life: LifeBook, lane: str, count: int, what: str, ranges: _Ranges = (), explained: str = "") -> Finding:
    return Finding("missing", life.device_id, life.boot_epoch, lane, count, what, explained, ranges)


def _size(ranges: Iterable[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _within(ranges: _Ranges, low: int, high: int) -> int:
    """How many numbers of low..high are in these ranges."""
    return sum(max(0, min(last, high) - max(first, low) + 1) for first, last in ranges)


def _given_up(life: LifeBook, lane: str, begin: int) -> _Ranges:
    """What gap markers name and is not there. Costs by what was seen and by the runs, whatever a marker claims."""
    runs = merged(life.given_up[lane])
    seen = sorted(life.lanes[lane].seen) if runs else []
    out: list[tuple[int, int]] = []
    at = 0
    for first, last in runs:
        first = max(first, begin)
        while at < len(seen) and seen[at] < first:
            at += 1
        while at < len(seen) and seen[at] <= last:
            if seen[at] > first:
                out.append((first, seen[at] - 1))
            first = seen[at] + 1
            at += 1
        if first <= last:
            out.append((first, last))
    return tuple(out)


def _outside(ranges: _Ranges, others: _Ranges) -> _Ranges:
    """What is in `ranges` and not in `others`; both in order."""
    out: list[tuple[int, int]] = []
    at = 0
    for first, last in ranges:
        while at and others[at - 1][1] >= first:
            at -= 1
        while at < len(others) and others[at][0] <= last:
            if others[at][0] > first:
                out.append((first, others[at][0] - 1))
            first = max(first, others[at][1] + 1)
            at += 1
        if first <= last:
            out.append((first, last))
    return tuple(out)


def _marked(life: LifeBook, lane: str, ranges: _Ranges) -> Iterator[Finding]:
    if ranges:
        why = "given up at the edge for want of room, as its gap markers name them"
        yield _lost(life, lane, _size(ranges), named(ranges), ranges, why)


def _missing_aggregates(life: LifeBook, begin: int | None) -> Iterator[Finding]:
    """Their seqs have no holes; what is missing behind the last one shows in the readings."""
    seen = life.lanes[_AGGREGATES].seen
    if begin is None:
        return
    marked = _given_up(life, _AGGREGATES, begin)
    yield from _marked(life, _AGGREGATES, marked)
    gaps = _outside(gaps_of(seen, begin), marked)
    if gaps:
        yield _lost(life, _AGGREGATES, _size(gaps), named(gaps), gaps)
    if life.report is None or begin or gaps or marked:
        return
    there = sum(one.readings for one in life.sums.values())
    short = life.report.counters.get("readings_aggregated", 0) - there
    if short > 0:
        last = max(seen, default=-1)
        yield _lost(life, _AGGREGATES, 1, f"at least one after seq {last}: {short} readings aggregated are not there")


def _missing_events(life: LifeBook, begin: int | None) -> Iterator[Finding]:
    if begin is None:
        return
    seen = life.lanes[_EVENTS].seen
    marked = _given_up(life, _EVENTS, begin)
    yield from _marked(life, _EVENTS, marked)
    exact = sorted(seq for seq in life.decided.seen if seq not in seen and seq >= begin)
    exact = [seq for first, last in _outside(ranges_of(exact), marked) for seq in range(first, last + 1)]
    if exact:
        ranges = ranges_of(exact)
        yield _lost(life, _EVENTS, len(exact), f"{named(ranges)}: decided, but not there", ranges)
    elsewhere = exact + [seq for seq in seen if seq not in life.events]  # or there, but not readable
    named_so_far = len(exact)
    if life.events:
        for thin in _thin_windows(life, begin):
            unknown = thin.missing - sum(thin.low <= seq <= thin.high for seq in elsewhere)
            unknown -= _within(marked, thin.low, thin.high)
            if unknown > 0:
                named_so_far += unknown
                within = f", in seq {thin.low}..{thin.high}" if thin.low <= thin.high else ""  # clocks may jump back
                what = (
                    f"{unknown} of the {thin.escalated} escalated windows that ended between "
                    f"{utc(thin.start_us)} and {utc(thin.end_us)}{within}"
                )
                yield _lost(life, _EVENTS, unknown, what)
    if life.report is None or begin:
        return
    made = life.report.counters.get("windows_escalated", 0)
    there = sum(seq < _windows(life.report) for seq in seen)
    named_so_far += _within(marked, 0, _windows(life.report) - 1)
    if made - there > named_so_far:
        rest = made - there - named_so_far
        yield _lost(life, _EVENTS, rest, f"{rest} of {made} escalated windows, nothing tells which")
    elif there > made:
        what = f"{there} are there, and its report counts {made}"
        yield Finding("counters", life.device_id, life.boot_epoch, _EVENTS, there - made, what)


class _Thin(NamedTuple):
    """An aggregate window with fewer events than it counts; those missing have seqs in low..high, both included."""

    missing: int
    escalated: int
    low: int
    high: int
    start_us: int
    end_us: int


def _thin_windows(life: LifeBook, begin: int) -> Iterator[_Thin]:
    spans: dict[tuple[int, int], int] = {}
    for one in life.sums.values():
        spans[one.start_us, one.end_us] = spans.get((one.start_us, one.end_us), 0) + one.escalated
    seqs = sorted(life.events)
    first_us = life.events[seqs[0]].sensed_to if begin else -(2**63)
    by_time = sorted((life.events[seq].sensed_to, seq) for seq in seqs)
    at = 0
    for (start, end), escalated in sorted(spans.items()):
        while at < len(by_time) and by_time[at][0] < start:
            at += 1
        stop = at
        while stop < len(by_time) and by_time[stop][0] < end:
            stop += 1
        count = escalated - (stop - at)
        if count > 0 and start > first_us:
            low = by_time[at - 1][1] + 1 if at else begin
            high = by_time[stop][1] - 1 if stop < len(by_time) else _last_seq(life)
            yield _Thin(count, escalated, low, high, start, end)


def _last_seq(life: LifeBook) -> int:
    last = max((*life.lanes[_EVENTS].seen, *life.lanes[_SAMPLES].seen, *life.decided.seen), default=0)
    return last if life.report is None else max(last, _windows(life.report) - 1)


def _missing_samples(life: LifeBook, begin: int | None) -> Iterator[Finding]:
    """The draw of the audit sample is a hash of the identity, so what should have been drawn is known."""
    if begin is None:
        return
    marked = _given_up(life, _SAMPLES, begin)
    yield from _marked(life, _SAMPLES, marked)
    if begin or life.report is None:
        return
    made, windows = life.report.counters.get("windows_sampled", 0), _windows(life.report)
    seen = life.lanes[_SAMPLES].seen
    short = made - sum(seq < windows for seq in seen) - _within(marked, 0, windows - 1)
    if short <= 0:
        return
    drawn = [
        seq
        for seq in (range(windows) if life.audit_rate and windows <= _DRAWN else ())
        if seq not in seen
        and seq not in life.events
        and chosen_for_audit(Identity(life.device_id, life.boot_epoch, seq).event_id, life.audit_rate)
    ]
    ranges = _outside(ranges_of(drawn), marked)
    if _size(ranges) == short:
        yield _lost(life, _SAMPLES, short, named(ranges), ranges)
    elif ranges:
        yield _lost(life, _SAMPLES, short, f"{short} of {made}, among {named(ranges)}")
    else:
        yield _lost(life, _SAMPLES, short, f"{short} of {made}, nothing tells which")


def _explain(finding: Finding, row: DeviceRow, missing: int, dropped: int) -> Finding:
    """What no marker names is counted per device only: that explains what is missing all together, or not at all."""
    if row.unexplained:
        return finding
    parts = [f"{dropped} dropped without a marker"] * bool(dropped)
    parts += [f"{row.in_spool} in the spool"] * bool(row.in_spool)
    return replace(finding, explained=" + ".join(parts) + f" cover the {missing} missing")


# -- what is there more than once, and what became of it --------------------------------------------------------------


def _copies(life: LifeBook) -> Iterator[Finding]:
    for lane in LANES:
        book = life.lanes[lane]
        same = ranges_of([seq for seq in book.again if seq not in book.differing])
        if same:
            count = sum(book.again[seq] for seq in book.again if seq not in book.differing)
            yield Finding(
                "repeated",
                life.device_id,
                life.boot_epoch,
                lane,
                count,
                named(same),
                "the same bytes, sent again",
                same,
            )
        if book.differing:
            ranges = ranges_of(sorted(book.differing))
            what = f"{named(ranges)}: two different records under one identity; a cloned or rolled-back device?"
            yield Finding("differing", life.device_id, life.boot_epoch, lane, len(book.differing), what, ranges=ranges)


def _decisions(book: Book, life: LifeBook, begin: int | None, settled_ms: int) -> Iterator[Finding]:
    """Exactly one decision per event."""

    def found(kind: str, seqs: list[int], what: str, explained: str = "") -> Iterator[Finding]:
        if seqs:
            ranges = ranges_of(seqs)
            yield Finding(
                kind, life.device_id, life.boot_epoch, topics.DECISIONS.name, len(seqs), f"{named(ranges)}: {what}",
                explained, ranges,
            )  # fmt: skip

    undecided: list[int] = []
    waiting: list[int] = []
    ahead: list[int] = []
    refused: dict[str, list[int]] = {}
    for seq, event in life.events.items():
        if seq in life.decided.seen:
            continue
        reasons = [book.dead.get(place[:3]) for place in event.places]
        if all(reasons):
            refused.setdefault(str(reasons[0]), []).append(seq)
        elif (owed := _is_owed(book, event.places)) is not None:
            (ahead if owed else undecided).append(seq)
        elif max(place.stamped_ms for place in event.places) > settled_ms:
            waiting.append(seq)
        else:
            undecided.append(seq)
    yield from found("undecided", undecided, "no decision")
    yield from found("waiting", waiting, "no decision yet", "they came just now")
    yield from found("waiting", ahead, "no decision yet", "the pipeline has not committed that far")
    for reason, seqs in refused.items():
        yield from found("refused", seqs, "no decision", f"dead letter, {reason}")
    doubled = [seq for seq in life.decided.again if begin is not None and seq >= begin]
    differ = [seq for seq in doubled if seq in life.decided.differing]
    yield from found("doubled", [seq for seq in doubled if seq not in differ], "decided more than once, the same way")
    yield from found("doubled", differ, "decided more than once, and not the same way")


def _is_owed(book: Book, places: tuple[Place, ...]) -> bool | None:
    """Whether the pipeline's committed position is before all of these, so that it still owes their answer.

    None where it has committed nothing there.
    """
    positions = [book.committed.get(place[:2]) for place in places]
    if any(at is None for at in positions):
        return None
    return all(at is not None and at <= place.offset for at, place in zip(positions, places, strict=True))


# -- rows -------------------------------------------------------------------------------------------------------------


def _lane_row(life: LifeBook, lane: str, gone: list[Finding], decides: bool) -> LaneRow:
    book = life.lanes[lane]
    counter = {_EVENTS: "windows_escalated", _SAMPLES: "windows_sampled"}.get(lane)
    made = None if life.report is None or counter is None else life.report.counters.get(counter, 0)
    decided = sum(seq in life.decided.seen for seq in book.seen) if decides and lane == _EVENTS else None
    again = sum(book.again.values())
    missing = sum(finding.count for finding in gone)
    evicted = sum(finding.count for finding in gone if finding.explained)
    return LaneRow(life.device_id, life.boot_epoch, lane, made, len(book.seen), missing, again, decided, evicted)


def _add(row: DeviceRow, life: LifeBook) -> None:
    """A life into its device's row; what waits in the spool is what the last report says."""
    row.sent += sum(len(book.seen) for book in life.lanes.values())
    if life.report is None:
        return
    c = life.report.counters
    row.health = life.report.health.value
    row.sensed += c.get("readings_sensed", 0)
    row.aggregated += c.get("readings_aggregated", 0)
    row.invalid += c.get("readings_invalid", 0)
    row.windows += _windows(life.report)
    row.unscored += c.get("windows_unscored", 0)
    row.answered += c.get("windows_answered", 0)
    row.evicted += c.get("records_dropped", 0)
    row.in_spool = max(0, min(_waiting(life.report), life.report.spool_records))
