"""`tidegate topics`: the catalogue against the broker."""

from __future__ import annotations

import argparse

HELP = "compare the topics of a broker with the catalogue, and make them so"
EXAMPLES = """\
examples:
  tidegate topics plan                    what differs; changes nothing
  tidegate topics apply                   create what is missing, set what differs
  tidegate topics apply --dry-run         the same as plan
  tidegate topics plan -o json --prefix plant1. -b kafka.plant.example:9092

Partitions are never added unasked: keys then move to other partitions, so the records of a device are out of order once
and the pipeline forgets which it has seen. Stop the edges, then `tidegate topics apply --grow`.
exit codes: 0 done, 1 something could not be changed, 69 no broker answers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    parser.add_argument("what", choices=("plan", "apply"), help="look, or do it")
    parser.add_argument("--dry-run", action="store_true", help="with apply: show the difference and change nothing")
    parser.add_argument("--grow", action="store_true", help="with apply: add partitions as well")
    address.add_options(parser)
    output.add_format(parser)


def run(args: argparse.Namespace) -> int:
    """Raises UnavailableError: no broker answers. Returns 1 when something was left undone."""
    from deploy import address, output, topics
    from deploy.cluster import Cluster

    with Cluster(address.resolve(args.bootstrap_servers)) as cluster:
        changes = topics.look(cluster, args.prefix)
        doing = args.what == "apply" and not args.dry_run
        left = topics.apply(cluster, changes, grow=args.grow) if doing else []
    rows = [
        {
            "topic": change.topic,
            "action": change.action,
            "difference": change.difference,
            "done": doing and change not in left,
        }
        for change in changes
        if change.action != "none" or args.output == "json"
    ]
    if args.output == "json":
        output.print_json(rows)
    elif rows:
        output.print_table(rows, {"topic": "topic", "action": "action", "difference": "difference", "done": "done"})
    else:
        print("every topic is as the catalogue says")
    for change in left:
        why = "Kafka cannot take partitions away" if change.action == "shrink" else "pass --grow to add partitions"
        output.note(f"tidegate: {change.topic} was left as it is ({change.difference}): {why}")
    return 1 if left else 0
