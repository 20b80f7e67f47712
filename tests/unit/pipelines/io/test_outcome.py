"""The table of broker errors, row by row, under the names that both clients give them."""

from __future__ import annotations

import confluent_kafka
import kafka.errors
import pytest

from pipelines.io import outcome
from pipelines.io.kafka_python import _name
from pipelines.io.outcome import Move, Step, move

#: Kafka's code -> what to do where offsets are added, while records are sent, and while the name is taken over.
ROWS = {
    14: (Move.RETRY, Move.RETRY, Move.RETRY),  # the coordinator is loading
    15: (Move.REBUILD, Move.RETRY, Move.RETRY),  # the coordinator is not available
    16: (Move.REBUILD, Move.RETRY, Move.RETRY),  # not the coordinator
    51: (Move.RETRY, Move.RETRY, Move.RETRY),  # concurrent transactions
    89: (Move.RETRY, Move.RETRY, Move.RETRY),  # throttled
    90: (Move.STOP, Move.STOP, Move.STOP),  # fenced
    47: (Move.STOP, Move.STOP, Move.STOP),  # invalid producer epoch
    45: (Move.REBUILD, Move.REBUILD, Move.REBUILD),  # out of order
    48: (Move.REBUILD, Move.REBUILD, Move.REBUILD),  # invalid state of the transaction
    49: (Move.REBUILD, Move.REBUILD, Move.REBUILD),  # the producer's id is not known
    59: (Move.REBUILD, Move.REBUILD, Move.REBUILD),  # nor here
    7: (Move.REBUILD, Move.RETRY, Move.REBUILD),  # timed out
    3: (Move.REBUILD, Move.RETRY, Move.REBUILD),  # unknown topic or partition
    6: (Move.REBUILD, Move.RETRY, Move.REBUILD),  # not the leader
    10: (Move.STOP, Move.STOP, Move.STOP),  # too large
    29: (Move.STOP, Move.STOP, Move.STOP),  # no right to the topic
    30: (Move.STOP, Move.STOP, Move.STOP),  # nor to the group
    53: (Move.STOP, Move.STOP, Move.STOP),  # nor to the name
    35: (Move.STOP, Move.STOP, Move.STOP),  # the broker is too old
}


@pytest.mark.parametrize("code", ROWS)
def test_each_error_leads_to_the_same_move_whichever_client_names_it(code: int) -> None:
    names = {_name(kafka.errors.for_code(code)()), confluent_kafka.KafkaError(code).name()}
    for name in names:
        assert (move(Step.OFFSETS, name), move(Step.SEND, name), move(Step.OPEN, name)) == ROWS[code], name
        assert move(Step.COMMIT, name) is move(Step.OFFSETS, name)


@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("name", ["_TRANSPORT", "_TIMED_OUT", "_STATE", "never heard of", ""])
def test_what_is_not_known_is_never_tried_again_on_the_same_producer(step: Step, name: str) -> None:
    assert move(step, name) is Move.REBUILD


def test_no_error_may_be_repeated_that_could_have_ended_a_transaction() -> None:
    repeated = {name for row in vars(outcome).values() if isinstance(row, frozenset) for name in row}
    assert {name for name in repeated if move(Step.COMMIT, name) is Move.RETRY} == {
        "CONCURRENT_TRANSACTIONS",
        "COORDINATOR_LOAD_IN_PROGRESS",
        "THROTTLING_QUOTA_EXCEEDED",
    }
