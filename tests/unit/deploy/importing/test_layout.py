"""What is found out about a table without being told, and what has to be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.importing.csv_table import CsvForm, CsvTable, find_form
from deploy.importing.layout import Layout, find_layout
from deploy.importing.tables import open_table, unique
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError
from tests.unit.deploy.importing.tables import imported, table


def form(text: str, encoding: str = "utf-8", **wanted: object) -> CsvForm:
    return find_form(text.encode(encoding), True, Wanted(**wanted))  # type: ignore[arg-type]


def layout(path: Path, **wanted: object) -> Layout:
    options = Wanted(**wanted)  # type: ignore[arg-type]
    found = open_table(path, options)
    return find_layout(found.sample(), found.columns, found.decimal, options)


def csv(tmp_path: Path, text: str, **wanted: object) -> Layout:
    return layout(table(tmp_path, text), **wanted)


def inputs(found: Layout) -> list[str]:
    return [channel.name for channel in found.channels]


@pytest.mark.parametrize(
    ("text", "separator", "decimal"),
    [
        ("t,a\n1,2.5\n", ",", "."),
        ("t;a\n1;2,5\n", ";", ","),
        ("t;a\n1;2.5\n", ";", "."),
        ("t\ta b\n1\t2,5\n", "\t", ","),
        ("t|a\n1|2\n", "|", "."),
        ("a b\n1.5 2\n", " ", "."),
        ("1,5;2,5\n1,5;2,5\n", ";", ","),
        ('"x;y",a\n"1;2",3\n', ",", "."),
        ("t;a\n2024-01-01 10:00:00;1\n", ";", "."),
        ("v\n1\n2\n", ",", "."),
    ],
)
def test_separator_and_decimal_mark_are_found(text: str, separator: str, decimal: str) -> None:
    found = form(text)
    assert (found.separator, found.decimal) == (separator, decimal)


@pytest.mark.parametrize(
    ("text", "header", "columns", "skip"),
    [
        ("time,a\n1,2\n", True, ("time", "a"), 0),
        ("1,2\n3,4\n", False, ("c00", "c01"), 0),
        ("2024-01-01,x\n", False, ("c00", "c01"), 0),
        ("# logger 7\n# v2\ntime,a\n1,2\n", True, ("time", "a"), 2),
        ("\n\ntime,a\n1,2\n", True, ("time", "a"), 2),
        ("a,a,\n1,2,3\n", True, ("a", "a.2", "column3"), 0),
        ("\ufefftime,a\n1,2\n", True, ("time", "a"), 0),
        ("sep=;\ntime;a\n1;2\n", True, ("time", "a"), 1),
        ("timestamp,0,1\n2024-01-01,5,6\n", True, ("timestamp", "0", "1"), 0),
        ("2024-01-01,run,5\n2024-01-02,run,6\n", False, ("c00", "c01", "c02"), 0),
    ],
)
def test_the_header_is_found(text: str, header: bool, columns: tuple[str, ...], skip: int) -> None:
    found = form(text)
    assert (found.header, found.columns, found.skip) == (header, columns, skip)


def test_a_line_of_units_under_the_header_is_no_row(tmp_path: Path) -> None:
    text = "time;temp;p;state\ns;[°C];bar;\n1700000000;20,5;1,2;run\n1700000001;20,6;1,3;run\n"
    found = imported(tmp_path, table(tmp_path, text), units={"p": "hPa"})
    assert found.values["pump"].tolist() == np.array([[20.5, 1.2], [20.6, 1.3]], np.float32).tolist()
    assert found.header["units"] == '{"p": "hPa", "temp": "°C"}'


def test_a_row_of_missing_values_is_no_line_of_units() -> None:
    assert form("time,a\nNA,NA\n1700000000,2\n").units == ()
    assert form("state,a\nrun,1\nrun,2\n").units == ()


def test_what_the_user_says_about_a_text_file_goes_first() -> None:
    found = form("x\na;b\n1;2\n", separator=";", skip_lines=1, decimal=",", header=False)
    assert (found.columns, found.skip, found.decimal, found.header) == (("c00", "c01"), 1, ",", False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_common_encoding_is_read_to_the_end(tmp_path: Path, encoding: str, end: str) -> None:
    rows = [f"{1_700_000_000 + n};{n},5" for n in range(2_000)]
    path = table(tmp_path, end.join(["Zeit;Öltemp. [°C]", *rows]) + end, encoding=encoding)
    found = imported(tmp_path, path)
    assert found.channels == ["Öltemp."]
    assert found.header["units"] == '{"Öltemp.": "°C"}'
    assert found.values["pump"][:, 0].tolist() == [n + 0.5 for n in range(2_000)]


def test_names_are_made_unique_without_taking_another() -> None:
    assert unique(["a", "a", "a.2", ""]) == ["a", "a.3", "a.2", "column4"]


@pytest.mark.parametrize(
    ("text", "columns", "kind"),
    [
        ("timestamp,a\n2024-01-01 00:00:00,1\n", ("timestamp",), "iso"),
        ("a,when\n1,2024-01-01T00:00:00Z\n", ("when",), "iso"),
        ("a,x\n1,1700000000\n1,1700000001\n", ("x",), "s"),
        ("a,x\n1,1700000000123\n1,1700000000124\n", ("x",), "ms"),
        ("t,a\n0,1\n0.1,2\n", ("t",), "s"),
        ("time [ms],a\n0,1\n10,2\n", ("time [ms]",), "ms"),
        ("time_us,a\n0,1\n10,2\n", ("time_us",), "us"),
        ("Date;Time;a\n10/03/2004;18.00.00;1\n31/03/2004;19.00.00;1\n", ("Date", "Time"), "dmy"),
        ("Date,Time,a\n2024-01-01,10:00:00,1\n", ("Date", "Time"), "iso"),
        ("date,a\n20240131,1\n20240201,2\n", ("date",), "%Y%m%d"),
        ("time,a\n20240131235959,1\n20240201000001,2\n", ("time",), "%Y%m%d%H%M%S"),
        ("id,created,time\n1,2023-01-01,2024-01-01\n", ("time",), "iso"),
    ],
)
def test_the_time_column_is_found(tmp_path: Path, text: str, columns: tuple[str, ...], kind: str) -> None:
    found = csv(tmp_path, text).time
    assert found is not None
    assert (found.columns, found.format) == (columns, kind)


def test_a_measured_time_is_no_time_column(tmp_path: Path) -> None:
    found = csv(tmp_path, "timestamp,response_time,a\n1700000000,3,1\n1700000001,4,2\n")
    assert inputs(found) == ["response_time", "a"]


def test_a_date_that_is_no_date_is_not_taken_for_seconds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column holds times"):
        csv(tmp_path, "date,a\n45321,1\n45322,2\n")


def test_text_in_another_encoding_far_down_is_said_and_can_be_named(tmp_path: Path) -> None:
    rows = "".join(f"{1_700_000_000 + n},{n}.25,caf\u00e9\n" for n in range(1))
    filler = "".join(f"{1_700_000_001 + n},{n}.25,cafe\n" for n in range(40_000))
    path = table(tmp_path, "time,a,place\n" + filler + rows, encoding="cp1252")
    with pytest.raises(DecodeError, match="--encoding cp1252"):
        imported(tmp_path, path, device_column="place")
    found = imported(tmp_path, path, device_column="place", encoding="cp1252", device="x")
    assert found.report.rows == 40_001


def test_without_times_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        csv(tmp_path, "a,b\n3,2\n1,5\n")
    assert csv(tmp_path, "a,b\n3,2\n1,5\n", step_us=1).time is None


def test_a_named_time_format_picks_the_column_that_has_it(tmp_path: Path) -> None:
    text = "a,when\n1,01/02/2024 10:00\n2,02/02/2024 10:00\n"
    with pytest.raises(ConfigError, match="day first or month first"):
        csv(tmp_path, text)
    found = csv(tmp_path, text, time_format="mdy").time
    assert found is not None
    assert (found.columns, found.format) == (("when",), "mdy")
    with pytest.raises(ConfigError, match="no column holds times of format"):
        csv(tmp_path, text, time_format="%Y-%m-%d")


@pytest.mark.parametrize("option", ["time", "channels", "exclude"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, option: str) -> None:
    with pytest.raises(ConfigError, match="columns are time, a, b"):
        csv(tmp_path, "time,a,b\n1700000000,1,2\n", **{option: ("temperature",)})


def test_text_and_row_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    found = csv(tmp_path, ",time,a,remark,\n0,1700000000,1,fine,\n1,1700000001,2,hot,\n")
    assert inputs(found) == ["a"]
    assert dict(found.left_out) == {
        "column1": "counts the rows",
        "remark": "holds no numbers",
        "column5": "has no name and no values",
    }


def test_a_column_with_a_few_words_among_its_numbers_is_not_left_out_in_silence(tmp_path: Path) -> None:
    assert inputs(csv(tmp_path, "time,a\n1700000000,1\n1700000001,err\n1700000002,3\n")) == ["a"]


def test_channels_are_chosen_by_name_and_pattern_in_the_order_asked(tmp_path: Path) -> None:
    text = "time,s1 [V],s2,t1,t2\n1700000000,1,2,3,4\n"
    assert inputs(csv(tmp_path, text, channels=("t2", "s*"))) == ["t2", "s1", "s2"]
    assert inputs(csv(tmp_path, text, exclude=("t*",))) == ["s1", "s2"]
    with pytest.raises(ConfigError, match="cannot be an input and something else"):
        csv(tmp_path, text, channels=("time", "s2"))
    with pytest.raises(ConfigError, match="no column is left"):
        csv(tmp_path, text, exclude=("*",))


def test_names_that_differ_only_in_their_unit_keep_it(tmp_path: Path) -> None:
    found = csv(tmp_path, "time,motor [V],motor [A],CO(GT)\n1700000000,1,2,3\n")
    assert inputs(found) == ["motor [V]", "motor [A]", "CO(GT)"]
    assert [channel.unit for channel in found.channels] == ["V", "A", None]


def test_parquet_brings_its_types_along(tmp_path: Path) -> None:
    columns = {
        "at": pa.array([1, 2], pa.timestamp("ms", "Europe/Berlin")),
        "a": pa.array([1, None], pa.int16()),
        "on": pa.array([True, False]),
        "name": pa.array(["x", "y"]).dictionary_encode(),
        "nested": pa.array([[1], [2]]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = layout(tmp_path / "a.parquet")
    assert (found.time.columns if found.time else None, inputs(found)) == (("at",), ["a", "on"])
    read = imported(tmp_path, tmp_path / "a.parquet")
    assert read.times["a"].tolist() == [1_000, 2_000]
    assert np.isnan(read.values["a"][1, 0])


def test_arrays_in_an_npz_are_columns(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", time=np.arange(2) + 1_700_000_000, temp=np.ones(2), acc=np.ones((2, 3), ">f4"))
    assert inputs(layout(tmp_path / "a.npz")) == ["temp", "acc_00", "acc_01", "acc_02"]


def test_a_compressed_text_file_is_read(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "pump.csv.gz"
    path.write_bytes(gzip.compress(b"time,a\n1700000000,1\n1700000001,2\n", mtime=0))
    assert imported(tmp_path, path).values["pump"][:, 0].tolist() == [1, 2]
    assert isinstance(open_table(path, Wanted()), CsvTable)
