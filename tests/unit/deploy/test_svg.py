"""Whatever is given to a picture stays within it, and no spike is lost."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deploy import svg

#: XML has no way to say the others.
words = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Cn", "Co")))


@given(words, words)
def test_foreign_words_are_words_of_the_picture(said: str, kind: str) -> None:
    parts = [
        svg.text(kind, 1, 2.0, said),
        svg.line("signal", [(0.0, 1.0), (2.0, 3.0)], title=said),
        svg.tag("rect", "frame", fill=said),
    ]
    root = ElementTree.fromstring(svg.picture(10, 20, parts))
    assert [element.tag for element in root.iter()] == ["svg", "text", "path", *(["title"] if said else []), "rect"]
    text, rect = root.find("text"), root.find("rect")
    assert text is not None
    assert rect is not None
    assert (text.text or "", text.get("class", ""), rect.get("fill")) == (said, kind, said)


@given(arrays.arrays(np.float64, st.integers(0, 3_000), elements=st.floats(width=64)))
def test_a_thinned_line_keeps_its_ends_and_is_in_order(values: np.ndarray) -> None:
    points = list(svg.extremes(values))
    assert len(points) <= 2 * svg.BUCKETS
    assert [at for at, _ in points] == sorted({at for at, _ in points})
    finite = values[np.isfinite(values)]
    assert bool(points) == bool(len(finite))
    if points:
        assert (min(v for _, v in points), max(v for _, v in points)) == (finite.min(), finite.max())


def test_a_line_without_points_is_nothing() -> None:
    assert svg.line("signal", []) == ""
