"""Foreign words in lines of ours: nothing in a record steers a terminal or forges a line of a log. Pure."""

from __future__ import annotations

import json
import re

#: Controls of C0 and C1 except the line feed, and what turns the direction of writing around.
_STEERS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def harmless(text: str) -> str:
    r"""Text with what steers a terminal escaped; further lines are indented, so that none looks like a new entry.

    >>> harmless("a\x1b[2Jb\rc")
    'a\\x1b[2Jb\\rc'
    >>> harmless("refused: x\nINFO all is well")
    'refused: x\n  INFO all is well'
    """
    if text.isprintable():
        return text
    lines = _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text).split("\n")
    return "\n".join([lines[0], *(line if line[:1] in ("", " ") else f"  {line}" for line in lines[1:])])


def as_json(value: object, indent: int | None = None) -> str:
    r"""JSON that people can read: letters of all alphabets as they are, what steers a terminal as \u.

    >>> as_json({"é": "\x9b2J"})
    '{"é": "\\u009b2J"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return text if text.isprintable() else _STEERS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
