"""`tidegate flink`: stop a pipeline on a Flink cluster so that it can go on where it was."""

from __future__ import annotations

import argparse

HELP = "stop a pipeline on a Flink cluster with a savepoint that it can go on from"
EXAMPLES = """\
examples:
  tidegate flink stop                                        the one job of the cluster of `tidegate up`
  tidegate flink stop --url http://flink.example:8081 --to s3://plant/savepoints
  tidegate flink stop --job b611ee999ff1cea7209a81251621c644 -o json

Hand the pipeline in again with --savepoint_path=… as printed: nothing is lost, and nothing is decided twice.
exit codes: 0 stopped, 69 no cluster answers, 1 the savepoint failed and the job runs on, 78 which job, which cluster?
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy.output import add_format

    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    stop = verbs.add_parser("stop", help="write a savepoint, then end the job")
    stop.add_argument("--url", help="of the JobManager (default: the cluster of `tidegate up --engine flink`)")
    stop.add_argument("--job", help="its id (default: the only one that runs)")
    stop.add_argument(
        "--to", metavar="FOLDER", help="where the cluster writes the savepoint (default: beside its checkpoints)"
    )
    stop.add_argument("--drain", action="store_true", help="refused: see docs/flink.md")
    add_format(stop, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Raises ConfigError, UnavailableError, PipelineError."""
    from deploy import output, paths
    from deploy.flink import background
    from deploy.flink.rest import Rest
    from schemas.errors import ConfigError

    if args.drain:
        raise ConfigError(
            "a pipeline on Flink cannot be drained: its source waits on a timer that a drain never lets end, and the "
            "job then holds its slots until the TaskManagers are killed",
            fix="leave --drain out; a stop with a savepoint loses nothing",
        )
    local = None if args.url else background.current(paths.home())
    if not args.url and local is None:
        raise ConfigError(
            "which cluster?", fix="give --url=http://HOST:PORT, or start one by `tidegate up --engine flink`"
        )
    rest = Rest(args.url or local.url)  # type: ignore[union-attr]  # there is one: refused above
    running = rest.running()
    if args.job is None and len(running) != 1:
        raise ConfigError("which job?", fix=f"give --job; there run: {', '.join(running) or 'none'}", url=rest.url)
    job = args.job or running[0]
    if local is not None:
        folder = args.to or f"file://{local.folder}/savepoints"
    elif args.to:
        folder = args.to
    else:
        raise ConfigError("where to?", fix="give --to, a folder that JobManager and TaskManagers share")
    savepoint = rest.stop(job, folder)
    if args.output == "json":
        output.print_json({"job": job, "savepoint": savepoint})
        return
    print(f"stopped {job}; run the pipeline again with")
    print(f"  --savepoint_path={savepoint}")
