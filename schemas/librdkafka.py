"""Settings of the Kafka client, said once: users write kafka-python's names, and librdkafka gets its own. Pure.

Both clients can stand behind the same ports; a configuration that works with one works with the other or is refused
with a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from schemas.errors import ConfigError

#: The two client libraries, as `[kafka] client` and `--kafka_client_library` name them.
Library = Literal["kafka-python", "confluent"]
LIBRARIES: tuple[Library, ...] = ("kafka-python", "confluent")
INSTALL = "pip install tidegate[fast], or choose the client kafka-python"

_NAMES = {
    "batch_size": "batch.size",
    "client_id": "client.id",
    "connections_max_idle_ms": "connections.max.idle.ms",
    "fetch_max_bytes": "fetch.max.bytes",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "fetch_min_bytes": "fetch.min.bytes",
    "linger_ms": "linger.ms",
    "max_partition_fetch_bytes": "max.partition.fetch.bytes",
    "metadata_max_age_ms": "metadata.max.age.ms",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "reconnect_backoff_max_ms": "reconnect.backoff.max.ms",
    "reconnect_backoff_ms": "reconnect.backoff.ms",
    "request_timeout_ms": "socket.timeout.ms",
    "retry_backoff_ms": "retry.backoff.ms",
    "sasl_kerberos_service_name": "sasl.kerberos.service.name",
    "sasl_mechanism": "sasl.mechanism",
    "sasl_plain_password": "sasl.password",
    "sasl_plain_username": "sasl.username",
    "security_protocol": "security.protocol",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
}
#: What librdkafka has no need of: it connects by itself and keeps no metrics of its own in Python.
_WITHOUT_MEANING = frozenset({"bootstrap_timeout_ms", "metrics_enabled"})


def translated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under librdkafka's names.

    >>> translated({"security_protocol": "SSL", "ssl_check_hostname": False})
    {'security.protocol': 'SSL', 'ssl.endpoint.identification.algorithm': 'none'}

    Raises:
        ConfigError: settings that librdkafka has no counterpart for.
    """
    out: dict[str, Any] = {}
    unknown: list[str] = []
    for name, value in settings.items():
        if name in _NAMES:
            if value is not None:
                out[_NAMES[name]] = value
        elif name == "ssl_check_hostname":
            out["ssl.endpoint.identification.algorithm"] = "https" if value else "none"
        elif name == "compression_type":
            out["compression.type"] = value or "none"
        elif name not in _WITHOUT_MEANING:
            unknown.append(name)
    if unknown:
        raise ConfigError(
            "settings that the client confluent has no counterpart for",
            fix="leave them out, or choose the client kafka-python",
            settings=sorted(unknown),
        )
    return out
