"""Settings under both clients' names."""

from __future__ import annotations

from typing import Any

import pytest

from edge_filters.config import KAFKA_SETTINGS, PRODUCER_ONLY
from pipelines.io.feed_config import DEFAULTS
from schemas.errors import ConfigError
from schemas.librdkafka import translated

#: Of those that an edge.toml may hold, what librdkafka has no counterpart for.
LACKING = {"proxy_url", "sasl_kerberos_domain_name", "sasl_kerberos_name", "socks5_proxy"}
VALUES: dict[str, Any] = {
    "client_id": "edge-7", "compression_type": "lz4", "sasl_mechanism": "PLAIN", "security_protocol": "SASL_SSL",
    "ssl_check_hostname": True, "sasl_plain_password": "p", "sasl_plain_username": "u", "reconnect_backoff_ms": 50,
    "sasl_kerberos_service_name": "kafka", "ssl_password": "p",
}  # fmt: skip
FILES = {"ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_crlfile", "ssl_ciphers"}


def test_every_setting_that_may_be_passed_on_is_translated_or_refused_by_name() -> None:
    for name in KAFKA_SETTINGS - LACKING:
        assert translated({name: VALUES.get(name, 1000)}), name
    with pytest.raises(ConfigError, match="no counterpart for") as refused:
        translated(dict.fromkeys(LACKING, "x"))
    assert refused.value.where["settings"] == sorted(LACKING)
    assert "choose the client kafka-python" in str(refused.value)


def test_librdkafka_knows_every_name_and_value() -> None:
    import confluent_kafka as ck

    given = {name: VALUES.get(name, 1000) for name in KAFKA_SETTINGS - LACKING - FILES}
    servers = {"bootstrap.servers": "127.0.0.1:9", "log_level": 0}
    producer = ck.Producer(translated(given) | servers)
    producer.purge()
    heard = {name: value for name, value in given.items() if name not in PRODUCER_ONLY}
    ck.Consumer(translated(heard | DEFAULTS) | servers | {"group.id": "g"}).close()
    for name in FILES:  # it opens these at once: what it complains about is the file, never the name
        with pytest.raises(ck.KafkaException, match=r"(?i)ssl|cipher") as failed:
            ck.Producer(translated({name: "/nowhere", "security_protocol": "SSL"}) | servers)
        assert "No such configuration property" not in str(failed.value)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"ssl_check_hostname": True}, {"ssl.endpoint.identification.algorithm": "https"}),
        ({"ssl_check_hostname": False}, {"ssl.endpoint.identification.algorithm": "none"}),
        ({"compression_type": None}, {"compression.type": "none"}),
        ({"ssl_cafile": None}, {}),
        ({"metrics_enabled": False, "bootstrap_timeout_ms": 300}, {}),
    ],
)
def test_values_that_differ_are_translated_too(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert translated(ours) == theirs
