"""The schedule taken out of networks that torch exported: exact, counted, and refused where it would not be exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from aigc_edge.bundle import external
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.export import split as splitting
from aigc_edge.export.onnx import export_component, saved, to_ir
from aigc_edge.export.split import Split, export_split
from aigc_edge.models.base import FAMILIES, ModuleComponent

CLASSES, TOKENS, WIDTH = 5, 9, 32


class Transformer(nn.Module):
    """A diffusion transformer in small: in every block a matrix makes six modulations of the timestep (adaLN-zero)."""

    def __init__(self, blocks: int = 3, labelled: bool = False) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.classes = nn.Embedding(CLASSES + 1, WIDTH) if labelled else None
        self.modulations = nn.ModuleList(nn.Linear(WIDTH, 6 * WIDTH) for _ in range(blocks))
        self.attention = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(blocks))
        self.mixers = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)) for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        angles = timestep[:, None] * torch.exp(-math.log(1e4) * torch.arange(8, device=sample.device) / 8).to(timestep.dtype)
        condition = self.time(torch.cat([angles.cos(), angles.sin()], 1))
        if self.classes is not None:
            condition = condition + self.classes(class_labels)
        for modulation, attention, mixer in zip(self.modulations, self.attention, self.mixers, strict=True):
            parts = modulation(nn.functional.silu(condition)).unsqueeze(1).chunk(6, dim=2)
            q, k, v = attention(self.norm(sample) * (1 + parts[0]) + parts[1])[:, None].chunk(3, dim=3)  # one head
            sample = sample + parts[2] * nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]
            sample = sample + parts[3] * mixer(self.norm(sample) * (1 + parts[4]) + parts[5])
        return sample


def component(module: nn.Module, shape: tuple[int, ...], labelled: bool) -> ModuleComponent:
    sample = TensorSpec("sample", "sample", "float32", (BATCH, *shape))
    label = (TensorSpec("class_labels", "class", "int64", (BATCH,)),) if labelled else ()
    inputs = (sample, TensorSpec("timestep", "timestep", "float32", (BATCH,)), *label)

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        given = (torch.randn((batch, *shape), generator=generator), torch.randn(batch, generator=generator))
        return (*given, torch.randint(CLASSES, (batch,), generator=generator)) if labelled else given

    output = TensorSpec("output", "sample", "float32", (BATCH, *shape))
    return ModuleComponent(ComponentSpec("denoiser", inputs, (output,)), module.eval(), example)


def unet(labelled: bool) -> ModuleComponent:
    model = {"size": 8, "channels": 1, "num_classes": CLASSES if labelled else 0, "widths": [8, 16], "blocks": [1, 1]}
    (part,) = FAMILIES["diffusion"].from_config(model | {"embedding": 16, "attention": [1]}).components()
    return part


NETWORKS: dict[str, Callable[[], ModuleComponent]] = {
    "unet": lambda: unet(False),
    "unet with classes": lambda: unet(True),
    "transformer": lambda: component(Transformer(), (TOKENS, WIDTH), False),
    "transformer with classes": lambda: component(Transformer(labelled=True), (TOKENS, WIDTH), True),
}


def randomised(part: ModuleComponent, rng: np.random.Generator) -> ModuleComponent:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    with torch.no_grad():  # zero-initialised layers would make every comparison trivial
        for value in part.module.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return part


Case = tuple[str, ModuleComponent, Split, Path]


@pytest.fixture(scope="module", params=list(NETWORKS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Exported once: its weights are random in every run."""
    part, folder = randomised(NETWORKS[request.param](), np.random.default_rng()), tmp_path_factory.mktemp("split")
    export_component(part, folder / "whole.onnx")
    split = export_split(part, folder / "whole.onnx", folder / "denoiser.onnx", folder / "schedule.onnx")
    assert isinstance(split, Split), split
    return request.param, part, split, folder


def run(file: Path, feeds: dict[str, Any]) -> list[np.ndarray]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    return list(session.run(None, {v.name: feeds[v.name] for v in session.get_inputs()}))


