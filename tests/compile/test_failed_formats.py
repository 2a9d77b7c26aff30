"""Formats that miss their budget are left out of the bundle, and those that change nothing are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.cli import main
from aigc_edge.compile import compile_source
from aigc_edge.compile.component_formats import companion
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.compile.request import CompileRequest
from aigc_edge.compress.evaluation.quality import tolerance
from aigc_edge.errors import AigcEdgeError, BudgetError, CalibrationWarning
from aigc_edge.report.summary import render
from aigc_edge.sources.base import SourceOptions
from aigc_edge.sources.generator import Generator

QUICK: dict[str, Any] = {"samples": 4, "threads": 1}
HIGH = "int8:psnr=150,aim=0"  # more than 8 bits can hold


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Decoder(nn.Module):
    """Three layers, the last `computed` of which depend on the sample itself: no format can hold these."""

    def __init__(self, computed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(3)
        sizes = [(16, 128), (128, 128), (128, 128)]
        self.weights = nn.ParameterList([torch.randn(inputs, outputs) / inputs**0.5 for inputs, outputs in sizes])
        self.fixed = len(self.weights) - computed

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x, gain = z, 1 + 0.01 * torch.tanh(z).mean(dim=1)[:, None, None]
        for index, weight in enumerate(self.weights):
            x = x @ weight if index < self.fixed else (x[:, None] @ (weight * gain))[:, 0]
            x = torch.relu(x)
        return torch.tanh(x[:, :48]).reshape(-1, 3, 4, 4)


def _source(computed: int = 0) -> Generator:
    return Generator(sample=torch.zeros(1, 16), decoder=Decoder(computed), name="own")


@pytest.fixture(scope="module")
def opaque(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network has no weight that formats can hold."""
    place = tmp_path_factory.mktemp("opaque")
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    compile_source(_source(computed=3), place / "opaque.aigc", formats=["fp32"], **QUICK)
    patch.undo()
    return place / "opaque.aigc"


def test_formats_that_pass_are_written(tmp_path: Path) -> None:
    bundle = tmp_path / "own.aigc"
    with pytest.raises(BudgetError, match=r"int8 reaches .* 150\.0 dB .*own\.aigc is written without int8, it has fp32, int8w"):
        compile_source(_source(), bundle, formats=[HIGH, "fp32", "int8w"], **QUICK)
    manifest = Bundle.open(bundle, verify=True).manifest
    assert list(manifest.main.formats) == ["fp32", "int8w"]
    assert set(manifest.quality) == {"fp32", "int8w"}
    assert manifest.default_format == "fp32"
    assert not [name for name in manifest.files if "int8." in name]
    with pytest.raises(BudgetError, match="it has fp32, int8w, fp16"):
        quantise_bundle(bundle, [HIGH, "fp16"], **QUICK)
    manifest = Bundle.open(bundle, verify=True).manifest
    assert list(manifest.main.formats) == ["fp32", "int8w", "fp16"]
    assert manifest.default_format == "fp32"


def test_a_format_that_was_there_is_kept(tmp_path: Path) -> None:
    bundle = tmp_path / "own.aigc"
    compile_source(_source(), bundle, formats=["fp32", "int8w"], **QUICK)
    before = Bundle.open(bundle, verify=True).manifest
    with pytest.raises(BudgetError, match="int8w"):
        quantise_bundle(bundle, ["int8w:psnr=190", "fp16"], overwrite=True, **QUICK)
    assert Bundle.open(bundle, verify=True).manifest == before


def test_nothing_is_written_when_no_format_is_left(tmp_path: Path) -> None:
    for formats, budget in ((["int8"], None), (["fp32", "int8"], ["psnr=150"])):
        options = [f"{name}:psnr=150,aim=0" if name == "int8" and budget is None else name for name in formats]
        with pytest.raises(BudgetError):
            compile_source(_source(), tmp_path / "own.aigc", formats=options, budget=budget, **QUICK)
        assert not (tmp_path / "own.aigc").exists()


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_networks.py").write_text("from tests.compile.test_failed_formats import _source as build\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["compile", "own_networks:build", "--format", "fp32", "--format", HIGH, "--samples", "4", "--threads", "1"]
    assert main([*words, "-o", "own.aigc"]) == 2
    assert "own.aigc is written without int8" in capsys.readouterr().err
    assert list(Bundle.open(Path("own.aigc"), verify=True).manifest.main.formats) == ["fp32"]
    with pytest.raises(SystemExit):
        main(["compile", "--help"])
    assert "30 for int8" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("budget", ["psnr=150", "centred_l2=1e-7", "ssim=0.9999999"])
def test_every_limit_is_a_budget(budget: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="int8w"):
        compile_source(_source(), tmp_path / "own.aigc", formats=["int8w"], budget=[budget], **QUICK)


