"""An output range that does not fit what the network returns must not make every format equal to fp32."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.cli import build_parser, main
from aigc_edge.compile import compile_source
from aigc_edge.compile.output_range import check_range, warn_of_clamped
from aigc_edge.compile.quantise import quantise_bundle
from aigc_edge.errors import AigcEdgeError, CalibrationWarning
from aigc_edge.sources.base import SourceOptions, open_source
from aigc_edge.sources.diffusers.source import DiffusersSource
from aigc_edge.sources.generator import Generator
from aigc_edge.sources.run import RunSource

QUICK: dict[str, Any] = {"samples": 4, "threads": 1}
FORMAT = "int8w:psnr=1"


class Pixels(nn.Module):
    """Latents [N, 8] → pixels that vary from `low` to `high`."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.low, self.width = nn.Linear(8, 3 * 8 * 8), low, high - low

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(4 * self.linear(sample)).unflatten(1, (3, 8, 8)) * self.width + self.low


class Widened(nn.Module):
    """A decoder of latents [N, 3, 8, 8] to pixels around 128."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.conv(sample)) * 100 + 128


class Half(nn.Module):
    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return 0.5 * sample


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def _pixels(low: float, high: float, **options: Any) -> Generator:
    return Generator(sample=torch.zeros(1, 8), decoder=Pixels(low, high), name="pixels", **options)


def _onnx(low: float, high: float) -> None:
    torch.onnx.export(
        Pixels(low, high), (torch.zeros(2, 8),), "pixels.onnx", input_names=["z"], dynamic_shapes=({0: "N"},), dynamo=True
    )


def test_an_onnx_file_declares_its_range(capsys: Any) -> None:
    _onnx(0, 255)
    command = ["compile", "pixels.onnx", "--role", "decoder", "--format", "fp32", "--format", FORMAT, "--samples", "4"]
    assert main([*command, "-o", "pixels.aigc"]) == 2
    error = capsys.readouterr().err
    assert "% of the values that fp32 returns" in error
    assert "outside its output range -1 … 1" in error
    assert "--range LOW:HIGH" in error
    assert not Path("pixels.aigc").exists()
    assert main([*command, "-o", "pixels.aigc", "--range", "0:255"]) == 0, capsys.readouterr().err
    manifest = Bundle.open(Path("pixels.aigc"), verify=True).manifest
    assert manifest.output_range == (0, 255)
    assert 0 < manifest.quality["int8w"]["relative_l2"] < 0.1
    assert "--range 0:255" in manifest.provenance["command"]


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.25), (0.0, 1.0), (-128.0, 127.0)])
def test_the_recorded_command_has_the_range(low: float, high: float, capsys: Any) -> None:
    _onnx(low, high)
    command = ["compile", "pixels.onnx", "--role", "decoder", "--format", "fp32", "--samples", "4", f"--range={low}:{high}"]
    assert main([*command, "-o", "pixels.aigc"]) == 0, capsys.readouterr().err
    manifest = Bundle.open(Path("pixels.aigc"), verify=True).manifest
    assert manifest.output_range == (low, high)
    assert build_parser().parse_args(shlex.split(manifest.provenance["command"])[1:]).range == (low, high)


def test_a_network_of_one_evaluation_is_refused_before_formats_are_converted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        compile_source(_pixels(-1, 1), "fits.aigc", formats=["fp32", FORMAT], **QUICK)
        compile_source(_pixels(0, 255, output_range=(0.0, 255.0)), "declared.aigc", formats=["fp32", FORMAT], **QUICK)
    with pytest.raises(AigcEdgeError, match=r"output_range=.*--range"):
        compile_source(_pixels(0, 255), "wrong.aigc", formats=["fp32", FORMAT], **QUICK)
    with pytest.warns(CalibrationWarning, match="outside its output range"):  # one format has nothing to be compared with
        compile_source(_pixels(0, 255), "wrong.aigc", formats=["fp32"], **QUICK)
    with pytest.raises(AigcEdgeError, match="compile again"):
        quantise_bundle("wrong.aigc", [FORMAT], **QUICK)


def test_a_decoder_behind_a_denoiser_is_refused() -> None:
    parts: dict[str, Any] = {"sample": torch.zeros(1, 3, 8, 8), "denoiser": Half(), "decoder": Widened()}
    schedule = {"prediction": "epsilon", "betas": "linear"}
    with pytest.raises(AigcEdgeError, match="outside its output range"):
        compile_source(Generator(**parts, schedule=schedule), "two.aigc", formats=["fp32", "fp16:psnr=1"], steps=2, **QUICK)


def test_shares_of_values_outside(rng: np.random.Generator) -> None:
    inside = rng.uniform(-1, 1, 1000).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_range(inside, (-1, 1), most=0.5)
        check_range(inside * 1.04, (-1, 1), most=0.5)  # a little overshoot
        check_range(np.full(1000, 0.5, np.float32), (-1, 1), most=0.5)  # constant by itself
        warn_of_clamped(np.clip(inside * 2, -1, 1))
    some = inside.copy()
    some[:100] = 3
    with pytest.warns(CalibrationWarning, match=r"^10% of the values"):
        check_range(some, (-1, 1), most=0.5)
    some[:600] = 3
    with pytest.raises(AigcEdgeError, match=r"^60% of the values"):
        check_range(some, (-1, 1), most=0.5)
    with pytest.warns(CalibrationWarning, match=r"^60% of the values"):
        check_range(some, (-1, 1), most=None)
    with pytest.raises(AigcEdgeError, match="cannot be measured"):  # within the margin, and yet all the same
        check_range(1 + 0.04 * np.abs(inside), (-1, 1), most=0.5)
    with pytest.warns(CalibrationWarning, match="ends of the output range"):
        warn_of_clamped(np.clip(inside + 3, -1, 1))


def test_sources_that_have_a_range_refuse_the_option() -> None:
    for kind in (RunSource, DiffusersSource):
        with pytest.raises(AigcEdgeError, match=r"--range was given, but .* specifies it itself"):
            kind.open("somewhere", SourceOptions(output_range=(0, 1)))


@pytest.mark.parametrize(
    "result", ["Pixels(0, 255), torch.zeros(1, 8)", "Generator(sample=torch.zeros(1, 8), decoder=Pixels(0, 1))"]
)
def test_a_python_function_takes_the_option(result: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ranged_{abs(hash(result))}"
    (tmp_path / f"{name}.py").write_text(
        f"import torch\nfrom {__name__} import Generator, Pixels\ndef make():\n    return {result}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = SourceOptions(role="decoder" if result.startswith("Pixels") else None, output_range=(0.0, 255.0))
    assert open_source(f"{name}:make", options).output_range == (0, 255)


@pytest.mark.parametrize("text", ["1:0", "0", "a:b", "0:inf", "nan:1", "0:1:2", "1:1"])
def test_what_is_no_range_is_refused(text: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compile", "pixels.onnx", f"--range={text}"])
    assert stop.value.code == 2
    assert "LOW:HIGH" in capsys.readouterr().err
    with pytest.raises(AigcEdgeError, match="two finite numbers"):
        SourceOptions(output_range=(1.0, 0.0))
