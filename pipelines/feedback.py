"""The feedback branch: evidence per device to threshold updates. State and publishing; controller.py decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.controller import ControllerPolicy, DeviceState, Evidence, ThresholdController, merged
from pipelines.heavy import ModelSource, open_shelf
from pipelines.io.chunk import Batch, Outgoing
from pipelines.io.models import Shelf
from schemas.codec import encode
from schemas.tracing import feedback_trace


class Feedback(beam.PTransform):
    """Evidence, lines of JSON per chunk -> encoded ThresholdUpdates, keyed by device.

    `gather_s`: evidence is held back for so long, seconds, so that a device costs the controller's stage one element
    per interval and not one per chunk. Only for a step that runs in the source's own stage, whose ticks let it go when
    no more chunks come. 0: every chunk's evidence goes on at once.
    """

    def __init__(self, models: ModelSource, policy: ControllerPolicy, *, gather_s: float = 0.0) -> None:
        super().__init__()
        self._models, self._policy, self._gather_s = models, policy, gather_s

    def expand(self, evidence: beam.PCollection[bytes]) -> beam.PCollection[Batch]:
        """See the class."""
        return (
            evidence
            | "Gather" >> beam.ParDo(_Gather(self._gather_s)).with_output_types(tuple[bytes, bytes])
            | "Control" >> beam.ParDo(_Control(self._models, self._policy)).with_output_types(Batch)
        )


class _Gather(beam.DoFn):
    """Merges per device. What it holds is lost with its worker: half a second of a sample, which only delays a step."""

    def __init__(self, every_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock_s = every_s, clock_s
        self._held: list[Evidence] = []
        self._due_s = 0.0
        self._newest = MIN_TIMESTAMP

    def process(self, lines: bytes, timestamp: Any = beam.DoFn.TimestampParam) -> Iterator[tuple[bytes, bytes]]:
        new = [Evidence.from_bytes(line) for line in lines.split(b"\n")]
        if not self._every_s:
            yield from map(_keyed, new)
            return
        if not self._held:
            self._due_s = self._clock_s() + self._every_s
        self._held = merged(self._held + new)
        self._newest = max(self._newest, timestamp)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Let go what is due. The source's stage ends a bundle with every tick, also without chunks."""
        if self._held and self._clock_s() >= self._due_s:
            for seen in self._held:
                yield WindowedValue(_keyed(seen), self._newest, [GlobalWindow()])
            self._held, self._newest = [], MIN_TIMESTAMP


def _keyed(seen: Evidence) -> tuple[bytes, bytes]:
    return seen.device_id.encode(), seen.to_bytes()


class _Control(beam.DoFn):
    STATE = ReadModifyWriteStateSpec("device", BytesCoder())

    def __init__(self, models: ModelSource, policy: ControllerPolicy) -> None:
        self._models, self._controller = models, ThresholdController(policy)
        self._updates = Metrics.counter("tidegate.feedback", "threshold_updates")
        self._shelf: Shelf | None = None

    def setup(self) -> None:
        self._shelf = open_shelf(self._models)

    def process(self, element: tuple[bytes, bytes], memory: Any = beam.DoFn.StateParam(STATE)) -> Iterator[Batch]:
        assert self._shelf is not None
        device, payload = element
        seen = Evidence.from_bytes(payload)
        scorer = self._shelf.heavy(seen.model_name)
        if scorer is None:
            return
        saved = memory.read()
        state = DeviceState.from_bytes(saved) if saved else DeviceState()
        # What an earlier run issued is in the topic and still in force at the edge; so is what an operator sends.
        issued = self._shelf.thresholds(seen.device_id)
        if issued is not None and issued.version > state.version:
            state = DeviceState.of_update(issued)
        state, update = self._controller.step(state, seen, scorer.manifest)
        memory.write(state.to_bytes())
        if update is not None:
            self._updates.inc()
            trace = feedback_trace(update.evidence)
            yield Batch([Outgoing(device, encode(update), () if trace is None else (trace.header(),))])
