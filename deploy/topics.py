"""From the catalogue (schemas/topics.py) to the topics of a broker: what differs, and making it so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from deploy.cluster import Cluster, TopicState
from schemas.topics import CATALOGUE, Topic

Action = Literal["none", "create", "configure", "grow", "shrink"]


@dataclass(frozen=True)
class Change:
    """What one topic needs. `before` and `after` hold what differs: `partitions` and configuration keys."""

    topic: str
    action: Action
    before: dict[str, str | None]
    after: dict[str, str]

    @property
    def difference(self) -> str:
        """In words: `retention.ms: 1000 -> 604800000`."""
        return ", ".join(f"{key}: {self.before.get(key) or 'unset'} -> {value}" for key, value in self.after.items())


def plan(actual: Mapping[str, TopicState], prefix: str = "", catalogue: Iterable[Topic] = CATALOGUE) -> list[Change]:
    """One or more changes per topic of the catalogue, `none` where nothing differs.

    Configuration that the catalogue does not mention is the operator's own and is left alone.
    """
    changes = []
    for topic in catalogue:
        name = topic.named(prefix)
        state = actual.get(name)
        if state is None:
            changes.append(Change(name, "create", {}, {"partitions": str(topic.partitions), **topic.config}))
            continue
        wrong = {key: value for key, value in topic.config.items() if state.config.get(key) != value}
        if wrong:
            changes.append(Change(name, "configure", {key: state.config.get(key) for key in wrong}, wrong))
        if state.partitions != topic.partitions:
            action: Action = "grow" if state.partitions < topic.partitions else "shrink"
            before: dict[str, str | None] = {"partitions": str(state.partitions)}
            changes.append(Change(name, action, before, {"partitions": str(topic.partitions)}))
        if not changes or changes[-1].topic != name:
            changes.append(Change(name, "none", {}, {}))
    return changes


def look(cluster: Cluster, prefix: str = "") -> list[Change]:
    """The plan for a broker as it is."""
    return plan(cluster.topics(topic.named(prefix) for topic in CATALOGUE), prefix)


def apply(cluster: Cluster, changes: Iterable[Change], *, grow: bool = False) -> list[Change]:
    """Carry out a plan.

    Args:
        grow: also add partitions. Keys then move to other partitions, so a device's records are out of order once.

    Returns: what was not done: `shrink`, which Kafka cannot do, and `grow` unless asked for.
    """
    changes = list(changes)
    cluster.create(_as_state(change) for change in changes if change.action == "create")
    left = []
    for change in changes:
        if change.action == "configure":
            cluster.set_config(change.topic, change.after)
        elif change.action == "grow" and grow:
            cluster.add_partitions(change.topic, int(change.after["partitions"]))
        elif change.action in ("grow", "shrink"):
            left.append(change)
    return left


def _as_state(change: Change) -> TopicState:
    config = dict(change.after)
    return TopicState(change.topic, int(config.pop("partitions")), config)
