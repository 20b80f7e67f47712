from __future__ import annotations

import json
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from deploy.broker import Broker
from pipelines import cli
from pipelines.io.models import Shelves
from pipelines.publish import VALID_US, publish, published_version, read_package
from schemas import topics
from schemas.codec import decode
from schemas.errors import ModelError, UnavailableError
from schemas.records import ArtifactChunk, ModelUpdate
from tests.doubles.tiny_model import write_package


def contents(servers: str, name: str) -> list[tuple[bytes, bytes]]:
    consumer = KafkaConsumer(bootstrap_servers=servers)
    partition = TopicPartition(name, 0)
    consumer.assign([partition])
    consumer.seek_to_beginning(partition)
    end = consumer.end_offsets([partition])[partition]
    found = []
    while consumer.position(partition) < end:
        for messages in consumer.poll(timeout_ms=500).values():
            found += [(m.key, m.value) for m in messages]
    consumer.close()
    return found


@pytest.mark.kafka
def test_files_and_update_are_there_once_it_returns_and_make_the_model(
    broker: Broker, catalogue: str, tmp_path: Path
) -> None:
    package = read_package(str(write_package(tmp_path / "m", heavy_gain=2.0)))
    said = publish(package, broker.bootstrap_servers, catalogue)
    chunks = contents(broker.bootstrap_servers, topics.ARTIFACTS.named(catalogue))
    ((key, update),) = contents(broker.bootstrap_servers, topics.MODELS.named(catalogue))
    assert (key, decode(update, ModelUpdate)) == (b"tiny", said)
    assert (said.version, said.cohort, said.manifest_sha256) == (1, "pumps", package.sha256)
    assert said.expires_at - said.issued_at == VALID_US
    assert {k for k, _ in chunks} == {f"{decode(v, ArtifactChunk).sha256.hex()}:0".encode() for _, v in chunks}
    shelves = Shelves()
    for _, value in chunks:
        shelves.take(topics.ARTIFACTS.name, value)
    shelves.take(topics.MODELS.name, update)
    assert shelves.heavy("tiny") is not None


@pytest.mark.kafka
def test_a_newer_version_is_kept_where_asked_and_the_same_is_renewed(
    broker: Broker, catalogue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers = broker.bootstrap_servers
    old, new = (str(write_package(tmp_path / f"v{version}", version=version)) for version in (1, 2))
    other = str(write_package(tmp_path / "other", name="other"))
    assert published_version("tiny", servers, catalogue) is None
    publish(read_package(new), servers, catalogue)
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send(topics.MODELS.named(catalogue), key=b"tiny", value=b"junk").get(10)
    producer.close()
    assert published_version("tiny", servers, catalogue, {"linger_ms": 5}) == 2
    options = [f"--kafka_bootstrap_servers={servers}", f"--kafka_topic_prefix={catalogue}"]
    assert cli.main(["publish", "--keep-newer", old, other, new, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "kept tiny version 2, which is newer than version 1"
    assert [line.split(",")[0] for line in said[1:]] == ["published other version 1", "published tiny version 2"]
    assert cli.main(["publish", "--keep-newer", old, *options, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "tiny", "version": 1, "kept": 2}
    assert cli.main(["publish", "--keep-newer", old, *options[:1], "--kafka_topic_prefix=none."]) == 69
    assert "the topic of the models is not there (topic='none.feedback.models')" in capsys.readouterr().err


@pytest.mark.kafka
def test_missing_topics_are_a_sentence(broker: Broker, tmp_path: Path) -> None:
    package = read_package(str(write_package(tmp_path / "m")))
    with pytest.raises(UnavailableError, match=r"the model could not be published: .*are the topics created\?"):
        publish(package, broker.bootstrap_servers, "no-such-prefix.", {"max_block_ms": 2_000})


@pytest.mark.parametrize("which", ["edge", "heavy"])
def test_both_halves_are_tried_before_anything_is_sent(tmp_path: Path, which: str) -> None:
    folder = write_package(tmp_path / "m")
    (folder / f"{which}.onnx").unlink()
    with pytest.raises(ModelError, match="a file of the package is missing"):
        read_package(str(folder))