def parameters(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


def test_two_files_are_what_the_whole_is(case: Case, rng: np.random.Generator) -> None:
    _, part, split, folder = case
    for batch in (1, 2, 7):
        inputs = part.example(batch, torch.Generator().manual_seed(int(rng.integers(2**31))))
        feeds = {t.name: x.numpy() for t, x in zip(part.spec.inputs, inputs, strict=True)}
        feeds["timestep"][:] = feeds["timestep"][0]
        (wanted,) = run(folder / "whole.onnx", feeds)
        rows = run(folder / "schedule.onnx", {"timestep": feeds["timestep"][:1]})
        given = {t.name: np.repeat(row, batch, axis=0) for t, row in zip(split.schedule.outputs, rows, strict=True)}
        (made,) = run(folder / "denoiser.onnx", feeds | given)
        np.testing.assert_allclose(made, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_it_is_described_and_counted(case: Case) -> None:
    name, part, split, folder = case
    for spec, file in ((split.inputs, "denoiser.onnx"), (split.schedule.inputs, "schedule.onnx")):
        found = ort.InferenceSession(folder / file, providers=["CPUExecutionProvider"]).get_inputs()
        assert [(v.name, v.shape) for v in found] == [(t.name, list(t.shape)) for t in spec]
    assert [t.role for t in split.inputs if t.role != "constant"] == ["sample"] + ["class"] * ("classes" in name)
    assert tuple(t for t in split.inputs if t.role == "constant") == split.schedule.outputs
    module: Any = part.module
    if isinstance(module, Transformer):
        expected = parameters(module.time, *(() if "classes" in name else module.modulations))
    else:
        embedding = module.embedding
        expected = parameters(embedding.hidden, embedding.time, *(() if "classes" in name else (module.modulation,)))
        expected += embedding.features.frequencies.numel()
    assert abs(split.report.weights - expected) <= 16  # constants such as frequencies are weights too
    smaller = (folder / "whole.onnx").stat().st_size - (folder / "denoiser.onnx").stat().st_size
    assert smaller > 3.5 * split.report.weights
    if name == "transformer":
        assert split.report.weights > 0.3 * split.report.of_weights
    assert len(split.checks) == 2
    assert all(check["relative_l2"] <= check["allowed"] for check in split.checks)


class Summing(nn.Module):
    """Its time part depends on how many samples there are: no constant of one sample can stand for it."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample * torch.sin(timestep).sum()


class Modulated(nn.Module):
    """The smallest network with a schedule."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 64)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample * self.linear(timestep[:, None])


class Plain(nn.Module):
    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample * (sample.mean(dim=1) + timestep)[:, None]


@pytest.mark.parametrize(
    ("module", "reason"),
    [(Summing(), "without its schedule is off by"), (Plain(), "nothing in it depends on the timestep alone")],
)
def test_what_cannot_be_split_stays_whole(module: nn.Module, reason: str, tmp_path: Path) -> None:
    part = component(module, (4,), False)
    with saved(to_ir(part), tmp_path / "whole.onnx"):  # unchecked: samples that depend on each other are refused
        pass
    found = export_split(part, tmp_path / "whole.onnx", tmp_path / "denoiser.onnx", tmp_path / "schedule.onnx")
    assert isinstance(found, str)
    assert reason in found
    assert [file.name for file in tmp_path.iterdir()] == ["whole.onnx"]


def test_a_decoder_has_no_schedule(tmp_path: Path) -> None:
    (part,) = FAMILIES["gan"].from_config({"size": 8, "channels": 1, "num_classes": 0}).components()
    export_component(part, tmp_path / "whole.onnx")
    assert export_split(part, tmp_path / "whole.onnx", tmp_path / "a", tmp_path / "b") == "it takes no timestep"


def test_a_split_that_onnxruntime_refuses_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = component(Modulated(), (64,), False)
    export_component(part, tmp_path / "whole.onnx")

    def broken(*_: Any) -> Any:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(splitting, "session_of", broken)
    assert export_split(part, tmp_path / "whole.onnx", tmp_path / "a", tmp_path / "b") == "no such operator"
    assert [file.name for file in tmp_path.iterdir()] == ["whole.onnx"]


def test_weights_of_a_huge_model_stay_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "ABOVE", 100)
    part = component(Transformer(1), (TOKENS, WIDTH), False)
    whole = tmp_path / "whole" / "denoiser.onnx"
    whole.parent.mkdir()
    export_component(part, whole)
    split = export_split(part, whole, tmp_path / "denoiser.onnx", tmp_path / "schedule.onnx")
    assert isinstance(split, Split), split
    assert {file.name for file in tmp_path.iterdir()} >= {"denoiser.onnx", "denoiser.onnx.data", "schedule.onnx"}
    assert len(split.checks) == 2
    assert all(check["relative_l2"] <= check["allowed"] for check in split.checks)
