"""`tidegate ledger`: whether everything that devices sensed is accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "account for everything that devices sensed"
EXAMPLES = """\
examples:
  tidegate ledger                       all devices, everything the topics still hold
  tidegate ledger --from -1h            what came in the last hour
  tidegate ledger --in run1             a folder that `tidegate record` made
  tidegate ledger --device pump-7 -o json

Per device, readings sensed = invalid + aggregated and windows = unscored + answered + escalated, as its last report
counts them; per lane, made = there + evicted + in the spool, by identity; per event exactly one decision. Differences
are named by lane and sequence number; what eviction, the spool, a dead letter or a resend explains is said to be so.
Where the beginning of a topic is not read (--from, retention), a device's counters are not held against it, and gaps
are looked for from its first record on.
exit codes: 0 balanced, 1 something is unexplained, 65 a damaged file, 69 no broker or topic, 78 nothing recorded there
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output
    from deploy.commands.record import start_of

    parser.add_argument("--in", dest="folder", type=Path, metavar="DIR", help="recorded topics instead of a broker")
    parser.add_argument(
        "--from", dest="start", type=start_of, metavar="WHEN", help="what came then or later: a time, or -1h"
    )
    parser.add_argument("--device", default="", metavar="ID", help="only this device")
    parser.add_argument("--edge-only", action="store_true", help="do not ask for decisions: no pipeline runs")
    parser.add_argument(
        "--group",
        default="tidegate-pipeline",
        metavar="NAME",
        help="the pipeline's group: an event behind its position waits, one before it must be decided "
        "(default: tidegate-pipeline)",
    )
    parser.add_argument(
        "--settle",
        type=_seconds,
        default=30.0,
        metavar="TIME",
        help="where the group has no position: how long a decision may take (default: 30s)",
    )
    address.add_options(parser)
    output.add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Raises UnavailableError, ConfigError, DecodeError."""
    import time

    from deploy import address, output
    from deploy.ledger import reading
    from deploy.ledger.balance import balance
    from schemas.errors import ConfigError

    now_us = time.time_ns() // 1000
    if args.folder is not None:
        if args.start is not None:
            raise ConfigError("--from is for a broker", fix="record what you want with `tidegate record --from`")
        book = reading.from_folder(args.folder, decisions=not args.edge_only, device=args.device)
        now_ms = book.newest_ms
    else:
        book = reading.from_broker(
            address.resolve(args.bootstrap_servers),
            args.prefix,
            since_us=None if args.start is None else args.start.after(now_us),
            decisions=not args.edge_only,
            device=args.device,
            group=args.group,
        )
        now_ms = now_us // 1000
    result = balance(book, settled_ms=now_ms - int(args.settle * 1000))
    if args.output == "json":
        output.print_json(_json(result, book))
    else:
        _print(result, book)
    return 1 if result.unexplained else 0


def _print(result: Any, book: Any) -> None:
    from deploy import output
    from deploy.text import safe

    if not result.devices:
        output.note("no device has sent anything")
        return
    heads = {
        "device_id": "device", "lives": "lives", "health": "health", "sensed": "sensed", "invalid": "invalid",
        "aggregated": "aggregated", "windows": "windows", "answered": "answered", "sent": "sent",
        "evicted": "evicted", "in_spool": "in spool", "missing": "missing", "unexplained": "unexplained",
    }  # fmt: skip
    output.print_table([_fields(row) for row in result.devices], heads)
    print()
    heads = {
        "device_id": "device", "boot_epoch": "life", "lane": "lane", "made": "made", "there": "there",
        "missing": "missing", "evicted": "evicted", "again": "again", "decided": "decided",
    }  # fmt: skip
    output.print_table([_fields(row) for row in result.lanes], heads)
    if result.findings:
        print()
    for finding in sorted(result.findings, key=lambda finding: bool(finding.explained)):
        whose = f"{finding.device_id}, life {finding.boot_epoch}, " if finding.device_id else ""
        end = f" (explained: {finding.explained})" if finding.explained else ""
        mark = "" if finding.explained else "UNEXPLAINED "
        line = f"{mark}{finding.kind}: {whose}{finding.lane}: {finding.what}{end}"
        print(safe(line))
    if book.cut:
        output.note(f"the beginning was not read of: {', '.join(sorted(book.cut))}")
    output.note(
        f"{book.records:,} records of {len(result.devices)} device(s): "
        + (f"{len(result.unexplained)} unexplained" if result.unexplained else "balanced")
    )


def _json(result: Any, book: Any) -> dict[str, Any]:
    return {
        "balanced": not result.unexplained,
        "records": book.records,
        "cut": sorted(book.cut),
        "devices": [_fields(row) for row in result.devices],
        "lanes": [_fields(row) for row in result.lanes],
        "findings": [
            _fields(finding) | {"explained": finding.explained or None, "ranges": [list(r) for r in finding.ranges]}
            for finding in result.findings
        ],
    }


def _fields(row: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(row)


def _seconds(text: str) -> float:
    from schemas.errors import ConfigError
    from schemas.units import duration_us

    try:
        return duration_us(text) / 1e6
    except ConfigError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None
