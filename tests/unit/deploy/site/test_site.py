"""The site as a plan: what stands in it, and that its first alarm comes with the first burst and not before."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.site.site import Plan, Wishes, plan, write
from edge_filters.assemble import assemble
from edge_filters.config import read_config
from schemas.errors import ConfigError
from schemas.records import EdgeEvent
from tests.doubles.edge_parts import T0, ManualClock

text = st.text(min_size=1, max_size=20).filter(lambda name: "${" not in name)


def made(**wishes: Any) -> Plan:
    return plan(Wishes(**{"folder": Path("site"), "bootstrap_servers": "127.0.0.1:9092"} | wishes))


@given(
    st.lists(text, min_size=1, max_size=5, unique=True), text.filter(lambda name: "/" not in name and "\0" not in name)
)
def test_whatever_channels_and_folder_are_called_the_files_are_valid(channels: list[str], folder: str) -> None:
    site = made(channels=channels, folder=Path("/tmp") / folder)
    assert site.channels == channels
    for name in ("edge.toml", "topics.toml"):
        tomllib.loads(site.files[name].decode())
    for name in ("edge.sh", "pipeline.sh", "README.md"):
        assert b"@" not in site.files[name].replace(b'"$@"', b"").split(b"\n", 1)[1]


def test_the_signal_of_a_new_site_is_quiet_but_for_its_bursts(tmp_path: Path) -> None:
    write(made(folder=tmp_path / "s"), tmp_path / "s")
    parts = assemble(read_config(tmp_path / "s" / "edge.toml", {}), 1)
    (sensor,) = parts.sensors.values()
    sensor.start(0.0, T0)
    clock, events = ManualClock(), []
    for _ in range(120):  # a minute: two bursts of a second
        block = sensor.read()
        assert block is not None
        events += [r for r in parts.engine.step([block], clock).records if isinstance(r, EdgeEvent)]
    seconds = {(e.sensed_from - T0) // 1_000_000 for e in events}
    assert {29, 59} <= seconds <= {29, 30, 59}
    assert parts.engine.devices["plant1/machine-1"].counters["alarms_raised"] == 2


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"the site cannot be written \(folder='.*/file/s'"):
        write(made(), tmp_path / "file" / "s")


def test_a_name_that_toml_would_take_for_a_variable_is_refused(tmp_path: Path) -> None:
    from tests.doubles import recording

    (tmp_path / "${HOME}").mkdir()
    path = recording.write(tmp_path / "${HOME}" / "r.avro", range(20))
    with pytest.raises(ConfigError, match="a name must not hold"):
        made(recording=path)
