"""The page about a bundle's formats tells what its quality card says."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.manifest import FileEntry, Manifest
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.report import charts, layer_page
from aigc_edge.report.facts import Facts, FormatFacts, LayerFacts, node_of, read
from aigc_edge.report.layer_page import write

TINY = Path(__file__).parents[1] / "data" / "digits-tiny.aigc"


def _facts(**changes):
    layers = (LayerFacts("stem", "int8", 0.01, 100, 5000, {"rtx-30": "int8"}), LayerFacts("head<>", "fp32", 0.1, 400, 70))
    compression = {
        "psnr": 33.25,
        "budget_psnr": 30.0,
        "bytes": 500,
        "source_bytes": 2000,
        "estimator": "mse",
        "estimators": {"mse": 33.0, "minmax": None},
        "rows": [{"row": 0, "sigma": 80.0, "relative_l2": 0.01}, {"row": 1, "sigma": 1.0, "relative_l2": 0.2}],
        "ranges": {"silu": {"low": -1.0, "high": 4.0, "rows": {"0": [-1.0, 2.0], "1": [-0.5, 4.0]}}},
    }
    quality = {"frechet": 1.5, "frechet_low": 1.0, "frechet_high": 2.0, "n": 64}
    made = FormatFacts("int8", "denoiser", "tensorrt", compression | changes, layers, quality)
    return Facts(Manifest(name="mine & yours", default_program="euler-2"), (made,))


class _Balanced(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_tells_the_figures():
    text = layer_page.build(_facts())
    checker = _Balanced()
    checker.feed(text)
    assert checker.open == []
    figures = ["33.2 dB", "target 30 dB", "0.25 of fp32", "98.6%", "mse 33.0 dB, minmax –", "head&lt;&gt;", "99.0%"]
    for told in [*figures, "runs on rtx-30 in"]:
        assert told in text, told
    assert "mine &amp; yours" in text
    assert "row 1: -0.5 … 4 of -1 … 4" in text


@pytest.mark.parametrize("changes", [{"ranges": {}}, {"rows": []}, {"psnr": None}, {"estimators": {}}])
def test_what_a_format_does_not_know_is_left_out(changes):
    assert "stem" in layer_page.build(_facts(**changes))


def test_a_bar_is_as_long_as_its_error():
    def width(error):
        bars = [LayerFacts(name, "int8", size, 1, 1) for name, size in (("a", 0.001), ("b", error), ("c", 1.0))]
        text = charts.layers(bars)
        return float(text.split("<rect")[3].split('width="')[1].split('"')[0])

    assert width(0.1) == pytest.approx(2 * width(0.01), rel=1e-3)


@pytest.mark.parametrize("count", [1, 5, 8, 12])
def test_lines_of_the_trajectory_can_be_told_apart(count):
    text = charts.rows({f"format{i}": [{"relative_l2": 0.1 * i + 0.1}, {"relative_l2": 0.2}] for i in range(count)})
    lines = [part.split("/>")[0] for part in text.split("<polyline")[1:]]
    strokes = [re.findall(r"stroke: [^;]+;|stroke-dasharray=[^ ]* [^ ]*", line) for line in lines]
    assert len(strokes) == len(set(map(str, strokes))) == count
    assert "relative L2 error" in text
    assert "row of the program" in text
    height = float(text.split('viewBox="0 0 ')[1].split('"')[0].split()[1])
    assert all(float(y) < height for y in re.findall(r' y="([\d.]+)"', text))


def test_a_layer_of_a_plan_belongs_to_its_node():
    assert node_of("node_conv2d_3_myl0_16") == "conv2d_3"
    assert node_of("node_linear") == "linear"


def test_the_tiny_bundle_has_its_layers():
    facts = read(TINY)
    assert facts.formats
    assert all(found.layers for found in facts.formats)
    assert all(layer.bytes > 0 and layer.macs > 0 for found in facts.formats for layer in found.layers)


def test_a_bundle_without_formats_says_so(tmp_path, monkeypatch):
    with pytest.raises(BundleError):
        read(tmp_path / "none.aigc")
    card = {"quality.json": FileEntry(12, "")}
    monkeypatch.setattr(Bundle, "read", lambda bundle, name: b'{"fp32": {}}')
    for files, words in (({}, "no quality card"), (card, "aigc-edge quantise")):
        bundle = Bundle(TINY, Manifest(files=files))
        monkeypatch.setattr(Bundle, "open", lambda path, bundle=bundle, verify=False: bundle)
        with pytest.raises(AigcEdgeError, match=words):
            write(TINY, tmp_path / "why.html")
    assert list(tmp_path.iterdir()) == []
