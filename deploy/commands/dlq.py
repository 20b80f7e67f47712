"""`tidegate dlq`: what the pipeline refused, why, and sending it again."""

from __future__ import annotations

import argparse
from typing import Any

HELP = "list, show and retry dead letters"
EXAMPLES = """\
examples:
  tidegate dlq list                                  how many, by source, stage and reason
  tidegate dlq list --from -1h -o json
  tidegate dlq show cloud.deadletter/0@12            one of them: reason, payload, next step
  tidegate dlq retry --reason DecodeError --dry-run  what would be sent again, and what not
  tidegate dlq retry 0@12 0@13                       send these again to where they came from

A retry puts the payload under its key into the topic and partition it came from, and in the same transaction a note
into the dead letter topic, so a letter is sent again at most once, by whomever; --again overrides that. Refused is what
cannot succeed: records that do not decode, windows that are closed for good, and letters without a payload.
exit codes: 0 done, 1 a selected letter cannot be sent again, 2 wrong options, 69 no broker or topic, 78 no such letter
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    verbs = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = verbs.add_parser("list", help="letters by source, stage and reason", description="Count dead letters.")
    _selecting(listing)
    output.add_format(listing)
    listing.set_defaults(act=_list)
    showing = verbs.add_parser("show", help="one letter in full", description="Show one dead letter.")
    showing.add_argument("position", metavar="POSITION", help="such as cloud.deadletter/0@12, or 0@12")
    showing.add_argument("--bytes", type=int, default=256, metavar="N", help="of the payload, in hex (default: 256)")
    output.add_format(showing, ("text", "json"))
    showing.set_defaults(act=_show)
    retrying = verbs.add_parser("retry", help="send letters back", description="Send dead letters again.")
    retrying.add_argument("positions", nargs="*", metavar="POSITION", help="letters, such as 0@12")
    _selecting(retrying)
    retrying.add_argument("--all", action="store_true", help="every letter that can be sent again")
    retrying.add_argument("--again", action="store_true", help="also what was sent again before")
    retrying.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    output.add_format(retrying)
    retrying.set_defaults(act=_retry)
    for verb in (listing, showing, retrying):
        address.add_options(verb)


def _selecting(parser: argparse.ArgumentParser) -> None:
    from deploy.commands.record import moment_of, start_of

    parser.add_argument("--reason", default="", help="only of this reason, such as DecodeError")
    parser.add_argument("--stage", default="", help="only of this stage, such as split")
    parser.add_argument("--source", default="", metavar="TOPIC", help="only from this topic")
    parser.add_argument("--from", dest="start", type=start_of, metavar="WHEN", help="refused then or later; or -1h")
    parser.add_argument("--to", dest="end", type=moment_of, metavar="WHEN", help="refused before; a time, or -5min")


def run(args: argparse.Namespace) -> int:
    """Raises UnavailableError: no broker, or no such topic. ConfigError: there is no such letter."""
    return int(args.act(args) or 0)


def _list(args: argparse.Namespace) -> None:
    from deploy import output
    from deploy.dlq.letters import grouped
    from deploy.text import safe, utc

    selection = _selection(args)
    groups = grouped(_read(args, lambda _: False), selection)
    if args.output == "json":
        output.print_json(
            [
                {
                    "source": group.source,
                    "stage": group.stage,
                    "reason": group.reason,
                    "count": group.count,
                    "retried": group.retried,
                    "first_at": group.first_us,
                    "last_at": group.last_us,
                    "newest": str(group.newest),
                    "problem": group.problem,
                }
                for group in groups
            ]
        )
        return
    if not groups:
        output.note("no dead letters")
        return
    rows = [
        {
            "source": safe(group.source) or "-",
            "stage": safe(group.stage) or "-",
            "reason": safe(group.reason),
            "count": group.count,
            "retried": group.retried,
            "first": utc(group.first_us),
            "last": utc(group.last_us),
            "newest": str(group.newest),
        }
        for group in groups
    ]
    output.print_table(rows, {name: name for name in rows[0]})


def _show(args: argparse.Namespace) -> None:
    import time

    from deploy import output
    from deploy.dlq import page
    from deploy.dlq.letters import Position
    from schemas.errors import ConfigError

    position = Position.parse(args.position, args.prefix)
    box = _read(args, lambda letter: letter.position == position)
    letter = next((letter for letter in box.letters if letter.position == position), None)
    if letter is None:
        fix = "`tidegate dlq list` names the newest of each kind"
        raise ConfigError("there is no such dead letter", position=str(position), fix=fix)
    shown = page.of(letter, box, args.prefix, time.time_ns() // 1000)
    if args.output == "json":
        output.print_json(shown.as_json())
    else:
        print(shown.as_text(max(0, args.bytes)))


def _retry(args: argparse.Namespace) -> int:
    import time

    from deploy import address, output
    from deploy.dlq.letters import Box, Letter
    from deploy.dlq.retry import Sender, Verdict, judge
    from schemas.errors import ConfigError

    selection = _selection(args)
    if selection.is_all and not args.all:
        raise ConfigError("no letter is selected", fix="name letters, select by --reason, --source or time, or --all")

    def decide() -> tuple[Box, list[Verdict]]:
        box = _read(args, selection)
        chosen: list[Letter] = [letter for letter in box.letters if selection(letter)]
        if missing := selection.positions - {letter.position for letter in box.letters}:
            raise ConfigError("there is no such dead letter", positions=sorted(map(str, missing)))
        return box, judge(chosen, box, args.prefix, time.time_ns() // 1000, again=args.again)

    if args.dry_run:
        _, verdicts = decide()
    else:
        with Sender(address.resolve(args.bootstrap_servers), args.prefix) as sender:
            _, verdicts = decide()
            sender.send([verdict.letter for verdict in verdicts if verdict.sends])
    refused = [verdict for verdict in verdicts if verdict.why and not verdict.skipped]
    rows = [_row(verdict, args) for verdict in verdicts]
    if args.output == "json":
        output.print_json(rows)
    else:
        if rows:
            output.print_table(rows, {"letter": "letter", "to": "to", "result": "result", "why": "why"})
        output.note(
            f"{sum(v.sends for v in verdicts)} {'would be sent' if args.dry_run else 'sent'}, "
            f"{sum(v.skipped for v in verdicts)} skipped, {len(refused)} cannot be sent again"
        )
    return 1 if refused else 0


def _row(verdict: Any, args: argparse.Namespace) -> dict[str, Any]:
    from deploy.text import safe

    failure = verdict.letter.failure
    sends = "would be sent" if args.dry_run else "sent"
    return {
        "letter": str(verdict.letter.position),
        "to": None if failure is None else safe(f"{failure.source.removeprefix(args.prefix)}/{failure.partition}"),
        "result": sends if verdict.sends else "skipped" if verdict.skipped else "refused",
        "why": safe(verdict.why) or None,
    }


def _selection(args: argparse.Namespace) -> Any:
    import time

    from deploy.dlq.letters import Position, Selection

    now_us = time.time_ns() // 1000
    return Selection(
        positions=frozenset(Position.parse(text, args.prefix) for text in getattr(args, "positions", [])),
        reason=args.reason,
        stage=args.stage,
        source=args.source,
        since_us=None if args.start is None else args.start.after(now_us),
        until_us=None if args.end is None else args.end.after(now_us),
        prefix=args.prefix,
    )


def _read(args: argparse.Namespace, keep: Any) -> Any:
    from deploy import address, records
    from deploy.dlq.letters import collect
    from schemas import topics

    where = address.resolve(args.bootstrap_servers)
    return collect(records.messages(where, [topics.DEAD_LETTERS.named(args.prefix)]), keep)
