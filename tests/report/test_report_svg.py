"""Charts and numbers: nothing clipped, nothing lost, nothing said by colour alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from postgrad.report import svg, text

NUMBER = r"-?[\d.]+"


def chart(values: list[tuple[float, float]], **axis: object) -> str:
    return str(svg.line_chart("k", "t", "d", [svg.Series("s", values)], svg.Axis("x"), svg.Axis("y", **axis)))  # type: ignore[arg-type]


def spread(content: str) -> tuple[float, float]:
    """Left-most and right-most reach of the text in a chart."""
    left, right = [], []
    for x, anchor, label in re.findall(rf'<text[^>]* x="({NUMBER})"[^>]*?(?:text-anchor="(\w+)")?>([^<]*)', content):
        width = svg.text_width(label)
        start = float(x) - {"end": width, "middle": width / 2, "": 0.0}[anchor]
        left.append(start)
        right.append(start + width)
    return min(left), max(right)


@pytest.mark.parametrize(
    "values",
    [
        [(0, 0.0011), (1, 0.0013)],
        [(0, -1234567.0), (1, 7654321.0)],
        [(0, 1e-9), (1, 3e-9)],
        [(1e6, 5.0), (2e6, 5.0)],
        [(3, 0.25)],
        [(0, 1e150), (1, -1e150)],
        [(0, 1e-300), (1, 2e-300)],
    ],
)
def test_labels_have_room(values: list[tuple[float, float]]) -> None:
    left, right = spread(chart(values))
    assert left >= 0
    assert right <= 384 + 1


def test_a_chart_is_well_formed_and_escapes_names() -> None:
    made = svg.line_chart("k", "<t>", "a & b", [svg.Series('"<s>', [(0, 1), (1, 2)])], svg.Axis("<x>"), svg.Axis("&y"))
    root = ElementTree.fromstring(str(made))
    assert root.attrib["role"] == "img"
    assert [child.tag for child in root][:2] == ["title", "desc"]


def test_a_log_axis_needs_positive_values() -> None:
    assert "1e−6" in chart([(0, 1e-6), (1, 1e-3)], log=True)
    assert "1e−6" not in chart([(0, 0.0), (1, 1.0)], log=True)


def test_an_empty_chart_is_still_a_chart() -> None:
    assert "<svg" in chart([])
    assert "<svg" in svg.bars("k", "t", "d", [])
    assert "<svg" in svg.scatter("k", "t", "d", [], svg.Axis("x"), svg.Axis("y"))


def test_thinning_keeps_spikes_and_order() -> None:
    values = [(float(i), 0.0) for i in range(10_000)]
    values[7777] = (7777.0, 50.0)
    kept = svg.thin(values, 500)
    assert len(kept) <= 500
    assert (7777.0, 50.0) in kept
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (values[0], values[-1])


def test_the_moving_mean_by_hand() -> None:
    values = [(0.0, 1.0), (1.0, 2.0), (2.0, 6.0), (3.0, 1.0)]
    assert svg.moving_mean(values, 3) == [(0.0, 1.0), (1.0, 3.0), (2.0, 3.0), (3.0, 1.0)]


def test_percent_ticks_are_whole_where_they_can_be() -> None:
    assert ">50<" in chart([(0, 0.0), (1, 1.0)], percent=True)
    assert ".0<" not in chart([(0, 0.0), (100, 1.0)], percent=True)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0013, "0.0013"),
        (0.41234, "0.412"),
        (143.2, "143"),
        (1234.5, "1,234"),
        (3.2e-5, "3.2e−5"),
        (-0.02, "−0.02"),
        (None, "–"),
        (0, "0"),
        (12, "12"),
        (5e9, "5e9"),
    ],
)
def test_short_numbers(value: float | None, shown: str) -> None:
    assert text.short(value) == shown


def test_acting_characters_become_visible() -> None:
    assert text.visible("a\x00b\x1b[0m\x7f\r\n\tc") == "a␀b␛[0m␡␍\n\tc"
    assert text.visible("\u202ex\u2067\u200b\ud83d\U000e0041") == "⟨U+202E⟩x⟨U+2067⟩⟨U+200B⟩⟨U+D83D⟩⟨U+E0041⟩"
    assert text.visible("naïve 数学 👩‍🔬 עברית") == "naïve 数学 👩‍🔬 עברית"


def test_a_cut_says_how_much() -> None:
    shown = text.visible("x" * 10_000_000, 3000)
    assert len(shown) < 3100
    assert " … 9,997,000 characters cut … " in shown
