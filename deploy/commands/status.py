"""`tidegate status`: is the broker there, and what is in its topics."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "show the broker, how many records each topic holds, and the Flink cluster where one runs"
EXAMPLES = """\
examples:
  tidegate status
  tidegate status -o json | jq '.topics[] | select(.records > 0)'
  tidegate status -b kafka.plant.example:9092 --prefix plant1.

exit codes: 0 the broker answers, 69 it does not
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    address.add_options(parser)
    output.add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Print it. Returns 69 when no broker answers; what is known is printed all the same."""
    from deploy import address, output, paths, stack
    from deploy.cluster import Cluster
    from schemas.errors import UnavailableError, exit_code
    from schemas.topics import CATALOGUE

    local = stack.current(paths.home())
    where = address.resolve(args.bootstrap_servers)
    broker: dict[str, Any] = {"bootstrap_servers": where, "answers": False, "pid": None, "log": None}
    if local is not None and local.bootstrap_servers == where:
        broker.update(pid=local.pid, log=local.log)
    rows: list[dict[str, Any]] = []
    problem = None
    try:
        with Cluster(where, timeout_s=5.0) as cluster:
            found = cluster.topics(topic.named(args.prefix) for topic in CATALOGUE)
            records = cluster.records(found.values())
        broker["answers"] = True
        for topic in CATALOGUE:
            name = topic.named(args.prefix)
            state = found.get(name)
            rows.append(
                {
                    "topic": name,
                    "exists": state is not None,
                    "partitions": state.partitions if state else None,
                    "records": records.get(name),
                    "record": topic.record.__name__,
                }
            )
    except UnavailableError as error:
        problem = error
    flink = _flink()
    if args.output == "json":
        output.print_json({"broker": broker, "topics": rows, "flink": flink})
    elif problem is None:
        print(
            f"Kafka answers at {where}" + (f" (pid {broker['pid']}, started by `tidegate up`)" if broker["pid"] else "")
        )
        output.print_table(
            rows,
            {
                "topic": "topic",
                "exists": "exists",
                "partitions": "partitions",
                "records": "records",
                "record": "record",
            },
        )
    if flink is not None and args.output != "json":
        print(f"Flink {flink['version'] or 'does not answer'}: {flink['url']}")
        print(f"  TaskManagers: {flink['taskmanagers']}; free slots: {flink['slots_free']} of {flink['slots']}")
        print(f"  jobs: {', '.join(f'{job} {state}' for job, state in flink['jobs'].items()) or 'none'}")
        if flink["missing"]:
            print(f"  not running: {', '.join(flink['missing'])}; `tidegate up --engine flink` starts all of it anew")
    if problem is not None:
        output.note(f"tidegate: {problem}")
        return exit_code(problem)
    return 0


def _flink() -> dict[str, Any] | None:
    """The cluster of `tidegate up --engine flink`; None where there is none."""
    from deploy import paths
    from deploy.flink import background
    from deploy.flink.rest import Rest
    from schemas.errors import UnavailableError

    state = background.current(paths.home())
    if state is None:
        return None
    told: dict[str, Any] = {"url": state.url, "version": None, "taskmanagers": 0, "slots": 0, "slots_free": 0}
    told |= {"jobs": {}, "missing": state.missing()}
    try:
        seen = Rest(state.url).overview()
        told |= {"version": seen.version, "taskmanagers": seen.taskmanagers, "slots": seen.slots}
        told |= {"slots_free": seen.slots_free, "jobs": Rest(state.url).jobs()}
    except UnavailableError:
        pass
    return told
