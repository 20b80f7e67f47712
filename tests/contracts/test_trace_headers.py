"""Both client libraries put the same trace beside a record; the broker keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.broker import Broker
from edge_filters.outgoing import pack
from edge_filters.ports import Delivery
from schemas import topics
from schemas.librdkafka import LIBRARIES
from schemas.tracing import HEADER, Hop, trace_of
from tests.contracts.test_outbox import everything, outbox_on
from tests.doubles.records import aggregate, audit, event
from tests.wait import until


@pytest.mark.kafka
@pytest.mark.parametrize("library", LIBRARIES)
def test_windows_travel_with_their_trace_and_aggregates_with_none(broker: Broker, catalogue: str, library: str) -> None:
    outbox: Any = outbox_on(library)(broker.bootstrap_servers, catalogue)
    until(lambda: outbox.ready, "the outbox is ready")
    window, sample = event("pump-1", 7), audit("pump-1", 8)
    for record in (window, sample, aggregate("pump-1", 0, 1_000_000)):
        receipt = outbox.send(pack(record))
        until(lambda r=receipt: outbox.report(r).delivery is Delivery.DELIVERED, "an acknowledgement")  # type: ignore[misc]
    outbox.close(5.0)
    found = {message.topic: list(message.headers) for message in everything(broker.bootstrap_servers, catalogue)}
    assert found == {
        topics.EVENTS.named(catalogue): [(HEADER, str(trace_of("pump-1:1:7", Hop.EDGE)).encode())],
        topics.SAMPLES.named(catalogue): [(HEADER, str(trace_of("pump-1:1:8", Hop.EDGE)).encode())],
        topics.AGGREGATES.named(catalogue): [],
    }
