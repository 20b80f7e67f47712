"""What a broker's error means for a transaction: a table, and nothing else. Pure.

Kafka's transactions have a hole for clients older than KIP-890, which both of ours are: a request that ends a
transaction, or adds offsets to one, and is held up on its way, may arrive in the middle of the next transaction and is
taken for a part of that. So a request whose outcome is not known is never sent a second time. The producer is thrown
away and a new one takes its name, which ends whatever the old one had open and shuts out what it sent; then the
committed offsets tell whether the transaction is there.
"""

from __future__ import annotations

from enum import Enum


class Step(Enum):
    """Where in a transaction an error came."""

    OPEN = "taking the name over"
    BEGIN = "beginning"
    SEND = "sending records"
    OFFSETS = "adding offsets"
    COMMIT = "committing"


class Move(Enum):
    """What to do about it.

    RETRY:   the broker has refused the request and done nothing: the same again, on the same producer.
    REBUILD: it did something or nothing, nobody knows: a new producer, and look at the committed offsets. This is
             also how a transaction is aborted, because taking the name over aborts what was open under it.
    STOP:    trying again cannot help, or another process has the name.
    """

    RETRY = "retry"
    REBUILD = "rebuild"
    STOP = "stop"


#: Somebody else has taken the name, or the broker has ended our transaction because it was open for too long.
FENCED = frozenset({"PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "_FENCED"})
#: Nothing was done, and it says when to ask again.
_LATER = frozenset({"CONCURRENT_TRANSACTIONS", "COORDINATOR_LOAD_IN_PROGRESS", "THROTTLING_QUOTA_EXCEEDED"})
#: Clearly said and clearly not done, but sent to the wrong place. Only where nothing can have been written yet.
_ELSEWHERE = frozenset({"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE"})
#: Of single batches of records: numbered, so a second copy of one is dropped by the broker.
_AGAIN = frozenset(
    {
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "UNKNOWN_TOPIC_OR_PARTITION",
        "UNKNOWN_TOPIC_OR_PART",
        "NOT_ENOUGH_REPLICAS",
        "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        "REQUEST_TIMED_OUT",
        "NETWORK_EXCEPTION",
    }
)
_HOPELESS = frozenset(
    {
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "SASL_AUTHENTICATION_FAILED",
        "_AUTHENTICATION",
        "UNSUPPORTED_VERSION",
        "UNSUPPORTED_SASL_MECHANISM",
        "UNSUPPORTED_FOR_MESSAGE_FORMAT",
        "_UNSUPPORTED_FEATURE",
        "INVALID_TRANSACTION_TIMEOUT",
        "MSG_SIZE_TOO_LARGE",
        "MESSAGE_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
        "OFFSET_METADATA_TOO_LARGE",
        "INVALID_RECORD",
        "INVALID_GROUP_ID",
    }
)


def move(step: Step, name: str) -> Move:
    """What to do about an error of that name, as kafka-python or librdkafka spell it.

    What is not in the table is taken for an outcome that nobody knows.

    >>> move(Step.COMMIT, "CONCURRENT_TRANSACTIONS"), move(Step.COMMIT, "REQUEST_TIMED_OUT")
    (<Move.RETRY: 'retry'>, <Move.REBUILD: 'rebuild'>)
    """
    if name in FENCED or name in _HOPELESS:
        return Move.STOP
    if name in _LATER:
        return Move.RETRY
    if name in _ELSEWHERE and step in (Step.OPEN, Step.BEGIN, Step.SEND):
        return Move.RETRY
    if name in _AGAIN and step is Step.SEND:
        return Move.RETRY
    return Move.REBUILD