@pytest.mark.parametrize(
    ("format", "budget", "psnr", "centred_l2"),
    [
        ("int8:psnr=50", [], 35, tolerance(35)),
        ("int8:psnr=10", [], 10, tolerance(10)),
        ("int8", ["psnr=20"], 20, tolerance(20)),
        ("int4:psnr=5", ["psnr=20"], 5, tolerance(5)),
        ("fp8", ["centred_l2=0.9"], 22, 0.9),
        ("int8", ["psnr=20", "centred_l2=0.01"], 20, tolerance(20)),
    ],
)
def test_the_budget_limits_the_networks_behind_the_denoiser(
    format: str, budget: list[str], psnr: float, centred_l2: float
) -> None:
    """They have to hold no more than the format itself, so that a lower budget helps where one of them misses it."""
    request = CompileRequest.parse([format], ["x86-cpu"], budget, runnable=False)
    chosen: Any = companion(next(iter(request.formats.values())))
    assert chosen.name in ("int8w", "fp8w")
    assert chosen.requirement.psnr == psnr
    assert chosen.requirement.most_centred_l2 == pytest.approx(centred_l2)


@pytest.mark.parametrize("format", ["int8w", "fp8w", "int4", "svdquant", "sparse24"])
def test_a_format_that_changes_nothing_is_refused(format: str, opaque: Path, tmp_path: Path) -> None:
    with pytest.raises(AigcEdgeError, match=rf"0% of the 34,816 weights of the decoder are in {format}"):
        quantise_bundle(opaque, [f"{format}:psnr=1"], out=tmp_path / "own.aigc", **QUICK)
    assert not (tmp_path / "own.aigc").exists()


def test_a_format_that_changes_little_says_so(tmp_path: Path) -> None:
    with pytest.warns(CalibrationWarning, match="6% of the 34,816 weights of the decoder are in int8w"):
        manifest = compile_source(_source(computed=2), tmp_path / "own.aigc", formats=["fp32", "int8w:psnr=1"], **QUICK)
    assert manifest.quality["int8w"]["weight_share"] == pytest.approx(2048 / 34816)


@pytest.fixture
def scan(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A file for one sample whose shapes merge the batch with the channels, so that it becomes the body of a Scan."""
    helper, node = onnx.helper, onnx.helper.make_node
    nodes = [node("Reshape", ["x", "flat"], ["f"]), node("MatMul", ["f", "w"], ["m"]), node("ReduceMean", ["m", "axis"], ["a"])]
    nodes += [node("Sub", ["m", "a"], ["d"]), node("Reshape", ["d", "image"], ["y"])]
    weight = rng.normal(0, 0.1, (256, 256)).astype(np.float32)
    constants = {"w": weight, "flat": np.array([3, -1]), "axis": np.array([1]), "image": np.array([1, 3, 16, 16])}
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 16, 16]) for name in "xy")
    graph = helper.make_graph(nodes, "net", [x], [y], [onnx.numpy_helper.from_array(a, n) for n, a in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def test_weights_that_a_scan_reads(scan: Path, tmp_path: Path) -> None:
    """They are in 16 bits, or in 8 bits as weights; formats that hold none of them fail, and the others are written."""
    formats = ["fp32", "fp16", "int8", "int8w:psnr=1", "sparse24:psnr=1", "pruned"]
    options = SourceOptions(role="decoder")
    with pytest.raises(BudgetError) as raised:
        compile_source(scan, tmp_path / "own.aigc", formats=formats, options=options, **QUICK)
    assert "own.aigc is written without int8, sparse24, pruned, it has fp32, fp16, int8w" in str(raised.value)
    assert "0% of the 65,536 weights of the decoder are in sparse24" in str(raised.value)
    assert "the network has no convolution or matrix product with constant weights" in str(raised.value)
    bundle = Bundle.open(tmp_path / "own.aigc", verify=True)
    assert list(bundle.manifest.main.formats) == ["fp32", "fp16", "int8w"]
    assert [bundle.manifest.quality[name]["weight_share"] for name in ("fp16", "int8w")] == [1, 1]
    sizes = [(tmp_path / "own.aigc" / f"decoder.{name}.onnx").stat().st_size for name in ("fp32", "fp16", "int8w")]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[2] < 0.3 * sizes[0]


def test_the_share_is_shown(tmp_path: Path) -> None:
    compile_source(_source(), tmp_path / "own.aigc", formats=["fp32", "int8w"], **QUICK)
    manifest = Bundle.open(tmp_path / "own.aigc").manifest
    assert manifest.quality["int8w"]["weight_share"] == 1
    (row,) = [line for line in render(manifest).splitlines() if line.strip().startswith("int8w") and "dB" in line]
    assert "100%" in row
    assert np.isfinite(manifest.quality["int8w"]["centred_l2"])
