"""Bars of counts as SVG."""

from xml.etree import ElementTree as ET

from loginpipe.plots import bar_plot, bars


def test_each_count_is_a_bar_as_long_as_its_share_of_the_largest() -> None:
    rects = ET.fromstring(bars("logins", {"ios": 30, "android": 60, "web": 0})).findall("{*}rect")
    widths = [float(rect.attrib["width"]) for rect in rects]
    assert widths[0] * 2 == widths[1]
    assert widths[2] == 0


def test_names_are_text_and_no_markup() -> None:
    texts = ET.fromstring(bars("a < b & c", {"<script>": 1})).findall("{*}text")
    assert [text.text for text in texts] == ["a < b & c", "<script>", "1"]


def test_what_is_left_out_is_counted_and_nothing_at_all_is_a_plot_too() -> None:
    svg = bars("versions", {str(number): number for number in range(30)})
    assert svg.count("<rect") == 24
    assert "versions (and 6 more)" in svg
    assert "<rect" not in bars("versions", {})


def test_the_ui_gets_a_picture_of_a_few_kilobytes() -> None:
    plot = bar_plot("logins by locale", {f"L{number}": number for number in range(24)})
    assert plot.md_str is not None
    assert plot.md_str.startswith("![logins by locale](data:image/svg+xml;base64,")
    assert len(plot.md_str) < 8_000
