"""Tables in, the same values out; and what is said about them."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.importing.importer import import_files
from deploy.importing.text import lines
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError
from tests.unit.deploy.importing.tables import Imported, imported, table

MINUTE = 60_000_000

tables = st.integers(1, 6).flatmap(
    lambda wide: st.lists(
        st.tuples(
            st.integers(-10_000_000_000_000_000, 10_000_000_000_000_000),
            st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=wide, max_size=wide),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    )
)


def assert_equal(found: Imported, rows: list[tuple[int, list[float], bool]]) -> None:
    assert found.times[found.only].tolist() == [at for at, _, _ in rows]
    expected = np.array([values for _, values, _ in rows], np.float32)
    np.testing.assert_array_equal(found.values[found.only], expected)
    assert found.labels[found.only] == [int(flag) for _, _, flag in rows]
    assert found.report.rows == len(rows)


@settings(deadline=None, max_examples=40)
@given(tables, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from(["\n", "\r\n"]))
def test_any_finite_table_as_csv_comes_out_with_the_same_values(
    rows: list[tuple[int, list[float], bool]], separator: str, end: str
) -> None:
    wide = len(rows[0][1])
    text = separator.join(["t", *(f"s{at}" for at in range(wide)), "label"]) + end
    for at, values, flag in rows:
        text += separator.join([str(at), *map(repr, values), str(int(flag))]) + end
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), text)
        assert_equal(imported(Path(folder), path, time=("t",), time_format="us"), rows)


@settings(deadline=None, max_examples=40)
@given(tables)
def test_any_finite_table_as_parquet_or_npz_comes_out_with_the_same_values(
    rows: list[tuple[int, list[float], bool]],
) -> None:
    times = np.array([at for at, _, _ in rows])
    values = np.array([values for _, values, _ in rows], np.float32)
    flags = np.array([flag for _, _, flag in rows])
    with tempfile.TemporaryDirectory() as folder:
        columns = {"t": pa.array(times, pa.timestamp("us")), "label": pa.array(flags)}
        columns |= {f"s{at}": pa.array(column) for at, column in enumerate(values.T)}
        pq.write_table(pa.table(columns), Path(folder) / "a.parquet")
        assert_equal(imported(Path(folder), Path(folder) / "a.parquet", time=("t",)), rows)
        np.savez(Path(folder) / "b.npz", time=times.astype("datetime64[us]"), values=values, label=flags)
        assert_equal(imported(Path(folder), Path(folder) / "b.npz", time=("time",)), rows)


def test_rows_that_jump_back_and_repeat_are_all_kept_in_order_and_reported(tmp_path: Path) -> None:
    clock = [0, 5, 10, 15, 5, 10, 20, 20, 25, 100]
    rows = "".join(f"2024-01-01 {at // 60:02}:{at % 60:02}:00,{n}\n" for n, at in enumerate(clock))
    found = imported(tmp_path, table(tmp_path, "time,v\n" + rows))
    assert found.values["pump"][:, 0].tolist() == list(range(10))
    assert [int(at - found.times["pump"][0]) // MINUTE for at in found.times["pump"]] == clock
    survey = found.report.devices["pump"].as_json("pump")
    assert survey["jumps_back"] == 1
    assert survey["first_jump_back"] == {"file": str(tmp_path / "pump.csv"), "row": 5}
    assert survey["largest_jump_back_us"] == 10 * MINUTE
    assert (survey["rows_behind"], survey["repeated_times"]) == (2, 3)
    assert (survey["gaps"], survey["largest_gap_us"], survey["step_us"]) == (1, 75 * MINUTE, 5 * MINUTE)
    said = "\n".join(lines(found.report))
    assert "1 jumps back in time, the first at row 5" in said
    assert "3 rows repeat a time" in said
    assert "1 gaps, the longest 75 min" in said


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    path = table(tmp_path, "time,v\n" + "".join(f"{1_700_000_000 + n},{n * 0.37}\n" for n in range(3_000)))
    assert imported(tmp_path, path).data == imported(tmp_path, path).data


def test_the_header_says_what_is_in_the_recording(tmp_path: Path) -> None:
    path = table(tmp_path, "time,temp [°C],flow (l/min),fault\n1700000000,20,3,0\n1700000001,21,4,1\n")
    found = imported(tmp_path, path, label="fault", units={"flow (l/min)": "litre/min"})
    header = dict(found.header)
    assert json.loads(header.pop("units")) == {"temp": "°C", "flow": "litre/min"}
    assert json.loads(header.pop("channels")) == found.channels == ["temp", "flow"]
    numbers = {key: int(header.pop(key)) for key in ("devices", "readings", "labelled", "first_time", "last_time")}
    assert numbers == {
        "devices": 1,
        "readings": 2,
        "labelled": 1,
        "first_time": 1_700_000_000_000_000,
        "last_time": 1_700_000_001_000_000,
    }
    assert header == {"device_id": "pump", "cohort": "pump", "origin": "pump.csv"}


def test_missing_cells_become_nan_and_are_counted(tmp_path: Path) -> None:
    text = "time,a,b\n1700000000,,1\n1700000001,NaN,-200\n1700000002, n/a ,3\n1700000003,4,4\n"
    found = imported(tmp_path, table(tmp_path, text), missing=("-200", "n/a"))
    a, b = found.values["pump"].T
    assert [math.isnan(value) for value in a] == [True, True, True, False]
    assert [math.isnan(value) for value in b] == [False, True, False, False]
    channels = found.report.as_json()["channels"]
    assert [channel["missing"] for channel in channels] == [3, 1]  # type: ignore[attr-defined]
    assert "a: 4 to 4, never changes, 3 of 4 missing" in "\n".join(lines(found.report))


def test_a_counter_too_large_for_its_steps_is_pointed_out(tmp_path: Path) -> None:
    found = imported(tmp_path, table(tmp_path, "time,a\n1700000000,16777216\n1700000001,5\n"))
    assert "not exact" not in "\n".join(lines(found.report))
    found = imported(tmp_path, table(tmp_path, "time,a\n1700000000,16777219\n1700000001,5\n"))
    assert "above 16,777,216 not exact to one" in "\n".join(lines(found.report))


def test_a_number_that_stands_for_no_value_is_one_in_every_format(tmp_path: Path) -> None:
    pq.write_table(pa.table({"time": [1_700_000_000, 1_700_000_001], "a": [-200, 3]}), tmp_path / "a.parquet")
    text = table(tmp_path, "time,a\n1700000000,-200.0\n1700000001,3\n")
    for path in (tmp_path / "a.parquet", text):
        found = imported(tmp_path, path, missing=("-200",))
        assert np.isnan(found.values[found.only][:, 0]).tolist() == [True, False]


def test_a_label_never_becomes_an_input_and_words_are_understood(tmp_path: Path) -> None:
    text = "time,v,machine_status\n" + "".join(
        f"{1_700_000_000 + n},{n},{word}\n" for n, word in enumerate(["NORMAL", "BROKEN", "RECOVERING", "normal", ""])
    )
    found = imported(tmp_path, table(tmp_path, text), label="machine_status")
    assert found.channels == ["v"]
    assert found.labels["pump"] == [0, 1, 1, 0, 0]
    assert found.report.labels_missing == 1
    own = imported(tmp_path, table(tmp_path, text), label="machine_status", normal=frozenset({"recovering", "normal"}))
    assert own.labels["pump"] == [0, 1, 0, 0, 0]


def test_a_column_called_label_is_kept_apart_unless_it_is_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path, "time,v,anomaly,changepoint\n1700000000,5,0,0\n1700000001,6,1.0,1\n")
    found = imported(tmp_path, path)
    assert (found.channels, found.labels["pump"]) == (["v"], [0, 1])
    assert "left out: changepoint (looks like a second label" in "\n".join(lines(found.report))
    assert imported(tmp_path, path, no_label=True).channels == ["v", "anomaly", "changepoint"]
    assert imported(tmp_path, path, label="changepoint").channels == ["v"]
    assert imported(tmp_path, path, channels=("v", "changepoint")).channels == ["v", "changepoint"]


def test_a_device_column_makes_devices_with_their_rows_in_order(tmp_path: Path) -> None:
    text = "time,machine,v\n"
    text += "".join(f"{1_700_000_000 + n},{'ABC'[n % 3]} {n % 3},{n}\n" for n in range(2_000))
    found = imported(tmp_path, table(tmp_path, text), device_column="machine", device="plant1")
    assert list(found.times) == ["plant1/A-0", "plant1/B-1", "plant1/C-2"]
    for number, device in enumerate(found.times):
        assert found.values[device][:, 0].tolist() == list(range(number, 2_000, 3))
    assert found.header["devices"].strip() == "3"
    assert found.header["cohort"] == "plant1"
    assert "device_id" not in found.header


def test_devices_whose_names_fall_together_are_refused(tmp_path: Path) -> None:
    path = table(tmp_path, "time,machine,v\n1700000000,a b,1\n1700000001,a-b,2\n")
    with pytest.raises(ConfigError, match="the same device"):
        imported(tmp_path, path, device_column="machine")


def test_files_are_appended_in_their_order_whatever_the_order_of_their_columns(tmp_path: Path) -> None:
    one = table(tmp_path, "time,a,b\n1700000000,1,2\n1700000001,3,4\n", "one.csv")
    two = table(tmp_path, "b;time;a\n6;1700000002;5\n", "two.csv")
    found = imported(tmp_path, one, two, device="pump-7")
    assert found.values["pump-7"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert [file["rows"] for file in found.report.files] == [2, 1]
    apart = imported(tmp_path, one, two)
    assert {device: len(times) for device, times in apart.times.items()} == {"one": 2, "two": 1}


def test_two_files_of_one_name_are_not_appended_by_accident(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = [
        table(tmp_path, "time,v\n1700000000,1\n", "x.csv"),
        table(tmp_path / "a", "time,v\n1700000000,1\n", "x.csv"),
    ]
    with pytest.raises(ConfigError, match="--device NAME"):
        imported(tmp_path, *files)


def test_files_with_other_columns_are_refused_by_name(tmp_path: Path) -> None:
    one = table(tmp_path, "time,a,b\n1700000000,1,2\n", "one.csv")
    two = table(tmp_path, "time,a,c\n1700000000,1,2\n", "two.csv")
    with pytest.raises(ConfigError) as refused:
        imported(tmp_path, one, two, device="pump")
    assert (refused.value.where["missing"], refused.value.where["more"]) == (["b"], ["c"])
    assert not (tmp_path / "out.avro").exists()
    assert imported(tmp_path, one, two, device="pump", channels=("a",)).channels == ["a"]


def test_without_times_a_rate_makes_them_across_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.arange(6.0).reshape(3, 2))
    np.save(tmp_path / "two.npy", np.asfortranarray(np.arange(6.0, 10.0).reshape(2, 2)))
    found = imported(
        tmp_path, tmp_path / "one.npy", tmp_path / "two.npy", device="mill", step_us=100_000, start_us=1_000_000
    )
    assert found.times["mill"].tolist() == [1_000_000 + n * 100_000 for n in range(5)]
    assert found.values["mill"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert found.channels == ["c00", "c01"]


def test_rows_without_a_time_are_left_out_only_when_asked_and_counted(tmp_path: Path) -> None:
    path = table(tmp_path, "time,a,label\n1700000000,1,0\n,2,1\n1700000002,3,1\n")
    found = imported(tmp_path, path, drop_untimed=True)
    assert found.values["pump"][:, 0].tolist() == [1, 3]
    assert found.labels["pump"] == [0, 1]
    assert "dropped: 1 rows without a time" in lines(found.report)


def test_lines_of_another_length_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, "time,a,b\n1700000000,1,2\n1700000001,1\n")
    with pytest.raises(DecodeError, match=r"line 3 .* has 2 cells where the columns are 3"):
        imported(tmp_path, path)


def test_line_breaks_within_quotes_are_part_of_their_cell(tmp_path: Path) -> None:
    text = 'time,remark,a\n1700000000,"two\nlines",1\n1700000001,"a ""quote"", and more",2\n1700000002,,3\n'
    found = imported(tmp_path, table(tmp_path, text))
    assert found.values["pump"][:, 0].tolist() == [1, 2, 3]


def test_rows_out_of_order_and_labels_the_wrong_way_round_are_pointed_out(tmp_path: Path) -> None:
    clock = np.random.default_rng(2).permutation(500) + 1_700_000_000
    found = imported(
        tmp_path, table(tmp_path, "time,a,label\n" + "".join(f"{at},1,1\n" for at in clock)), time=("time",)
    )
    said = "\n".join(lines(found.report))
    assert "the rows are out of order" in said
    assert "name what is normal with --normal" in said
    assert found.times["pump"].tolist() == (clock * 1_000_000).tolist()


def test_a_dry_run_reads_everything_and_writes_nothing(tmp_path: Path) -> None:
    path = table(tmp_path, "time,a\n" + "".join(f"{1_700_000_000 + n},{n}\n" for n in range(500)))
    shares: list[float] = []
    report = import_files([path], None, Wanted(), lambda share, rows: shares.append(share))
    assert report.rows == 500
    assert shares[-1] == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["pump.csv"]
    assert lines(report)[-1] == "dry run: nothing was written"
    assert json.loads(json.dumps(report.as_json()))["devices"][0]["rate_hz"] == 1.0


def test_a_recording_does_not_replace_its_source(tmp_path: Path) -> None:
    path = table(tmp_path, "time,a\n1700000000,1\n", "out.avro.csv")
    with pytest.raises(ConfigError, match="replace one of the files"):
        import_files([path], path, Wanted())


def test_a_recording_that_is_there_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path, out = table(tmp_path, "time,a\n1700000000,1\n"), tmp_path / "out.avro"
    out.write_bytes(b"of somebody")
    with pytest.raises(ConfigError, match=r"there is a recording already.*--force"):
        import_files([path], out, Wanted())
    assert out.read_bytes() == b"of somebody"
    assert import_files([path], out, Wanted(), force=True).rows == 1
    assert out.read_bytes().startswith(b"Obj")


def test_what_was_there_stays_when_an_import_fails(tmp_path: Path) -> None:
    good = table(tmp_path, "time,a\n1700000000,1\n", "good.csv")
    bad = table(tmp_path, "time,a\n1700000000,1\n1700000001,x\n1700000002,3\n", "bad.csv")
    before = imported(tmp_path, good).data
    with pytest.raises(DecodeError):
        imported(tmp_path, bad)
    assert (tmp_path / "out.avro").read_bytes() == before


def test_a_wide_table_is_cut_into_records_below_their_limit(tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(700, 1_000)).astype(np.float32)
    np.save(tmp_path / "wide.npy", values)
    found = imported(tmp_path, tmp_path / "wide.npy", step_us=1_000)
    np.testing.assert_array_equal(found.values["wide"], values)


def test_names_of_columns_may_be_long_but_not_longer_than_a_reader_takes(tmp_path: Path) -> None:
    for letter, fits in (("x", True), ("é", False)):  # a letter takes six bytes of the header where it is not ASCII
        names = [f"{at:03d}".ljust(90, letter) for at in range(1_000)]
        path = table(tmp_path, ",".join(["time", *names]) + "\n" + "1" + ",2" * 1_000 + "\n2" + ",3" * 1_000 + "\n")
        if fits:
            found = imported(tmp_path, path)
            assert found.channels == names
            assert found.header["readings"].strip() == "2"
            continue
        (tmp_path / "out.avro").unlink()
        with pytest.raises(ConfigError, match="names of the columns are too long"):
            imported(tmp_path, path)
        assert [entry.name for entry in tmp_path.iterdir()] == ["pump.csv"]


def test_a_column_named_like_a_blank_of_the_header_keeps_its_name(tmp_path: Path) -> None:
    name = "<devices>".ljust(24, "_")
    found = imported(tmp_path, table(tmp_path, f"time,{name}\n1,5\n2,6\n"))
    assert json.loads(found.header["channels"]) == found.channels == [name]
    assert found.header["devices"].strip() == "1"


def test_a_place_that_is_a_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out.avro").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written .*directory"):
        import_files([table(tmp_path, "time,v\n1,x1\n2,3\n3,4\n")], tmp_path / "out.avro", Wanted())
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.avro", "pump.csv"]
