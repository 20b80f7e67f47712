"""Which dead letters may go back to where they came from, and sending them there, each at most once.

One transaction holds a retried record and the note that it was retried. Its id belongs to the dead letter topic, so a
second `retry` fences the first one: what the first has not committed by then, it never will.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.dlq.letters import Box, Letter, Position
from schemas import topics
from schemas.codec import decode
from schemas.errors import DecodeError, UnavailableError
from schemas.records import EdgeAggregate
from schemas.sketch import Sketch

#: Topics that the pipeline reads: only what came from there can be put there again.
SOURCES = (topics.EVENTS, topics.AGGREGATES, topics.SAMPLES)
#: Letters in one transaction: readers of the source wait for its end.
BATCH = 100
#: How `problem` ends where the pipeline kept only the start of a payload.
_CUT = " (payload cut from "
#: Longest key that a dead letter keeps; one of that length may have been longer.
_MAX_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of one selected letter: sent when `why` is empty. `skipped`: it was sent before, no error."""

    letter: Letter
    why: str = ""
    skipped: bool = False

    @property
    def sends(self) -> bool:
        """Whether it goes back."""
        return not self.why


def judge(letters: Sequence[Letter], box: Box, prefix: str, now_us: int, *, again: bool = False) -> list[Verdict]:
    """A verdict for each letter; with `again`, also for what was sent before. `now_us` in microseconds."""
    came_back = box.came_back()
    verdicts: list[Verdict] = []
    here: dict[bytes, Position] = {}
    for letter in letters:
        why = hopeless(letter, prefix, now_us)
        if why:
            verdicts.append(Verdict(letter, why))
        elif letter.position in box.retried and not again:
            verdicts.append(Verdict(letter, "it was sent again before; --again sends it once more", skipped=True))
        elif letter.reason == "KillsWorkers" and not again:
            why = "workers died of it; when the code is mended, --again sends it"
            verdicts.append(Verdict(letter, why, skipped=True))
        elif letter.digest in came_back and not again:
            earlier = came_back[letter.digest]
            why = f"the same record was sent again as {earlier} and came back; --again sends it once more"
            verdicts.append(Verdict(letter, why, skipped=True))
        elif letter.digest in here:
            why = f"the same record as {here[letter.digest]}, which is sent now"
            verdicts.append(Verdict(letter, why, skipped=True))
        else:
            here[letter.digest] = letter.position
            verdicts.append(Verdict(letter))
    return verdicts


def hopeless(letter: Letter, prefix: str, now_us: int) -> str:
    """Why sending a letter again cannot succeed, in words; empty where it can."""
    failure = letter.failure
    if failure is None:
        return f"it is not a dead letter: {letter.problem}"
    if failure.reason == "LostRecords":
        return "it stands for records that the broker had deleted: there is no payload to send"
    if failure.reason == "IdentityTaken":
        return "another record with its identity was answered: sent again, that event would have two decisions"
    if failure.reason == "LateData":
        return (
            "its fleet window is closed for good, and would be again; the next aggregates are taken when the pipeline "
            "runs with a longer --allowed_lateness"
        )
    source = next((topic for topic in SOURCES if topic.named(prefix) == failure.source), None)
    if source is None:
        return f"the pipeline does not read {failure.source[:100]!r}; it reads {', '.join(t.name for t in SOURCES)}"
    if _CUT in failure.problem or (failure.key is not None and len(failure.key) >= _MAX_KEY_BYTES):
        return "it is too large for a dead letter, which holds only its start"
    try:
        record: Any = decode(failure.payload, source.record)
        if isinstance(record, EdgeAggregate):
            Sketch.from_aggregate(record)
    except (DecodeError, ValueError) as wrong:
        return f"it would be refused again: {wrong}"
    return _limits(record, now_us)


def _limits(record: Any, now_us: int) -> str:
    """What the pipeline asks of a record that decodes."""
    from pipelines.split import MAX_AHEAD_US, MAX_NAME  # loads Beam, which takes seconds: only for what gets this far

    if max(len(record.cohort), len(getattr(record, "model_name", None) or "")) > MAX_NAME:
        return f"it would be refused again: a name in it is longer than {MAX_NAME} characters"
    ahead_us = record.window_end - now_us - MAX_AHEAD_US if isinstance(record, EdgeAggregate) else 0
    if ahead_us > 0:
        return f"its window still ends in the future; it can be taken in {ahead_us / 3.6e9:.1f} hours"
    return ""


class Sender:
    """Sends letters back. Opening it fences every earlier one of the same topic; use it as a context manager.

    Read the topic after opening it: then every note of earlier ones is there to be seen.
    """

    def __init__(self, bootstrap_servers: str, prefix: str) -> None:
        """Raises UnavailableError: nobody answers there, or it keeps no transactions."""
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        self._where, self._prefix = bootstrap_servers, prefix
        try:
            self._producer: Any = KafkaProducer(
                bootstrap_servers=bootstrap_servers.split(","),
                transactional_id=f"{topics.DEAD_LETTERS.named(prefix)}.retry",
                transaction_timeout_ms=30_000,
                max_request_size=4 * 1024 * 1024,
                bootstrap_timeout_ms=10_000,
            )
        except KafkaError as cause:
            raise self._failed(cause) from cause
        try:
            self._producer.init_transactions()
        except KafkaError as cause:
            self._producer.close(timeout=0)
            raise self._failed(cause) from cause

    def send(self, letters: Sequence[Letter], sent: Callable[[int], None] = lambda _: None) -> None:
        """Send letters to the partitions they came from, in their order. `sent` is told how many more are there.

        Raises UnavailableError: a transaction failed. Those before it are done and noted; of that one, all or nothing.
        """
        from kafka.errors import KafkaError

        for start in range(0, len(letters), BATCH):
            batch = letters[start : start + BATCH]
            try:
                self._producer.begin_transaction()
                waiting = [receipt for letter in batch for receipt in self._put(letter)]
                self._producer.flush(timeout=20)
                for receipt in waiting:
                    receipt.get(timeout=0)
                self._producer.commit_transaction()
            except KafkaError as cause:  # this producer is not used again: how the transaction ended may be unknown
                raise self._failed(cause) from cause
            sent(len(batch))

    def _put(self, letter: Letter) -> list[Any]:
        failure, place = letter.failure, letter.position
        assert failure is not None
        there = self._producer.partitions_for(failure.source) or ()
        back = self._producer.send(
            failure.source,
            failure.payload,
            key=failure.key,
            partition=failure.partition if failure.partition in there else None,  # else by its key
            headers=[(topics.RETRY_HEADER, str(place).encode())],
        )
        dead = topics.DEAD_LETTERS.named(self._prefix)
        return [back, self._producer.send(dead, None, key=place.note(), partition=place.partition)]

    def _failed(self, cause: Exception) -> UnavailableError:
        return UnavailableError(
            "dead letters could not be sent again",
            broker=self._where,
            cause=f"{type(cause).__name__}: {cause}"[:300],
            fix="run it again: what was sent is on record and is not sent twice",
        )

    def close(self) -> None:
        """Close the connection; an open transaction ends with nothing."""
        self._producer.close(timeout=5)

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
