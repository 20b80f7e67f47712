"""Text that comes out of somebody's file, made harmless for a terminal and for Markdown."""

from __future__ import annotations


def plain(text: object, most: int = 200) -> str:
    r"""One printable line: no control characters that a terminal would obey, and an end.

    >>> plain("a\x1b[2Jb")
    'a_[2Jb'
    """
    return "".join(c if c.isprintable() else "_" for c in str(text))[:most]


def code(text: object) -> str:
    """The same, and nothing that Markdown or HTML would take for their own."""
    return "".join("_" if c in "`|<>[]*\\" else c for c in plain(text))
