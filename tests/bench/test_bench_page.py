"""The report: well-formed, self-contained, and every figure of the JSON on it."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from aigc_edge.bench import cells, page, report

VOID = {"meta", "img", "br"}
SVG_SHAPES = {"line", "rect", "circle"}


class Reader(HTMLParser):
    """Collects text and addresses, and checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_SHAPES | VOID

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(figures: dict[str, Any]) -> tuple[Reader, str]:
    shown = page.build(figures, {"fp32": "AAAA", "int8": "BBBB"})
    reader = Reader()
    reader.feed(shown)
    assert reader.open == []
    return reader, shown


def test_page_needs_nothing_else(figures: dict[str, Any]) -> None:
    reader, shown = read(figures)
    assert reader.addresses
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert "<script" not in shown
    assert "@import" not in shown
    assert not re.search(r"url\(", shown)
    assert "http" not in shown


def test_page_is_readable_in_light_and_dark(figures: dict[str, Any]) -> None:
    _, shown = read(figures)
    light, dark = shown.split("@media (prefers-color-scheme: dark)")[:2]
    names = set(re.findall(r"(--[\w-]+):", light[light.index(":root") :]))
    assert names
    assert names == set(re.findall(r"(--[\w-]+):", dark[: dark.index("body")]))
    used = set(re.findall(r"var\((--[\w-]+)\)", shown))
    assert used <= names


def test_page_shows_every_configuration_with_its_figures(figures: dict[str, Any]) -> None:
    reader, _ = read(figures)
    text = " ".join(reader.text)
    for row in figures["configurations"]:
        assert cells.name(row) in text
        assert cells.milliseconds(row["latency"]["1"]["median"]) in text
        assert cells.memory(row) in text
    for row in cells.natives(figures):
        assert cells.frechet(row["quality"])[0] in text
        assert cells.accuracy(row["quality"]) in text
    assert "example was left out: not installed <here>" in text  # escaped in the source, whole in the text


def test_quality_stands_on_the_row_of_its_speed(figures: dict[str, Any]) -> None:
    _, shown = read(figures)
    row = next(part for part in shown.split("<tr") if "aigc-edge int8" in part and "<td>" in part)
    int8 = cells.by_key(figures)["native-int8"]
    for figure in (cells.milliseconds(int8["latency"]["1"]["median"]), cells.accuracy(int8["quality"]), "31.7 dB", "2.30 MB"):
        assert figure in row


def test_terminal_table_holds_the_same_figures(figures: dict[str, Any]) -> None:
    shown = report.text(figures)
    for row in figures["configurations"]:
        line = next(line for line in shown.splitlines() if line.startswith(cells.name(row)))
        assert cells.milliseconds(row["latency"]["1"]["median"]) in line
        assert cells.likeness(row) in line
    assert "example was left out" in shown


@pytest.mark.parametrize(("load", "said"), [(0.2, False), (3.7, True)])
def test_a_busy_machine_is_named(figures: dict[str, Any], load: float, said: bool) -> None:
    figures["machine"]["busy"]["before"]["load"] = load
    reader, _ = read(figures)
    assert any("busy with other things (load average 3.7 on 2 cores)" in part for part in reader.text) == said
    assert ("warning: the machine was busy" in report.text(figures)) == said


def test_a_result_without_judge_memory_and_peers_is_shown_too(figures: dict[str, Any]) -> None:
    figures["configurations"] = [row for row in figures["configurations"] if row["key"] == "native-fp32"]
    figures["comparisons"] = []
    only = figures["configurations"][0]
    only["quality"] = None
    del only["cold_start"], only["peak_bytes"]
    read(figures)
    assert cells.frechet(None)[0] in report.text(figures)


def test_cards_show_the_first_format_and_the_best_of_each(figures: dict[str, Any]) -> None:
    """Neither fp32 nor the last format is best in anything but one card each."""
    int8 = cells.by_key(figures)["native-int8"]
    last = copy.deepcopy(int8) | {"key": "native-int4", "format": "int4"}
    int8["quality"]["frechet"] = 2.2  # int8 is the fastest and nearest
    last["latency"]["1"]["median"] = 1.5 * int8["latency"]["1"]["median"]
    last["bytes"] = {"networks": 1_200_000, "bundle": 12_000_000}  # int4 the smallest
    last["quality"] |= {"frechet": 9.5, "class_accuracy": 0.4}
    figures["configurations"].append(last)
    _, shown = read(figures)
    cards = {part.split("<")[0]: part for part in shown.split('class="what">')[1:]}
    chosen = {name: re.findall(r"<small>(\w+)</small>", part.split('class="note"')[0])[:2] for name, part in cards.items()}
    assert chosen["time for one image"] == ["fp32", "int8"]
    assert chosen["network file"] == ["fp32", "int4"]
    assert chosen["Fréchet distance (lower: better)"] == ["fp32", "int8"]
    assert chosen["recognised as their class"] == ["fp32", "int8"]
    assert "7.00× smaller" in cards["network file"]


@pytest.mark.parametrize("quality", [None, {"frechet": None, "class_accuracy": None, "n": 3}])
def test_cards_leave_out_what_was_not_measured(figures: dict[str, Any], quality: Any) -> None:
    cells.by_key(figures)["native-int8"]["quality"] = quality
    assert "network file" in read(figures)[1]
