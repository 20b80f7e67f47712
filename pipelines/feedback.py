"""The feedback branch: evidence per device to threshold updates. State and publishing; controller.py decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apache_beam as beam
from apache_beam.coders import BytesCoder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec

from pipelines.controller import ControllerPolicy, DeviceState, Evidence, ThresholdController
from pipelines.heavy import ModelSource, open_shelf
from pipelines.io.chunk import Batch, Outgoing
from pipelines.io.models import Shelf
from schemas.codec import encode


class Feedback(beam.PTransform):
    """(device, Evidence) -> encoded ThresholdUpdates, keyed by device."""

    def __init__(self, models: ModelSource, policy: ControllerPolicy) -> None:
        super().__init__()
        self._models, self._policy = models, policy

    def expand(self, evidence: beam.PCollection[tuple[bytes, bytes]]) -> beam.PCollection[Batch]:
        """See the class."""
        return evidence | "Control" >> beam.ParDo(_Control(self._models, self._policy)).with_output_types(Batch)


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
            yield Batch([Outgoing(device, encode(update))])
