"""Which boot epoch a live replay takes, and when it does not start at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaProducer

from deploy.broker import Broker
from deploy.recording.live import LiveSettings, known_epochs, replay_live
from schemas import topics
from schemas.codec import encode
from schemas.errors import ConfigError
from schemas.records import Health
from tests.doubles import one_event as one
from tests.doubles.tiny_model import write_package
from tests.e2e.test_record_command import write_recording

pytestmark = pytest.mark.kafka


def report(broker: Broker, prefix: str, *statuses: object) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, acks="all")
    for status in statuses:
        value = status if isinstance(status, bytes) else encode(status)  # type: ignore[arg-type]
        producer.send(topics.STATUS.named(prefix), key=b"pump-1", value=value)
    producer.flush()
    producer.close()


@pytest.fixture
def settings(broker: Broker, catalogue: str, tmp_path: Path) -> LiveSettings:
    model = write_package(tmp_path / "tiny")
    return LiveSettings(
        bootstrap_servers=broker.bootstrap_servers,
        prefix=catalogue,
        models=[model],
        speed=None,
        keep_times=True,
        feedback=False,
        quiet=True,
    )


def test_recorded_topics_are_not_sent_again(settings: LiveSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only readings can be replayed live"):
        replay_live([one.write_folder(tmp_path / "run")], settings)


def test_a_replay_is_one_epoch_more_than_the_topic_knows_and_refuses_a_running_device(
    broker: Broker, catalogue: str, settings: LiveSettings, tmp_path: Path
) -> None:
    recording = write_recording(tmp_path / "pump-1.avro", "pump-1", 0)
    report(broker, catalogue, b"junk", one.status(boot_epoch=6, health=Health.STOPPED), one.status(boot_epoch=3))
    assert known_epochs(broker.bootstrap_servers, catalogue) == {"pump-1": (6, False)}
    assert replay_live([recording], settings)["devices"] == {"pump-1": 7}
    assert known_epochs(broker.bootstrap_servers, catalogue) == {"pump-1": (7, False)}

    with pytest.raises(ConfigError, match="would take every record for one that it had already"):
        replay_live([recording], replace(settings, boot_epoch=7))
    assert replay_live([recording], replace(settings, boot_epoch=20))["devices"] == {"pump-1": 20}
    report(broker, catalogue, one.status(boot_epoch=21))
    with pytest.raises(ConfigError, match="a device of that name is running"):
        replay_live([recording], settings)
