"""What a PromQL expression names: enough of its grammar to tell metrics, labels and functions apart."""

from __future__ import annotations

import re
from typing import NamedTuple

FUNCTIONS = frozenset(
    {"sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "min_over_time", "label_values"}
)
_WORDS = frozenset({"and", "or", "unless"})
_GROUP = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*\{([^{}]*)\}")
_NAME = re.compile(r"(?<![\w$.])[a-zA-Z_:][\w:]*")


class Named(NamedTuple):
    """`matched`: (metric, label) pairs of selectors; `grouped`: labels that are grouped by."""

    metrics: frozenset[str]
    matched: frozenset[tuple[str, str]]
    grouped: frozenset[str]


def names(expression: str) -> Named:
    """Metrics and labels of an expression. Raises ValueError: its brackets do not match.

    >>> found = names('sum by (le) (rate(a_bucket{job="x"}[5m])) > 1')
    >>> sorted(found.metrics), sorted(found.matched), sorted(found.grouped)
    (['a_bucket'], [('a_bucket', 'job')], ['le'])
    """
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    for opening, closing in ("()", "[]", "{}"):
        if bare.count(opening) != bare.count(closing):
            raise ValueError(f"brackets do not match in {expression}")
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    grouped = {label.strip() for found in _GROUP.findall(bare) for label in found.split(",")}
    matched = {
        (metric, matcher.split("=")[0].rstrip("!").strip())
        for metric, inside in _SELECTOR.findall(bare)
        for matcher in inside.split(",")
        if matcher.strip()
    }
    bare = re.sub(r"\{[^{}]*\}", "", _GROUP.sub("", bare))
    bare = re.sub(r"label_values\(([^,]+),[^)]*\)", r"\1", bare)
    return Named(frozenset(_NAME.findall(bare)) - FUNCTIONS - _WORDS, frozenset(matched), frozenset(grouped))
