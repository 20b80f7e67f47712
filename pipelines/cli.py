"""`python -m pipelines …`: run the live pipeline, serve workers, replay recordings, publish models, show the graph."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence

from schemas import logs
from schemas.errors import EXIT_CODES, DecodeError, TidegateError, exit_code

RUN_EXAMPLES = """examples:
  python -m pipelines run --runner=PrismRunner --kafka_bootstrap_servers=127.0.0.1:9092
  python -m pipelines run --runner=PrismRunner --prism_location=.tools/bin/prism --fleet_window=10s --source_grid=20ms
  python -m pipelines run --runner=FlinkRunner --job_endpoint=127.0.0.1:8099 --environment_type=EXTERNAL \\
      --environment_config=127.0.0.1:50000 --parallelism=2     on a cluster: docs/flink.md
  python -m pipelines run --help                               all options, ours and Beam's

Every option that is not ours goes to Beam unchanged. On Prism the job runs under a supervisor: it is started again
after a crash and goes on from the committed offsets. SIGTERM stops it in good order.
"""
EXAMPLES = """examples:
  python -m pipelines run --runner=PrismRunner --kafka_bootstrap_servers=127.0.0.1:9092
  python -m pipelines replay build/edge --models build/models/servers -o build/decided
  python -m pipelines publish build/models/servers --kafka_bootstrap_servers=127.0.0.1:9092
  python -m pipelines explain
"""

#: Options of Flink that `run` may add, see pipelines/job.py.
JOB_SERVER_OPTIONS = (
    "--max_bundle_time_mills",
    "--max_bundle_size",
    "--checkpointing_interval",
    "--number_of_execution_retries",
    "--execution_retry_delay",
)


def parser() -> argparse.ArgumentParser:
    """The command line; `run` and `job` leave everything they do not know to Beam."""
    top = argparse.ArgumentParser(
        prog="python -m pipelines",
        description="The cloud half of Tidegate: Beam pipelines behind Kafka.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "run the live pipeline; on Prism under a supervisor"),
        ("job", "run the live pipeline once, without a supervisor"),
    ):
        commands.add_parser(
            name, help=text, epilog=RUN_EXAMPLES, add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter
        )
    replay = commands.add_parser("replay", help="run the same graph over recorded topics, on this machine alone")
    replay.add_argument("folder", help="folder with one Avro container file per topic, such as edge.events.avro")
    replay.add_argument("--models", nargs="+", required=True, metavar="DIR", help="model packages")
    replay.add_argument("-o", "--output", required=True, metavar="DIR", help="folder to write; created if missing")
    replay.add_argument("--fleet_window", default="5s", metavar="DURATION", help="fleet windows (default: 5s)")
    publish = commands.add_parser("publish", help="publish model packages to edges and pipelines")
    publish.add_argument("folders", nargs="+", metavar="DIR", help="model packages")
    publish.add_argument("--kafka_bootstrap_servers", default="127.0.0.1:9092", help="host:port[,host:port…]")
    publish.add_argument("--kafka_topic_prefix", default="", help="put before every topic name, with its dot: plant1.")
    publish.add_argument(
        "--kafka_client_config", default="", metavar="FILE", help="JSON object of further kafka-python settings"
    )
    publish.add_argument(
        "--keep-newer", action="store_true", help="leave a model alone of which a newer version is published already"
    )
    publish.add_argument(
        "-o", "--output", choices=["text", "json"], default="text", help="a line or a JSON object per package"
    )
    workers = commands.add_parser(
        "workers", help="start Python workers for an engine that asks for them, such as Flink"
    )
    workers.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    workers.add_argument("--port", type=int, default=50000, help="for --environment_config (default: %(default)s)")
    commands.add_parser("explain", help="print the graph")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of one command; see docs/exit-codes.md."""
    given = list(sys.argv[1:] if argv is None else argv)
    log_format = logs.format_of(given) if given[:1] in (["run"], ["job"]) else "text"
    log_to_stderr(log_format, given[:1] == ["run"])
    try:
        if given[:1] in (["run"], ["job"]):
            return _run(given[0], given[1:])
        args = parser().parse_args(given)
        return int(
            {"replay": _replay, "publish": _publish, "workers": _workers, "explain": _explain}[args.command](args)
        )
    except TidegateError as error:
        if log_format == "json":
            logging.getLogger("pipelines").critical(str(error))
        else:
            print(f"pipelines: {error}", file=sys.stderr)
        return exit_code(error)


