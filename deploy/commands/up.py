"""`tidegate up`: a local broker in the background, with every topic of the catalogue."""

from __future__ import annotations

import argparse
from dataclasses import asdict

HELP = "start a local Kafka broker in the background and make every topic"
EXAMPLES = """\
examples:
  tidegate up                    port 9092, or a free one when that is taken
  tidegate up --port 19092       this port or none
  tidegate up --engine flink     a Flink cluster beside it: JobManager, two TaskManagers, job server, workers
  tidegate up -o json            address, pid and folders for a script

It listens on 127.0.0.1 only and keeps its data in .tidegate (TIDEGATE_HOME) until `tidegate down --wipe`.
exit codes: 0 runs (also when it ran before), 69 Java or the jars are missing, or it did not start
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy.output import add_format

    parser.add_argument("--port", type=int, help="where clients connect (default: 9092 if free, else any free port)")
    parser.add_argument("--prefix", default="", help="put before every topic name, with its dot: plant1.")
    parser.add_argument(
        "--engine",
        choices=["flink"],
        help="also start this engine for the pipeline (default: none; Prism needs nothing that runs before it)",
    )
    parser.add_argument("--no-topics", action="store_true", help="leave the broker empty")
    add_format(parser, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Raises MissingToolError, UnavailableError."""
    from deploy import output, paths, stack, topics
    from deploy.cluster import Cluster

    if stack.current(paths.home()) is None:
        output.note("starting the broker …")
    state, started = stack.up(paths.home(), port=args.port)
    made = []
    if not args.no_topics:
        with Cluster(state.bootstrap_servers) as cluster:
            made = [change for change in topics.look(cluster, args.prefix) if change.action != "none"]
            for left in topics.apply(cluster, made):
                output.note(f"{left.topic} keeps its partitions ({left.difference}); see `tidegate topics --help`")
    flink = None
    if args.engine == "flink":
        from deploy.flink import background

        output.note("starting the Flink cluster …")
        flink, _ = background.up(paths.home())
    if args.output == "json":
        told = {**asdict(state), "started": started, "topics_changed": [c.topic for c in made]}
        output.print_json(told if flink is None else {**told, "flink": asdict(flink)})
        return
    print(f"Kafka {'is ready' if started else 'was running already'} at {state.bootstrap_servers} (pid {state.pid})")
    print(f"topics made or changed: {len(made)}; log: {state.log}")
    if flink is not None:
        print(f"Flink is ready, its page is at {flink.url}; run the pipeline on it with")
        print(
            f"  python -m pipelines run {' '.join(flink.options)} --kafka_bootstrap_servers={state.bootstrap_servers}"
        )
    print("next: `tidegate status`, `tidegate tail edge.events`; end it with `tidegate down`")
