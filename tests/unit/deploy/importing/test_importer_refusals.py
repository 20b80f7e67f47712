"""What is no table, or a wrong cell of one, is refused with a sentence and leaves nothing behind."""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.importing.importer import import_files
from deploy.importing.wanted import Wanted
from schemas.errors import ConfigError, DecodeError
from tests.unit.deploy.importing.tables import imported, table


@pytest.mark.parametrize(
    ("text", "row", "column"),
    [
        ("time,a,b\n1700000000,1,2\n1700000001,1,x7\n1700000002,1,2\n", 2, "b"),
        ("time,a,b\n2024-01-01 00:00:00,1,2\n2024-01-01 00:00:61,1,2\n2024-01-01 00:01:00,1,2\n", 2, "time"),
        ("time,a,b\n1700000000,1,2\n1700000001,3,4\n,1,2\n", 3, "time"),
        ("time,a,b\n1700000000,1e39,2\n", 1, "a"),
    ],
)
def test_a_wrong_cell_is_named_and_nothing_is_written(tmp_path: Path, text: str, row: int, column: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DecodeError) as refused:
        imported(tmp_path, path)
    assert refused.value.where["file"] == str(path)
    assert (refused.value.where["row"], refused.value.where["column"]) == (row, column)
    assert refused.value.fix
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["pump.csv"]


def test_a_wrong_cell_far_down_is_named_by_its_row_in_the_file(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + n},{n}.123456,{n}.654321\n" for n in range(150_000)]
    rows[140_000] = "1700140000,oops,1\n"
    with pytest.raises(DecodeError) as refused:
        imported(tmp_path, table(tmp_path, "time,a,b\n" + "".join(rows)))
    assert (refused.value.where["row"], refused.value.where["cell"]) == (140_001, "oops")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.npy", "a.npz", "a.tsv"])
@pytest.mark.parametrize(
    "data", [b"", b"\x00\x01\x02", b"PAR1" + bytes(100), b"\x93NUMPY\x01\x00", b"PK\x03\x04zip", b"\n\n\n"]
)
def test_junk_is_refused_with_a_sentence(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DecodeError) as refused:
        imported(tmp_path, tmp_path / name)
    assert name in str(refused.value.where["file"])


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=400), st.sampled_from(["a.csv", "a.npy", "a.npz", "a.parquet"]), st.booleans())
def test_whatever_the_bytes_are_they_are_read_or_refused(data: bytes, name: str, damaged: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if damaged:  # a good file with some of its bytes replaced
            whole = bytearray(_good(name))
            at = len(data) * 7919 % len(whole)
            whole[at : at + min(len(data), 8)] = data[:8]
            data = bytes(whole)
        path.write_bytes(data)
        try:
            import_files([path], Path(folder) / "out.avro", Wanted())
        except (DecodeError, ConfigError):
            assert [entry.name for entry in Path(folder).iterdir()] == [name]


CELLS = (
    "1|2.5|-3,5||NaN|time|2024-01-01|01/02/2024|13.02.2024 10:00|10:00:00|1700000000|1e999|inf|-inf|x|°C|true|NORMAL"
)
CELLS += '|0x1F|1_000|+5|--|2024-02-30|99999999999999999999|é|\0|20240131|12:61|"a;b"|"x'


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.lists(st.sampled_from(CELLS.split("|")), min_size=1, max_size=5), max_size=8),
    st.sampled_from(["time", "Date", "a", "t", ""]),
    st.sampled_from(",;\t| "),
    st.sampled_from(["utf-8", "utf-16", "cp1252"]),
    st.sampled_from(
        [
            {},
            {"step_us": 5.0},
            {"time": ("time",)},
            {"timezone": "Europe/Berlin", "drop_untimed": True},
            {"device_column": "label"},
            {"label": "a"},
            {"time_format": "dmy"},
            {"decimal": ","},
        ]
    ),
)
def test_whatever_the_cells_are_they_are_read_or_refused(
    rows: list[list[str]], name: str, separator: str, encoding: str, wanted: dict[str, object]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "\n".join(separator.join(row) for row in [[name, "a", "label", "x [V]"], *rows])
        path = table(Path(folder), text, encoding=encoding)
        with contextlib.suppress(DecodeError, ConfigError):
            imported(Path(folder), path, **wanted)


def _good(name: str) -> bytes:
    file = io.BytesIO()
    columns = {"time": np.arange(50) + 1_700_000_000, "a": np.arange(50.0), "b": np.arange(50.0)}
    if name.endswith("npy"):
        np.save(file, np.arange(100.0).reshape(50, 2))
    elif name.endswith("npz"):
        np.savez(file, **columns)  # type: ignore[arg-type]
    elif name.endswith("parquet"):
        pq.write_table(pa.table(columns), file)
    else:
        file.write(b"time,a\n" + b"".join(b"%d,%d\n" % (1_700_000_000 + n, n) for n in range(50)))
    return file.getvalue()


@pytest.mark.parametrize("header", [b"{'shape': (", b"  x\n x", b"(" * 500, b"{'shape': 1}", b"\0"])
def test_a_header_of_an_array_that_is_no_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DecodeError, match="header of the array is damaged"):
        imported(tmp_path, path, step_us=1)


def test_objects_in_an_array_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([[print]], dtype=object), allow_pickle=True)
    with pytest.raises(DecodeError, match="no table of numbers"):
        imported(tmp_path, tmp_path / "a.npy", step_us=1)


@pytest.mark.parametrize("where", ["a.xlsx", "folder", "nothing.csv"])
def test_what_is_no_table_is_refused_before_anything_is_read(tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ConfigError):
        imported(tmp_path, tmp_path / where)
