"""What every test may use: the real broker and Prism, a topic prefix per test, hypothesis profiles."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from deploy import broker as broker_module
from deploy import paths, toolchain
from deploy.broker import Broker
from deploy.cluster import Cluster, TopicState
from deploy.flink import cluster as flink_cluster
from schemas.errors import MissingToolError
from schemas.topics import CATALOGUE

IN_CI = bool(os.environ.get("CI"))
#: Programs for environments of their own, which have other packages than this one.
collect_ignore = ["bench/peers/job_bytewax.py", "bench/peers/job_quix.py"]

hypothesis.settings.register_profile("fast", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
hypothesis.settings.register_profile("deep", max_examples=5000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if IN_CI else "fast"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a part which is not installed says so; in CI that is a failure, never a skip."""
    try:
        if item.get_closest_marker("kafka"):
            toolchain.find(toolchain.JAVA)
            broker_module.jars()
        if item.get_closest_marker("prism"):
            toolchain.prism()
        if item.get_closest_marker("flink"):
            toolchain.find(toolchain.JAVA)
            flink_cluster.jars()
    except MissingToolError as missing:
        if IN_CI:
            pytest.fail(f"CI runs every test: {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def _one_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture
def broker(_one_broker: Broker) -> Broker:
    """The real broker of this test run, running. A test may stop(), kill() and start() it; mark the test `kafka`."""
    return _one_broker.start()


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topic names that no other test has, with its dot."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
def catalogue(broker: Broker, topic_prefix: str) -> Iterator[str]:
    """Every topic of the catalogue, made under `topic_prefix` and removed after the test. Value: the prefix."""
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.create(TopicState(t.named(topic_prefix), t.partitions, t.config) for t in CATALOGUE)
    yield topic_prefix
    broker.start()
    with Cluster(broker.bootstrap_servers) as cluster:
        cluster.delete(t.named(topic_prefix) for t in CATALOGUE)


@pytest.fixture(scope="session")
def prism() -> Path:
    """The Prism program; mark the test `prism`."""
    return paths.prism()
