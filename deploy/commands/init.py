"""`tidegate init`: the files of a new site."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

HELP = "write a commented site: configuration, model, topics and start scripts"
EXAMPLES = """\
examples:
  tidegate init plant1                                     a synthetic sensor and a model to start from
  tidegate init plant1 --recording pump-7.avro             a recording as the sensor; the model is scaled by it
  tidegate init plant1 --model models/pumps --recording pump-7.avro
  tidegate init plant1 --channels flow,pressure --device hall/pump-1 --device hall/pump-2

It never writes over a file. Next: `tidegate edge run plant1/edge.toml --check`, then plant1/README.md.
exit codes: 0 written, 65 the model or the recording cannot be used, 78 files are in the way, or the wishes differ
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    from deploy import address, output

    parser.add_argument("folder", type=Path, metavar="DIR", help="the site; made if it is not there")
    parser.add_argument("--channels", metavar="NAME,…", help="what the sensor measures, in order")
    parser.add_argument(
        "--device", action="append", metavar="ID", help="a device, such as hall/pump-7; may be repeated"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model package; it is copied into the site")
    parser.add_argument("--recording", type=Path, metavar="REC", help="a recording to replay as the sensor")
    address.add_options(parser)
    output.add_format(parser, ("text", "json"))


def run(args: argparse.Namespace) -> None:
    """Raises ConfigError, ModelError, DecodeError."""
    from deploy import address, output
    from deploy.site.site import Wishes, plan, write

    try:
        servers = address.resolve(args.bootstrap_servers)
    except ModuleNotFoundError:  # an edge install has no local stack that could be asked
        servers = address.USUAL
    channels = None if args.channels is None else [name.strip() for name in args.channels.split(",")]
    site = plan(
        Wishes(
            folder=args.folder,
            bootstrap_servers=servers,
            prefix=args.prefix,
            channels=channels,
            devices=args.device,
            model=args.model,
            recording=args.recording,
        )
    )
    write(site, args.folder)
    if args.output == "json":
        output.print_json(
            {
                "folder": str(args.folder),
                "files": sorted(site.files),
                "model": site.model,
                "trained": not site.is_starter,
                "devices": site.devices,
                "channels": site.channels,
            }
        )
        return
    print(f"{args.folder}: {len(site.files)} files for {len(site.devices)} device(s), model {site.model}")
    if site.is_starter:
        print("the model is a place to start from, not trained; README.md of the site says how to train one")
    config = shlex.quote(str(args.folder / "edge.toml"))
    print(f"next: `tidegate edge run {config} --check`, then {args.folder / 'README.md'}")
