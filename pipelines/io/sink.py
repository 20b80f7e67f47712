"""The one Kafka sink: a bundle is sent, flushed and checked as a whole, and only then answered for.

Where the source commits positions together with their answers (see answers.py), records that answer for something go
there and are in the topic exactly once. All others are delivered at least once: a bundle that fails is run again, by
the runner or by the next run. Those carry keys and revisions that let a reader replace what came twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from kafka import KafkaProducer
from kafka.errors import KafkaError

from pipelines.io import bulk
from pipelines.io import flow as flows
from pipelines.io.answers import Answers
from pipelines.io.chunk import Batch, Outgoing, Receipt, WindowAck
from pipelines.io.trail import innocent
from schemas.errors import ConfigError, PipelineError, UnavailableError
from schemas.failpoints import reach
from schemas.librdkafka import Library

log = logging.getLogger(__name__)

#: Records in a bundle after which the sink flushes without waiting for the bundle's end.
FLUSH_AFTER = 5_000

#: Settings of a producer that have no say here: keys and values are bytes, and a key has Kafka's own partition.
_OURS = ("key_serializer", "value_serializer", "partitioner")

_PRODUCERS: dict[tuple[Any, ...], Any] = {}
_LOCK = threading.Lock()


def _producer(bootstrap_servers: str, timeout_s: float, client: Mapping[str, Any], library: Library) -> Any:
    """The producer of this process for these settings. Raises KafkaError: the broker is not there."""
    name = (library, bootstrap_servers, timeout_s, tuple(sorted((k, repr(v)) for k, v in client.items())))
    with _LOCK:
        found = _PRODUCERS.get(name)
        if found is None and library == "confluent":
            from pipelines.io.confluent import ConfluentProducer

            found = _PRODUCERS[name] = ConfluentProducer(bootstrap_servers, timeout_s, client)
        if found is None:
            found = _PRODUCERS[name] = KafkaProducer(
                **{
                    "linger_ms": 5,
                    "batch_size": 256 << 10,
                    "request_timeout_ms": min(10_000, int(timeout_s * 500)),
                    "reconnect_backoff_max_ms": 1_000,
                    **client,
                    "bootstrap_servers": bootstrap_servers,
                    "acks": "all",
                    "enable_idempotence": True,
                    "delivery_timeout_ms": int(timeout_s * 1000),
                    "max_block_ms": int(timeout_s * 1000),
                    "allow_auto_create_topics": False,
                    "metrics_enabled": False,
                }
            )
        return found


def _send(producer: Any, topic: str, records: Sequence[Outgoing], keyless: int) -> Any:
    """Queue records; what comes back can be waited for. Raises KafkaError."""
    if isinstance(producer, KafkaProducer):
        return bulk.send(producer, topic, records, keyless=keyless)
    return producer.send(topic, records)


def close_producers(timeout_s: float = 5.0) -> None:
    """Close every producer of this process."""
    with _LOCK:
        producers = list(_PRODUCERS.values())
        _PRODUCERS.clear()
    for producer in producers:
        producer.close(timeout=timeout_s)


class WriteToKafka(beam.PTransform):
    """PCollection[Batch] to a topic; everything is flushed before its bundle ends.

    Args:
        topic, bootstrap_servers: where to write.
        branch:    the branch of the source's ledger that this sink answers for; None answers only for windows.
        with_positions: write what answers for a range together with its position, as the source is set to commit it.
        timeout_s: how long a batch may take, broker outages included, before its bundle fails.
        client:    further settings of kafka-python's producer (TLS, SASL, ...).
        library:   which client writes; see FeedConfig.
    """

    def __init__(
        self,
        topic: str,
        bootstrap_servers: str,
        *,
        branch: str | None = None,
        with_positions: bool = False,
        timeout_s: float = 60.0,
        client: Mapping[str, Any] | None = None,
        library: Library = "kafka-python",
    ) -> None:
        super().__init__()
        unknown = sorted(set(client or {}) - set(KafkaProducer.DEFAULT_CONFIG))
        if unknown:
            raise ConfigError("settings that kafka-python's producer does not have", settings=unknown)
        if taken := sorted(set(client or {}) & set(_OURS)):
            raise ConfigError("settings of the producer that the sink decides by itself", settings=taken)
        if library == "confluent":
            from pipelines.io.confluent import check

            check(client or {})
        self._write = _Write(topic, bootstrap_servers, branch, timeout_s, dict(client or {}), library, with_positions)

    def expand(self, batches: beam.PCollection[Batch]) -> beam.PCollection[Batch]:
        """Write each batch. The collection that comes out is empty."""
        return batches | beam.ParDo(self._write).with_output_types(Batch)


class _Write(beam.DoFn):
    """Sends at once and flushes at the end of the bundle, which is one tick of the source.

    A flush per batch would cost a round trip for every partition. Long bundles are flushed in between.
    """

    def __init__(
        self,
        topic: str,
        bootstrap_servers: str,
        branch: str | None,
        timeout_s: float,
        client: dict[str, Any],
        library: Library,
        with_positions: bool = False,
    ) -> None:
        self._with_positions = with_positions
        self._topic, self._bootstrap_servers = topic, bootstrap_servers
        self._branch, self._timeout_s, self._client, self._library = branch, timeout_s, client, library
        self._written = Metrics.counter("sink", f"records.{topic}")
        self._sent: list[Any] = []
        self._records = self._lots = 0
        self._receipts: list[Receipt] = []
        self._windows: list[WindowAck] = []
        self._handed: dict[str, Answers] = {}

    def start_bundle(self) -> None:
        """Nothing of an earlier bundle, which may have failed, is carried over."""
        self._sent, self._receipts, self._windows = [], [], []
        self._records, self._handed = 0, {}

    def process(self, batch: Batch) -> None:
        """Send. Raises UnavailableError: the broker does not take it in time."""
        answers = self._answers(batch)
        if answers is not None:
            answers.hand(self._branch or "", self._topic, batch.receipts[0], batch.records)
            self._handed[batch.receipts[0].flow] = answers
            self._written.inc(len(batch.records))
        elif batch.records:
            with self._in_time():
                producer = _producer(self._bootstrap_servers, self._timeout_s, self._client, self._library)
                self._records += len(batch.records)
                self._lots += 1
                self._sent.append(_send(producer, self._topic, batch.records, self._lots))
        if answers is None:
            self._receipts += batch.receipts
        self._windows += batch.windows
        if self._records >= FLUSH_AFTER:
            self.finish_bundle()

    def finish_bundle(self) -> None:
        """Wait for every acknowledgement, then answer. Raises UnavailableError: not all of it is safe in time.

        What was handed to the source's own writer is waited for only when too much is waiting there.
        """
        for answers in self._handed.values():
            try:
                answers.flush(self._timeout_s)
            except UnavailableError:
                innocent()  # as below
                raise
        if self._sent:
            with self._in_time():
                deadline_s = time.monotonic() + self._timeout_s
                for sent in self._sent:
                    sent.wait(deadline_s)
            reach("sink.sent")
            self._written.inc(self._records)
        for name in {r.flow for r in self._receipts} | {w.flow for w in self._windows}:
            found = flows.find(name)
            if found is not None and found.ledger is not None:
                if self._branch is not None:
                    found.ledger.acknowledge(self._branch, [r for r in self._receipts if r.flow == name])
                found.ledger.written(w for w in self._windows if w.flow == name)
        self.start_bundle()

    def _answers(self, batch: Batch) -> Answers | None:
        """Who writes this batch with the position of what it answers for; None: nobody, it is sent from here.

        Raises PipelineError: it belongs there, but to a source in another process.
        """
        if not self._with_positions or self._branch is None or not batch.receipts:
            return None
        found = flows.find(batch.receipts[0].flow)
        if found is None or found.answers is None or len(batch.receipts) != 1:
            raise PipelineError(
                "answers cannot be written with their positions",
                fix="the runner must keep source and sinks in one process; run it with --delivery at-least-once",
                topic=self._topic,
            )
        return found.answers

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        try:
            yield
        except (KafkaError, OSError) as cause:
            innocent()  # no record is to blame when the job ends for this
            raise UnavailableError(
                f"a batch could not be written: {type(cause).__name__}: {cause}",
                fix="its records are read and answered again after a restart",
                topic=self._topic,
                records=self._records,
            ) from cause
