"""`tidegate pipeline`: the pipeline's own command line, with the local stack filled in."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from schemas.logs import format_of

HELP = "run the pipeline (the same as `python -m pipelines …`)"
EXAMPLES = ""


def forward(argv: Sequence[str]) -> int:
    """Hand everything to the pipeline; the equal command goes to stderr."""
    words = with_defaults(argv)
    if format_of(words) == "text":
        print(f"+ {shlex.join(['python', '-m', 'pipelines', *words])}", file=sys.stderr, flush=True)
    from pipelines.cli import main

    return main(words)


def with_defaults(argv: Sequence[str]) -> list[str]:
    """`argv` with the broker, and for `run` Prism as well, where the user named none. Raises ConfigError."""
    from deploy import address, paths

    words = list(argv)
    if words[:1] not in (["run"], ["publish"]) or {"-h", "--help"} & set(words):
        return words
    defaults = {"--kafka_bootstrap_servers": address.resolve(None)}
    if words[0] == "run":
        defaults["--runner"] = "PrismRunner"
        if paths.prism().exists():
            defaults["--prism_location"] = str(paths.prism())
    given = {word.partition("=")[0] for word in words}
    if "--runner" in given:  # the user's own engine needs no Prism
        defaults.pop("--prism_location", None)
    return words + [f"{option}={value}" for option, value in defaults.items() if option not in given]
