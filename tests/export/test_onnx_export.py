"""ONNX export: right to rounding, refused when wrong, the same bytes each time, nothing left behind on failure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import aigc_edge
from aigc_edge.bundle import external
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.onnx import check, export_component
from aigc_edge.nn.unet import UNet


@dataclass
class Part:
    spec: ComponentSpec
    module: nn.Module
    example: Callable[[int, torch.Generator], tuple[Tensor, ...]]


def _unet(seed: int | None = None) -> Part:
    torch.manual_seed(torch.seed() if seed is None else seed)
    module = UNet(2, 3, widths=(8, 16), blocks=(1, 1), attention=(1,), embedding=16)
    with torch.no_grad():
        for value in module.parameters():  # what starts at zero would hide errors, and what starts at one too
            value.add_(torch.randn_like(value) * 0.1)
    inputs = (
        TensorSpec("sample", "sample", "float32", (BATCH, 2, 8, 8)),
        TensorSpec("timestep", "timestep", "float32", (BATCH,)),
        TensorSpec("class_labels", "class", "int64", (BATCH,)),
    )
    spec = ComponentSpec("denoiser", inputs, (TensorSpec("output", "sample", "float32", (BATCH, 2, 8, 8)),))

    def example(batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (
            torch.randn(batch, 2, 8, 8, generator=generator),
            torch.randn(batch, generator=generator),
            torch.randint(0, 4, (batch,), generator=generator),
        )

    return Part(spec, module, example)


def _part(module: nn.Module, *size: int) -> Part:
    shape = size or (4,)
    tensor = TensorSpec("x", "sample", "float32", (BATCH, *shape))
    spec = ComponentSpec("part", (tensor,), (TensorSpec("y", "sample", "float32", (BATCH, *shape)),))
    return Part(spec, module, lambda batch, generator: (torch.randn(batch, *shape, generator=generator),))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, Path, dict]:
    part, path = _unet(), tmp_path_factory.mktemp("export") / "unet.onnx"
    return part, path, export_component(part, path)


def test_right_at_any_batch(exported: tuple[Part, Path, dict]) -> None:
    """Against the module in float64: at most twice the error of torch in float32 (and 4 ulp), at batches of all sizes."""
    part, path, _ = exported
    session = onnxruntime.InferenceSession(path)
    double = _unet()
    double.module.load_state_dict(part.module.state_dict())
    double.module.double()
    for batch in (1, 2, 3, 7):
        sample, timestep, classes = part.example(batch, torch.Generator().manual_seed(torch.seed() % 2**31))
        inputs = {"sample": sample.numpy(), "timestep": timestep.numpy(), "class_labels": classes.numpy()}
        made = session.run(["output"], inputs)[0]
        with torch.no_grad():
            single = part.module(sample, timestep, classes).numpy()
            # the frequencies are float32 numbers by definition: double() only widens them
            exact = double.module(sample.double(), timestep.double(), classes).numpy()
        size = np.linalg.norm(exact)
        assert np.linalg.norm(made - exact) / size <= 2 * np.linalg.norm(single - exact) / size + 5e-7


def test_the_file(exported: tuple[Part, Path, dict]) -> None:
    part, path, report = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {node.domain for node in model.graph.node} == {""}
    assert [value.name for value in model.graph.input] == ["sample", "timestep", "class_labels"]
    assert [value.name for value in model.graph.output] == ["output"]
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert shapes == [["N", 2, 8, 8], ["N"], ["N"]]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"component": "denoiser", "format": "fp32", "aigc_edge": aigc_edge.__version__}
    assert report["bytes"] == path.stat().st_size
    assert report["nodes"] == len(model.graph.node)
    assert [entry["batch"] for entry in report["checks"]] == [1, 2]
    # Every shape but the batch is known beforehand: nothing computes shapes when it runs.
    assert not {node.op_type for node in model.graph.node} & {"Shape", "Slice", "Expand", "ConstantOfShape", "Identity"}
    text = path.read_bytes()
    assert b"site-packages" not in text
    assert str(Path(aigc_edge.__file__).parent).encode() not in text
    weights = sum(p.numel() * 4 for p in part.module.parameters())
    assert weights <= len(text) <= weights * 1.02 + 40_000  # no weight twice


def test_same_weights_same_bytes_and_silence(
    exported: tuple[Part, Path, dict], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    part, path, _ = exported
    export_component(part, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert capfd.readouterr() == ("", "")


def test_weights_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = _part(nn.Linear(4, 4))
    with monkeypatch.context() as change:
        change.setattr(external, "ABOVE", 10)
        report = export_component(part, tmp_path / "a.onnx")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    assert report["bytes"] == sum(f.stat().st_size for f in tmp_path.iterdir())
    x = torch.randn(3, 4)
    made = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(made, part.module(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    export_component(part, tmp_path / "a.onnx")
    assert [f.name for f in tmp_path.iterdir()] == ["a.onnx"]  # the data of the file that was replaced is gone


def test_a_wrong_graph_is_refused(exported: tuple[Part, Path, dict], tmp_path: Path) -> None:
    """A thousandth of one weight, or an operation changed: the check must see it."""
    part, path, _ = exported
    for damage in ("weight", "operation", "nan"):
        model = onnx.load(path)
        if damage == "operation":
            next(node for node in model.graph.node if node.op_type == "Sin").op_type = "Cos"
        else:
            tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
            value = numpy_helper.to_array(tensor).copy()
            first = value.flat[0]  # the two changes must not cancel out
            value.flat[0] = first * 1.001 + np.copysign(1e-4, first) if damage == "weight" else np.nan
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        onnx.save(model, tmp_path / "wrong.onnx")
        with pytest.raises(AigcEdgeError, match="denoiser in ONNX is off by"):
            check(part, tmp_path / "wrong.onnx")


def test_a_baked_in_batch_is_refused(tmp_path: Path) -> None:
    class Baked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.shape[0])  # becomes the constant 3 of the example

    class Eager(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 3.0

    export_component(_part(Eager()), tmp_path / "three.onnx")
    with pytest.raises(AigcEdgeError, match="batch 1"):
        check(_part(Baked()), tmp_path / "three.onnx")


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(AigcEdgeError, match="component 'part' cannot be exported"):
        export_component(_part(Branches()), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_float32_named_in_the_code_is_no_obstacle(tmp_path: Path) -> None:
    """The float64 yardstick also runs modules that cast to float32 themselves."""

    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.to(torch.float32)).float() + torch.arange(4, dtype=torch.float32)

    report = export_component(_part(Casts()), tmp_path / "a.onnx")
    assert report["checks"]
    assert all(0 < entry["relative_l2"] <= entry["allowed"] < 2e-6 for entry in report["checks"])


def test_long_sums_may_round_as_onnxruntime_adds_them(tmp_path: Path) -> None:
    """A normalisation over a million values, as decoders of large images have: no operation is wrong there."""
    norm = nn.GroupNorm(1, 4)
    report = export_component(_part(norm, 4, 512, 512), tmp_path / "a.onnx")
    assert report["checks"]
    assert all(entry["relative_l2"] < entry["allowed"] < 5e-5 for entry in report["checks"])
    wrong = nn.GroupNorm(1, 4, eps=1e-3)
    with pytest.raises(AigcEdgeError, match="is off by"):
        check(_part(wrong, 4, 512, 512), tmp_path / "a.onnx")


class _Calls(nn.Module):
    """A function as a module, with a weight so that the exporter has something to export."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(4, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.function(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + torch.randn_like(x),
        lambda x: x * (torch.rand(4) > 0.5),
        lambda x: nn.functional.dropout(x, 0.5, training=True),
        lambda x: x + 1e-3 * torch.bernoulli(torch.full_like(x, 0.5)),
    ],
    ids=["noise", "shared mask", "functional dropout", "little noise"],
)
def test_what_draws_random_numbers_is_refused(tmp_path: Path, function: Callable[[Tensor], Tensor]) -> None:
    """Two evaluations differ, so a comparison with one of them would allow anything."""
    with pytest.raises(AigcEdgeError, match=r"draws random numbers .*: make them an input"):
        export_component(_part(_Calls(function)), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "draw", [random.random, np.random.random, lambda: torch.rand(()).item()], ids=["random", "numpy", "torch"]
)
@pytest.mark.parametrize("least", [0.1, 0.5])
def test_coins_that_python_flips_are_refused(draw: Callable[[], float], least: float, tmp_path: Path) -> None:
    """Also where most evaluations agree by chance."""
    graph = tmp_path / "a.onnx"
    export_component(_part(module := _Calls(lambda x: x)), graph)
    module.function = lambda x: x if draw() > least else -x
    with pytest.raises(AigcEdgeError, match=r"draws random numbers .*: make them an input"):
        check(_part(module), graph)


