from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from edge_filters import cli
from edge_filters.assemble import assemble, remember_package, remember_thresholds, remembered_package
from edge_filters.config import KAFKA_SETTINGS, PRODUCER_ONLY, EdgeConfig, Plugin, Recorded, Synthetic, read_config
from edge_filters.io.state import FileStore
from schemas.errors import ConfigError
from schemas.records import ThresholdsSource
from tests.doubles import edge_model, recording
from tests.doubles.edge_parts import T0, thresholds

NOT_ON_AN_EDGE = ("apache_beam", "pyarrow", "sklearn", "rich", "pandas", "onnx", "skl2onnx", "pipelines", "deploy")
SAMPLE = Path(__file__).parents[3] / "deploy" / "config" / "edge.toml"

VALID = """
[edge]
state_dir = "state"
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[model]
path = "model"
[[device]]
id = "plant1/pump-7"
sensor = { kind = "recorded", path = "r.avro", speed = "60x" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    edge_model.write(tmp_path / "model")
    recording.write(tmp_path / "r.avro", range(20))
    return tmp_path


def config(folder: Path, text: str, **environ: str) -> EdgeConfig:
    (folder / "edge.toml").write_text(text)
    return read_config(folder / "edge.toml", environ)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        config(folder, text)
    return [line.strip() for line in str(wrong.value).splitlines()[1:]]


def test_a_short_file_is_enough_and_the_rest_has_defaults(folder: Path) -> None:
    made = config(folder, VALID)
    assert made.spool_path == folder / "state" / "spool"
    assert (made.window.max_wait, made.audit.rate, made.spool.max_bytes) == (None, 0.01, 64 << 20)
    sensor = made.device[0].sensor
    assert isinstance(sensor, Recorded)
    assert (sensor.speed, sensor.max_pause) == (60.0, 5_000_000)


def test_the_sample_that_is_shipped_is_valid(folder: Path) -> None:
    environ = {"MODEL": str(folder / "model"), "RECORDING": str(folder / "r.avro")}
    made = read_config(SAMPLE, environ)
    assert made.device[0].id == "plant1/pump-7"
    with pytest.raises(ConfigError, match=r"there is no 'pump-7.avro' at \$\.device\[0\]\.sensor\.path"):
        read_config(SAMPLE, {"MODEL": str(folder / "model")})


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    text = """
        devise = 1
        [edge]
        [kafka]
        bootstrap_servers = "127.0.0.1:9092"
        ssl_cafille = "ca.pem"
        [window]
        max_gap = 5
        [spool]
        max_bytes = "64"
        [[device]]
        id = "pump 7"
        sensor = { kind = "recorded", path = "nowhere.avro", speed = "fast", pace = 1 }
        [[device]]
        id = "pump-8"
        model = "nothing"
        sensor = { kind = "synthetic", rate_hz = "100Hz" }
    """
    found = problems(folder, text)
    settings = ", ".join(sorted(KAFKA_SETTINGS))
    assert sorted(found) == sorted(
        [
            "unknown key at $.devise; did you mean 'device'?",
            "missing key at $.edge.state_dir",
            f"unknown key 'ssl_cafille' at $.kafka; beside ours, these are passed on: {settings}",
            'missing unit in duration 5 at $.window.max_gap; write it with its unit, like "250ms"',
            "missing unit in size '64' at $.spool.max_bytes; write it like 64MiB; "
            "units are B, KiB, MiB, GiB, kB, MB, GB",
            "not a device id: 'pump 7' at $.device[0].id; it is a path of letters, digits and ._-/",
            f"there is no 'nowhere.avro' at $.device[0].sensor.path; looked for {folder / 'nowhere.avro'}",
            'not a speed: \'fast\' at $.device[0].sensor.speed; write it like "60x", or "max"',
            "unknown key at $.device[0].sensor.pace",
            f"there is no 'nothing' at $.device[1].model; looked for {folder / 'nothing'}",
            "expected float, got str at $.device[1].sensor.rate_hz",
        ]
    )


def test_two_devices_with_one_id_are_a_problem(folder: Path) -> None:
    twice = VALID + VALID[VALID.index("[[device]]") :]
    assert problems(folder, twice) == ["two devices have the id 'plant1/pump-7' at $.device; give each its own"]


def test_a_device_without_any_model_is_a_problem(folder: Path) -> None:
    text = VALID.replace('[model]\npath = "model"\n', "")
    assert problems(folder, text) == [
        "no model for plant1/pump-7 at $; add [model] with its path, or `model` to the device"
    ]


def test_other_kinds_of_sensors(folder: Path) -> None:
    made = config(
        folder,
        VALID
        + '[[device]]\nid = "b"\nsensor = { kind = "synthetic", readings = 10 }\n'
        + '[[device]]\nid = "c"\nsensor = { kind = "mine:modbus", address = "10.0.0.8" }\n',
    )
    assert isinstance(made.device[1].sensor, Synthetic)
    own = made.device[2].sensor
    assert isinstance(own, Plugin)
    assert own.options == {"address": "10.0.0.8"}


def test_what_is_passed_on_to_kafka_python_is_known_to_it() -> None:
    assert set(KafkaProducer.DEFAULT_CONFIG) >= KAFKA_SETTINGS
    assert set(KafkaConsumer.DEFAULT_CONFIG) >= KAFKA_SETTINGS - PRODUCER_ONLY


def test_secrets_are_not_shown_where_a_configuration_is_printed(folder: Path) -> None:
    text = VALID.replace("[model]", 'sasl_plain_password = "${PASSWORD}"\n[model]')
    made = config(folder, text, PASSWORD="hunter2")
    assert made.kafka.settings == {"sasl_plain_password": "hunter2"}
    assert "hunter2" not in repr(made)
    assert "hunter2" not in str(made)


def test_what_does_not_fit_together_is_said_at_once_at_the_start(folder: Path) -> None:
    recording.write(folder / "other.avro", range(3), channels=("a", "x", "y"))
    (folder / "foreign.avro").write_text("time,value\n")
    edge_model.write(folder / "broken", self_test_gain=5.0)
    text = VALID.replace("r.avro", "other.avro")
    text += '[[device]]\nid = "b"\nsensor = { kind = "recorded", path = "foreign.avro" }\n'
    text += '[[device]]\nid = "c"\nmodel = "broken"\nsensor = { kind = "recorded", path = "r.avro" }\n'
    text += '[[device]]\nid = "d"\nsensor = { kind = "recored", path = "r.avro" }\n'
    made = config(folder, text)
    with pytest.raises(ConfigError) as wrong:
        assemble(made, 1)
    first, *lines = str(wrong.value).splitlines()
    assert first == "the configuration does not fit what it names: 4 problem(s):"
    assert lines[0] == (
        "  device plant1/pump-7: the sensor gives channels [a, x, y] (3), but model tiny 1 takes [a, b] (2)"
    )
    assert lines[1].startswith("  device b: not an Avro container file (recording='")
    assert lines[2].startswith("  the model fails its self-test: ")
    assert lines[3].startswith("  device d: there is no sensor of kind 'recored'; known are recorded, synthetic")


def test_devices_may_run_different_packages_and_cohorts(folder: Path) -> None:
    edge_model.write(folder / "other", name="other", cohort="fans")
    text = VALID + '[[device]]\nid = "fan"\nmodel = "other"\nsensor = { kind = "recorded", path = "r.avro" }\n'
    text += '[[device]]\nid = "b"\ncohort = "spare"\nsensor = { kind = "recorded", path = "r.avro" }\n'
    devices = assemble(config(folder, text), 1).engine.devices
    assert {d: (m.slot.name, m.cohort) for d, m in devices.items()} == {
        "plant1/pump-7": ("tiny", "pumps"),
        "fan": ("other", "fans"),
        "b": ("tiny", "spare"),
    }


def test_thresholds_and_models_of_an_earlier_run_are_in_force_again(folder: Path) -> None:
    store = FileStore(folder / "state")
    made = config(folder, VALID)
    before = assemble(made, 1, store)
    device = before.engine.devices["plant1/pump-7"]
    device.thresholds.offer(thresholds(target="plant1/pump-7", version=4), T0)
    remember_thresholds(device, store)
    remember_package(store, edge_model.package(version=3, gain=2.0), "pumps")
    after = assemble(made, 2, store)
    device = after.engine.devices["plant1/pump-7"]
    assert device.thresholds.at(T0)[1:3] == (4, ThresholdsSource.FEEDBACK)
    assert device.thresholds.at(T0 + 3_600_000_000).source is ThresholdsSource.EXPIRED
    assert device.slot.version == 3
    assert after.notices == ["model tiny 3 from an earlier update runs"]


def test_a_kept_model_that_is_older_than_the_configured_one_or_damaged_is_not_used(folder: Path) -> None:
    store = FileStore(folder / "state")
    remember_package(store, edge_model.package(version=1, gain=2.0), "pumps")
    assert assemble(config(folder, VALID), 1, store).engine.slots[0].scorer.package == edge_model.package()
    remember_package(store, edge_model.package(version=3), "pumps")
    store.save("model:tiny:pumps:file", b"damaged")
    assert remembered_package(store, "tiny", "pumps") is None
    assert assemble(config(folder, VALID), 1, store).engine.slots[0].version == 1


def test_check_says_what_would_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config(folder, VALID)
    assert cli.main(["run", str(folder / "edge.toml"), "--check"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  plant1/pump-7: model tiny 1, cohort pumps"
    assert cli.main(["run", str(folder / "edge.toml"), "--check", "-o", "json"]) == 0
    assert '"ok": true' in capsys.readouterr().out
    assert not (folder / "state").exists()


def test_check_ends_with_the_code_for_configurations_and_names_the_problems(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "edge.toml").write_text("devise = 1\n" + VALID)
    assert cli.main(["run", str(folder / "edge.toml"), "--check"]) == 78
    assert capsys.readouterr().err == (
        "edge-filters: edge.toml: 1 problem:\n  unknown key at $.devise; did you mean 'device'?\n"
    )
    assert cli.main(["run", str(folder / "edge.toml"), "--check", "-o", "json"]) == 78
    assert '"ok": false' in capsys.readouterr().out
    assert cli.main(["run", str(folder / "no.toml")]) == 78
    assert "the configuration cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "replay"])
def test_help_shows_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert re.search(rf"examples:\n +python -m edge_filters {command} ", capsys.readouterr().out)


def test_an_edge_process_imports_no_engine_and_no_training(folder: Path) -> None:
    import subprocess

    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {NOT_ON_AN_EDGE}:\n"
        "            raise ImportError(name + ' is blocked')\n"
        "sys.meta_path.insert(0, Block())\n"
        "import edge_filters.io.kafka, edge_filters.run, edge_filters.cli\n"
        "sys.exit(edge_filters.cli.main(sys.argv[1:]))\n"
    )
    config(folder, VALID)
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(folder / "edge.toml"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
