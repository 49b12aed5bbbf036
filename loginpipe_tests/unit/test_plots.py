"""Bar charts of counts as text, short enough that the UI shows them without a click."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loginpipe.defs.metadata import bar_plot, bars

UNFOLDED_BELOW = 1_000
"""Characters of Markdown that the UI shows without a click."""


def test_each_count_is_a_bar_as_long_as_its_share_of_the_largest() -> None:
    assert bars({"ios": 30, "android": 60, "web": 0, "tv": 0.1}, line_most=40) == (
        "    ios ██████████ 30\n"
        "android ████████████████████ 60\n"
        "    web  0\n"
        "     tv ▏ 0.1\n"
    )  # fmt: skip


@pytest.mark.parametrize("name", ["```", "a\nb", "x" * 40, "\u202eabc", "\t"])
def test_a_name_that_a_sender_chose_stays_on_its_line_and_in_the_block(name: str) -> None:
    plot = bar_plot("logins by locale", {name: 3, "RU": 2}).md_str or ""
    assert plot.count("```") == 2
    assert plot.endswith("```")
    assert len(plot.splitlines()) == 5
    assert len(plot.splitlines()[2]) <= 44


def test_names_that_are_cut_to_the_same_keep_a_line_each() -> None:
    assert len(bars({"a" * 20 + "x": 1, "a" * 20 + "y": 2}, line_most=40).splitlines()) == 2


def test_what_is_left_out_is_counted_and_nothing_at_all_is_a_plot_too() -> None:
    plot = bar_plot("versions", {str(number): number for number in range(30)}).md_str or ""
    assert plot.startswith("**versions** (and 6 more)\n")
    assert len(plot.splitlines()) == 2 + 24 + 1
    assert bar_plot("versions", {}).md_str == "**versions**\n```text\n```"
    assert "█" not in (bar_plot("versions", {"1.0": 0}).md_str or "")


@settings(deadline=None, print_blob=True)
@given(
    st.dictionaries(st.text(max_size=60), st.floats(0, 1e12) | st.integers(0, 10**9), max_size=60),
    st.text(st.characters(categories=["L", "N"]), max_size=60),
)
def test_every_plot_is_shown_without_a_click(counts: dict[str, float], title: str) -> None:
    assert len(bar_plot(title, counts).md_str or "") < UNFOLDED_BELOW
