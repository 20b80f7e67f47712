"""The report of an import as people read it."""

from __future__ import annotations

from typing import Any

from deploy.importing.importer import Report
from deploy.text import duration, utc

#: Devices and channels that are listed one by one.
LISTED = 40
#: Share of rows that jump back, above which it is not just a clock that was set.
MANY = 0.01
#: Whole numbers up to here are the same in float32.
EXACT = 1 << 24


def lines(report: Report) -> list[str]:
    """One fact a line; what is unusual is said, what is as it should be is not."""
    data: dict[str, Any] = report.as_json()
    out = [f"{file['file']}: {file['rows']:,} rows, {_form(file)}" for file in data["files"]]
    time = data["time"]
    if time is None:
        out.append("time: made from --rate")
    else:
        zone = "" if time["format"] in ("s", "ms", "us", "ns") else f", {time['timezone']} where no zone is given"
        out.append(f"time: {' + '.join(time['columns'])} ({time['format']}{zone})")
    out.append(f"label: {data['label'] or 'none'}")
    if data["labels_missing"]:
        out.append(f"  {data['labels_missing']:,} rows have no label and count as normal")
    out.append(f"inputs: {len(data['channels'])}")
    out += [f"  {_channel(channel, data['rows'])}" for channel in data["channels"][:LISTED]]
    if len(data["channels"]) > LISTED:
        rest = data["channels"][LISTED:]
        out.append(f"  … {len(rest)} more, with {sum(c['missing'] for c in rest):,} cells missing")
    for entry in data["left_out"][:LISTED]:
        out.append(f"left out: {entry['column']} ({entry['why']})")
    out.append(f"devices: {len(data['devices'])} of cohort {data['cohort']}")
    for device in data["devices"][:LISTED]:
        out += _device(device, bool(data["label"]))
    if len(data["devices"]) > LISTED:
        out.append(f"  … {len(data['devices']) - LISTED} more; --format json lists all")
    if data["rows_without_time_dropped"]:
        out.append(f"dropped: {data['rows_without_time_dropped']:,} rows without a time")
    if data["recording"]:
        out.append(
            f"wrote {data['recording']['path']}: {data['rows']:,} readings, {data['recording']['bytes']:,} bytes"
        )
    else:
        out.append("dry run: nothing was written")
    return out


def _form(file: dict[str, Any]) -> str:
    if file["format"] != "csv":
        return str(file["format"])
    parts = [f"separator {file['separator']!r}", f"decimal {file['decimal']!r}", str(file["encoding"])]
    parts += [] if file["header"] else ["no header"]
    parts += ["a line of units"] if file["units_line"] else []
    parts += [f"{file['skipped_lines']} lines skipped"] if file["skipped_lines"] else []
    return "csv, " + ", ".join(parts)


def _channel(channel: dict[str, Any], rows: int) -> str:
    text = str(channel["name"]) + (f" [{channel['unit']}]" if channel["unit"] else "")
    if channel["min"] is None:
        return f"{text}: never a value"
    text += f": {channel['min']:.6g} to {channel['max']:.6g}"
    if channel["min"] == channel["max"]:
        text += ", never changes"
    if max(abs(channel["min"]), abs(channel["max"])) > EXACT:
        text += f", above {EXACT:,} not exact to one: values are float32"
    if channel["missing"]:
        text += f", {channel['missing']:,} of {rows:,} missing"
    if channel["infinite"]:
        text += f", {channel['infinite']:,} infinite"
    return text


def _device(device: dict[str, Any], labelled: bool) -> list[str]:
    ends = f"{utc(device['oldest_us'])} to {utc(device['newest_us'])}"
    out = [f"  {device['device_id']}: {device['rows']:,} rows, {ends}"]
    if device["step_us"]:
        often = "" if device["steady_share"] > 0.999 else f" for {device['steady_share']:.1%} of the steps"
        out.append(f"    one reading every {duration(device['step_us'])}{often}")
    if device["gaps"]:
        out.append(f"    {device['gaps']:,} gaps, the longest {duration(device['largest_gap_us'])}")
    if device["jumps_back"]:
        where, far = device["first_jump_back"], duration(device["largest_jump_back_us"])
        out.append(
            f"    {device['jumps_back']:,} jumps back in time, the first at row {where['row']} of {where['file']}, the "
            f"largest by {far}; {device['rows_behind']:,} rows are behind one before them"
        )
        if device["jumps_back"] > MANY * device["rows"]:
            out.append(
                "    so many mean that the rows are out of order, or that the times are read wrongly: no model's"
            )
            out.append("    window reaches across a jump. Sort the file, or see --time-format and --device-column")
    if device["repeated_times"]:
        out.append(f"    {device['repeated_times']:,} rows repeat a time; they are kept, in the order of the file")
    if device["unclear_local_times"]:
        out.append(f"    {device['unclear_local_times']:,} rows at a change of summer time, taken in their order")
    if labelled:
        if device["anomalous_rows"] > device["rows"] / 2:
            out.append("    more than half are labelled anomalous: if that is wrong, name what is normal with --normal")
        out.append(
            f"    {device['anomalous_rows']:,} rows labelled anomalous, in {device['anomalous_segments']:,} segments"
        )
    return out
