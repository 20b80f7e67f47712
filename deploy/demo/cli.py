"""`tidegate demo`, which is what `make demo` runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import output, paths

EXAMPLES = """\
examples:
  tidegate demo                      about a minute of streaming
  tidegate demo --seconds 20         shorter; DEMO_SECONDS=20 make demo does the same
  tidegate demo -o json              the figures as JSON on stdout

Models are trained on first use and kept in build/models. Exit code 1 when anything was lost, doubled or not applied.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="tidegate demo",
        description="The main job on real recorded data: sensors, edge filters, broker, pipeline, feedback.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument(
        "--seconds",
        type=float,
        default=float(os.environ.get("DEMO_SECONDS") or 60),
        help="how long devices stream (default: $DEMO_SECONDS, else 60)",
    )
    p.add_argument("--folder", type=Path, default=paths.ROOT / "build" / "demo", help="where everything goes")
    output.add_format(p, ("text", "json"))
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run it. Returns 1 when the books do not balance."""
    args = parser().parse_args(argv)
    from deploy.demo.recordings import demo_devices
    from deploy.demo.run import DemoSettings, run
    from deploy.demo.view import view
    from schemas.errors import ConfigError

    if args.seconds < 5:
        raise ConfigError("a demo needs at least 5 seconds", got=args.seconds)
    folder = args.folder.absolute()
    figures = run(DemoSettings(args.seconds, folder), view([d.device_id for d in demo_devices()]))
    print(json.dumps(figures, indent=2) if args.output == "json" else text(figures, folder))
    for finding in figures["findings"]:
        print(f"tidegate: {finding}", file=sys.stderr)
    return 1 if figures["findings"] else 0


def text(f: dict[str, Any], folder: Path) -> str:
    """The summary for people."""

    def pair(name: str) -> str:
        p50, p99 = f[name]["p50"], f[name]["p99"]
        return "not measured" if p50 is None else f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"

    share = f["bytes_sent"] / max(f["bytes_sensed"], 1)
    agreement = "not measured" if f["agreement"] is None else f"{f['agreement']:.1%}"
    rows = [
        ("readings sensed", f"{f['readings_sensed']:,} by {f['devices']} devices in {f['seconds']:.0f} s"),
        ("windows scored", f"{f['windows_scored']:,}, of which {f['events_sent']:,} sent as events"),
        ("bytes", f"{f['bytes_sent']:,} sent of {f['bytes_sensed']:,} sensed ({share:.1%})"),
        ("decisions", f"{f['provisional']:,} provisional, {f['final']:,} final"),
        (
            "agreement",
            f"{agreement} of the edge's alarms confirmed ({f['overridden']} overridden, {f['resolved']} resolved)",
        ),
        ("edge latency", pair("edge_latency_ms")),
        ("final latency", pair("final_latency_ms")),
        ("feedback latency", f"{pair('feedback_latency_ms')} ({f['thresholds_applied']} threshold updates applied)"),
        ("fleet windows", f"{f['fleet_windows']:,}"),
        (
            "lost, doubled",
            f"{f['lost']}, {f['doubled']}; {f['dead_lettered']} dead letters, {f['not_applied']} not applied",
        ),
    ]
    lines = [f"{name:<18} {value}" for name, value in rows]
    lines.append("models")
    for device, m in f["models"].items():
        thresholds = f"thresholds {m['thresholds']}" if m["before"] else "never reported"
        lines.append(f"  {device:<22} version {m['before']} -> {m['after']}, {thresholds}")
    lines += ["", f"report: {folder / 'report.html'}"]
    return "\n".join(lines)