def test_coins_of_a_generator_of_its_own_are_refused(tmp_path: Path) -> None:
    """Whose first evaluations in float32 differ from those in float64."""
    graph, own = tmp_path / "a.onnx", random.Random(0)
    export_component(_part(module := _Calls(lambda x: x)), graph)
    first = iter([True, True, False, False])
    module.function = lambda x: x if next(first, own.random() > 0.5) else -x
    with pytest.raises(AigcEdgeError, match=r"draws random numbers .*: make them an input"):
        check(_part(module), graph)


def test_numbers_that_are_drawn_and_not_used_do_no_harm(tmp_path: Path) -> None:
    """As transformers that may skip layers in training draw them."""
    module = _Calls(lambda x: x if random.random() < 2 else -x)
    assert export_component(_part(module), tmp_path / "a.onnx")["checks"]


def test_dropout_that_is_off_is_no_random_number(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), _Calls(lambda x: nn.functional.dropout(x, 0.5, training=False)))
    assert export_component(_part(module), tmp_path / "a.onnx")["checks"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: nn.functional.batch_norm(x.reshape(-1, 2, 2), None, None, training=True).reshape(x.shape),
        lambda x: x / (x - x.mean(0, keepdim=True)).square().mean().add(1).sqrt(),  # as minibatch deviation in a discriminator
        lambda x: x.softmax(0),
    ],
    ids=["batch statistics", "minibatch deviation", "softmax over the batch"],
)
def test_samples_that_depend_on_each_other_are_refused(tmp_path: Path, function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AigcEdgeError, match="its samples depend on each other"):
        export_component(_part(_Calls(function)), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_needs_two_samples_is_refused(tmp_path: Path) -> None:
    module = _Calls(lambda x: nn.functional.batch_norm(x, None, None, training=True))
    with pytest.raises(AigcEdgeError, match=r"fails on batches of 1 or 2 samples .*: it must accept any number"):
        export_component(_part(module), tmp_path / "a.onnx")


def test_magnified_rounding_has_a_limit(exported: tuple[Part, Path, dict], tmp_path: Path) -> None:
    """A network that turns the last bits of its input into its output: torch's own error is no measure of an export."""

    class Magnifies(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(x * 1e7)

    with pytest.raises(AigcEdgeError, match=r"is off by .* rounding explains 0.001"):
        export_component(_part(Magnifies()), tmp_path / "a.onnx")


class _Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(300, 4))

    def forward(self, x: Tensor) -> Tensor:
        weight = (self.weight - self.weight.mean(1, keepdim=True)) / self.weight.std(1, keepdim=True)
        return nn.functional.linear(nn.functional.linear(x, weight).relu(), weight.T / 30)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 300)), nn.Linear(300, 4)),
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 300)), nn.Linear(300, 4)),
        _Standardised(),
    ],
    ids=["weight norm", "spectral norm", "weight standardisation"],
)
def test_parametrised_weights_are_constants(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: nn.Module) -> None:
    """Also those that lie in a file of their own."""
    monkeypatch.setattr(external, "ABOVE", 1000)
    part = _part(module)
    export_component(part, tmp_path / "a.onnx")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]
    model = onnx.load(tmp_path / "a.onnx")
    assert {node.op_type for node in model.graph.node} <= {"Gemm", "MatMul", "Relu", "Add"}
    assert sum(np.prod(tensor.dims, dtype=int) >= 1200 for tensor in model.graph.initializer) == 2
    x = torch.randn(3, 4)
    made = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"x": x.numpy()})[0]
    np.testing.assert_allclose(made, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_branches_read_weights_of_the_graph(tmp_path: Path) -> None:
    class Chooses(nn.Module):
        """By a weight, since a choice by the batch would make its samples depend on each other."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.gate = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            # The comparison reads the batch, so that nothing folds it.
            return torch.cond((x.abs().sum() + self.gate) > 0, self.one.forward, self.two.forward, (x,))

    part = _part(Chooses())
    export_component(part, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    assert "If" in {node.op_type for node in model.graph.node}
    assert len([tensor for tensor in model.graph.initializer if list(tensor.dims) == [4, 4]]) == 2