def log_to_stderr(log_format: str = "text", supervises: bool = False) -> None:
    """Our own progress at INFO; of everybody else what is at least a warning."""
    handler = logging.StreamHandler(sys.stderr)
    process = "supervisor" if supervises else "pipeline"
    handler.setFormatter(logs.formatter(log_format, process, "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], force=log_format == "json")
    if log_format == "json":
        logs.log_uncaught(logging.getLogger("pipelines"))
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C part writes past every handler
    for ours in ("pipelines", "schemas"):
        logging.getLogger(ours).setLevel(logging.INFO)
    # It repeats every failed reconnect, hundreds in an outage; what matters of it is said once, by us.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    for each in logging.getLogger().handlers:
        each.addFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    """Drops those of Beam's warnings that warn of nothing.

    One says at import that a client for BigQuery is missing, which we do not use; one that Prism is being started,
    which is what was asked for; and one is said of options that only a job server knows, before it was asked.
    """
    said = record.name, str(record.msg)
    return not any(
        said[0] == name and said[1].startswith(start)
        for name, start in (
            ("root", "apitools not found"),
            ("apache_beam.utils.subprocess_server", "Really starting service"),
            *(
                ("apache_beam.options.pipeline_options", f"Unparseable argument: {name}=")
                for name in JOB_SERVER_OPTIONS
            ),
        )
    )


def _run(command: str, argv: list[str]) -> int:
    if command == "run" and _on_prism(argv) and not {"-h", "--help"} & set(argv):
        # Beam is not imported here: a supervisor is small. The job checks the options, and what it refuses is final.
        from pipelines.supervisor import supervise

        return supervise(argv)
    from pipelines.options import TidegateOptions, check, help_text

    # Beam's parsers name the program in their usage errors by it; a supervised job was asked for as `run`.
    sys.argv[0] = f"python -m pipelines {os.environ.get('TIDEGATE_SUPERVISED') or command}"
    if {"-h", "--help"} & set(argv):
        print(f"{RUN_EXAMPLES}\n{help_text(command)}")
        return 0
    options = check(argv)
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, logs.Redacting):
            handler.formatter.keep(logs.passwords(options.view_as(TidegateOptions).client()))
    from pipelines.job import run_until_signal

    run_until_signal(argv)
    return 0


def _on_prism(argv: list[str]) -> bool:
    given = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    given.add_argument("--runner", default="")
    return str(given.parse_known_args(argv)[0].runner).lower().endswith(("prism", "prismrunner"))


def _replay(args: argparse.Namespace) -> int:
    from pipelines.replay import replay
    from schemas.units import duration_us

    report = replay(args.folder, args.models, args.output, duration_us(args.fleet_window))
    print(json.dumps(report, indent=2))
    for sentence in report["damaged"]:
        print(f"pipelines: {sentence}", file=sys.stderr)
    return EXIT_CODES[DecodeError] if report["damaged"] else 0


def _publish(args: argparse.Namespace) -> int:
    from pipelines.options import client_settings
    from pipelines.publish import publish, published_version, read_package

    client = client_settings(args.kafka_client_config)
    packages = [read_package(folder) for folder in args.folders]
    where = args.kafka_bootstrap_servers, args.kafka_topic_prefix, client
    for package in packages:
        name, version = package.manifest.name, package.manifest.version
        newest = published_version(name, *where) if args.keep_newer else None
        if newest is not None and newest > version:
            kept = {"model": name, "version": version, "kept": newest}
            line = f"kept {name} version {newest}, which is newer than version {version}"
            print(json.dumps(kept) if args.output == "json" else line)
            continue
        update = publish(package, *where)
        found = {"model": update.model_name, "version": update.version, "sha256": update.manifest_sha256.hex()}
        line = "published {model} version {version}, package {sha256}".format(**found)
        print(json.dumps(found) if args.output == "json" else line)
    return 0


def _workers(args: argparse.Namespace) -> int:
    from pipelines.workers import serve

    serve(args.host, args.port)
    return 0


def _explain(args: argparse.Namespace) -> int:
    from pipelines import graph

    print(graph.__doc__)
    return 0
