"""The plan from the catalogue to a broker."""

from __future__ import annotations

import pytest

from deploy import topics
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from deploy.topics import Change
from schemas.topics import CATALOGUE, EVENTS, STATUS

FULL = {t.named("p."): TopicState(t.named("p."), t.partitions, t.config) for t in CATALOGUE}


def test_a_broker_as_in_the_catalogue_needs_nothing() -> None:
    assert {change.action for change in topics.plan(FULL, "p.")} == {"none"}


def test_an_empty_broker_needs_every_topic() -> None:
    changes = topics.plan({}, "p.")
    assert [(change.topic, change.action) for change in changes] == [(t.named("p."), "create") for t in CATALOGUE]


def test_what_the_operator_set_besides_is_left_alone() -> None:
    mine = TopicState("p.edge.events", EVENTS.partitions, EVENTS.config | {"max.message.bytes": "500"})
    assert {c.action for c in topics.plan(FULL | {mine.name: mine}, "p.")} == {"none"}


def test_wrong_configuration_and_partitions_are_two_changes_that_read_well() -> None:
    wrong = TopicState("edge.status", STATUS.partitions + 1, STATUS.config | {"cleanup.policy": "delete"})
    changes = topics.plan({wrong.name: wrong}, catalogue=[STATUS])
    assert [(c.action, c.difference) for c in changes] == [
        ("configure", "cleanup.policy: delete -> compact"),
        ("shrink", "partitions: 2 -> 1"),
    ]


@pytest.mark.kafka
def test_apply_makes_a_broker_as_planned_and_twice_is_once(broker: Broker, topic_prefix: str) -> None:
    with Cluster(broker.bootstrap_servers) as cluster:
        assert topics.apply(cluster, topics.look(cluster, topic_prefix)) == []
        assert {c.action for c in topics.look(cluster, topic_prefix)} == {"none"}
        topics.apply(cluster, topics.plan({}, topic_prefix))
        name = EVENTS.named(topic_prefix)
        cluster.set_config(name, {"retention.ms": "1000"})
        cluster.add_partitions(name, EVENTS.partitions + 1)
        shrink = Change(name, "shrink", {"partitions": "5"}, {"partitions": "4"})
        assert topics.apply(cluster, topics.look(cluster, topic_prefix)) == [shrink]
        assert [c for c in topics.look(cluster, topic_prefix) if c.action != "none"] == [shrink]
        cluster.delete(t.named(topic_prefix) for t in CATALOGUE)


@pytest.mark.kafka
def test_partitions_are_added_only_when_asked(broker: Broker, topic_prefix: str) -> None:
    with Cluster(broker.bootstrap_servers) as cluster:
        name = EVENTS.named(topic_prefix)
        cluster.create([TopicState(name, 1, EVENTS.config)])
        grow = topics.plan(cluster.topics([name]), topic_prefix, [EVENTS])
        assert [c.action for c in grow] == ["grow"]
        assert topics.apply(cluster, grow) == grow
        assert cluster.topics([name])[name].partitions == 1
        assert topics.apply(cluster, grow, grow=True) == []
        assert cluster.topics([name])[name].partitions == EVENTS.partitions
        cluster.delete([name])
