"""Torch modules as people write them: dicts, tuples, other precisions and channels last become what the runtime calls."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.generator import Generator

SCHEDULE = {"prediction": "epsilon", "betas": "linear"}


@dataclasses.dataclass
class Output:
    sample: Tensor
    loss: None = None


class Scaled(nn.Module):
    """2 · x, as `wrap` returns it."""

    def __init__(self, wrap: Any = lambda x: x, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.wrap, self.factor = wrap, nn.Parameter(torch.tensor(2.0, dtype=dtype))

    def forward(self, sample: Tensor, *others: Tensor) -> Any:
        return self.wrap(sample * self.factor)


def network_of(source: Generator) -> Any:
    """The first component of the source, as a function of NumPy arrays."""
    module = source.components()[0].module
    return lambda *arrays: module(*map(torch.as_tensor, arrays)).numpy()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: {"image": x},
        lambda x: (x,),
        lambda x: [x],
        lambda x: Output(x),
        lambda x: OrderedDict(sample=x, loss=None),
    ],
    ids=["dict", "tuple", "list", "dataclass", "ordered"],
)
@pytest.mark.parametrize("role", ["denoiser", "decoder"])
def test_the_only_tensor_is_the_result(rng: np.random.Generator, wrap: Any, role: str) -> None:
    networks: dict[str, Any] = {role: Scaled(wrap)} | ({"schedule": SCHEDULE} if role == "denoiser" else {})
    network = network_of(Generator(sample=torch.zeros(1, 3, 4, 4), **networks))
    x = rng.standard_normal((3, 3, 4, 4), dtype=np.float32)
    times = [np.zeros(3, np.float32)] if role == "denoiser" else []
    np.testing.assert_array_equal(network(x, *times), 2 * x)


@pytest.mark.parametrize(("result", "factor"), [("a", 2.0), ("b", -2.0)])
def test_one_of_several_tensors_is_chosen(rng: np.random.Generator, result: str, factor: float) -> None:
    module = Scaled(lambda x: {"a": x, "b": -x})
    with pytest.raises(AigcEdgeError, match=r"the decoder returns the tensors a, b: choose one with --result NAME"):
        Generator(sample=torch.zeros(1, 3, 4, 4), decoder=module)
    network = network_of(Generator(sample=torch.zeros(1, 3, 4, 4), decoder=module, result=result))
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(network(x), factor * x)


@pytest.mark.parametrize(
    ("wrap", "sentence"),
    [
        (lambda x: (x, x), r"returns the tensors 0, 1: choose one with --result NAME"),
        (lambda x: None, r"returns a NoneType: return a tensor \[N, C, H, W\]"),
        (lambda x: {"image": x.long()}, r"returns torch.int64 \[1, 3, 4, 4\]: it must return floats"),
        (lambda x: x[:, :, :2], r"takes \[1, 3, 4, 4\] but returns \[1, 3, 2, 4\]: it must preserve the shape"),
    ],
)
def test_what_is_no_result_is_refused_before_the_export(wrap: Any, sentence: str) -> None:
    source = Generator(sample=torch.zeros(1, 3, 4, 4), denoiser=Scaled(wrap), schedule=SCHEDULE)
    with pytest.raises(AigcEdgeError, match=sentence):
        source.components()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_become_float32(rng: np.random.Generator, dtype: torch.dtype) -> None:
    module = Scaled(dtype=dtype)
    source = Generator(sample=torch.zeros(1, 3, 4, 4, dtype=dtype), decoder=module)
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(network_of(source)(x), 2 * x)
    assert module.factor.dtype == dtype, "the caller's module is unchanged"


class Shifted(nn.Module):
    """2 · x + 1, where the shift is a buffer or a constant of the code."""

    def __init__(self, dtype: torch.dtype, buffer: bool) -> None:
        super().__init__()
        self.factor, self.dtype = nn.Parameter(torch.tensor([2.0])), dtype
        self.shift: Tensor | float
        if buffer:
            self.register_buffer("shift", torch.ones(1, dtype=dtype))
        else:
            self.shift = 1.0

    def forward(self, sample: Tensor) -> Tensor:
        x = sample * self.factor
        return (x if isinstance(self.shift, Tensor) else x.to(self.dtype)) + self.shift


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("buffer", [True, False])
def test_outputs_in_other_precisions_become_float32(
    tmp_path: Path, rng: np.random.Generator, dtype: torch.dtype, buffer: bool
) -> None:
    module = Shifted(dtype, buffer)
    source = Generator(sample=torch.zeros(1, 3, 4, 4), decoder=module)
    (part,) = source.components()
    x = rng.integers(-8, 8, (2, 3, 4, 4)).astype(np.float32)  # which all these types hold
    assert part.module(torch.as_tensor(x)).dtype == torch.float32
    np.testing.assert_array_equal(network_of(source)(x), 2 * x + 1)
    if buffer or dtype == torch.float64:  # rounding in the code is that of the module
        part.write(tmp_path / "a.onnx")
        session = InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        assert session.get_outputs()[0].type == "tensor(float)"
        np.testing.assert_array_equal(session.run(None, {"sample": x})[0], 2 * x + 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("compiled", [torch.jit.script, lambda module: torch.jit.trace(module, torch.zeros(1, 3, 4, 4))])
def test_compiled_modules_are_taken(tmp_path: Path, rng: np.random.Generator, compiled: Any) -> None:
    """What cannot be exported is refused with a sentence."""
    module = compiled(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Tanh()).eval())
    source = Generator(sample=torch.zeros(1, 3, 4, 4), decoder=module)
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32)
    np.testing.assert_array_equal(network_of(source)(x), module(torch.as_tensor(x)).detach().numpy())
    with contextlib.suppress(AigcEdgeError):
        source.components()[0].write(tmp_path / "a.onnx")
        session = InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"sample": x})[0], network_of(source)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrap", [lambda x: {"image": x}, lambda x: x], ids=["dict", "variable arguments"])
def test_the_module_is_exported(tmp_path: Path, rng: np.random.Generator, wrap: Any) -> None:
    """Also one whose forward names none of its inputs."""
    (part,) = Generator(sample=torch.zeros(1, 8, 16, 3), denoiser=Scaled(wrap), schedule=SCHEDULE).components()
    part.write(tmp_path / "a.onnx")
    session = InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    x = rng.standard_normal((2, 3, 8, 16), dtype=np.float32)
    feeds = {value.name: x if len(value.shape) == 4 else np.zeros(2, np.float32) for value in session.get_inputs()}
    np.testing.assert_array_equal(session.run(None, feeds)[0], 2 * x)


def test_channels_last_are_transposed(rng: np.random.Generator) -> None:
    source = Generator(sample=torch.zeros(1, 8, 16, 3), denoiser=Scaled(), schedule=SCHEDULE)
    assert source.sample_shape == source.output_shape == (3, 8, 16)
    x = rng.standard_normal((2, 3, 8, 16), dtype=np.float32)
    np.testing.assert_array_equal(network_of(source)(x, np.zeros(2, np.float32)), 2 * x)


def test_a_decoder_to_channels_last(rng: np.random.Generator) -> None:
    source = Generator(sample=torch.zeros(1, 4, 8, 8), decoder=Scaled(lambda x: x[:, :3].permute(0, 2, 3, 1)))
    assert (source.sample_shape, source.output_shape) == ((4, 8, 8), (3, 8, 8))
    x = rng.standard_normal((2, 4, 8, 8), dtype=np.float32)
    np.testing.assert_array_equal(network_of(source)(x), 2 * x[:, :3])


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        ((8, 8, 8), None, (8, 8, 8)),
        ((4, 4, 3), "nhwc", (3, 4, 4)),
        ((8, 8, 3), "nchw", (8, 8, 3)),
        ((3, 8, 3), None, (3, 8, 3)),
        ((12, 50, 1), None, (12, 50, 1)),  # a signal
        ((12, 50, 1), "nhwc", (1, 12, 50)),
    ],
)
def test_the_layout_is_evident_or_declared(shape: tuple[int, ...], layout: Any, expected: tuple[int, ...]) -> None:
    assert Generator(sample=torch.zeros(1, *shape), decoder=Scaled(), layout=layout).output_shape == expected


def test_a_denoiser_and_a_decoder_with_channels_last() -> None:
    networks = {"denoiser": Scaled(), "decoder": Scaled(lambda x: x.repeat(1, 2, 2, 1))}
    source = Generator(sample=torch.zeros(1, 8, 8, 3), schedule=SCHEDULE, **networks)
    assert (source.sample_shape, source.output_shape) == ((3, 8, 8), (3, 16, 16))
    assert [part.spec.inputs[0].shape for part in source.components()] == [("N", 3, 8, 8)] * 2


def test_a_denoiser_is_checked_at_timesteps_of_its_programs() -> None:
    source = Generator(sample=torch.zeros(1, 3, 4, 4), denoiser=Scaled(), schedule={"prediction": "edm", "sigma_max": 5.0})
    rows = {float(np.float32(row.timestep)) for program in source.programs(None, None, None) for row in program.rows}
    (part,) = source.components()
    assert set(part.example(64, torch.Generator().manual_seed(0))[1].tolist()) <= rows


class Root(nn.Module):
    """sqrt(z), NaN for half of all normal numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, sample: Tensor) -> Tensor:
        return torch.sqrt(sample) * self.factor


@pytest.mark.parametrize("sizes", [(), ((4, 4), (8, 4))])
@pytest.mark.parametrize("inputs", ["uniform:0:1", "arrays"])
def test_a_network_is_checked_on_its_own_inputs(tmp_path: Path, rng: np.random.Generator, sizes: Any, inputs: str) -> None:
    chosen = {"sample": rng.uniform(1, 2, (3, 3, 4, 4)).astype(np.float32)} if inputs == "arrays" else inputs
    arguments: dict[str, Any] = {"sample": torch.ones(1, 3, 4, 4), "decoder": Root(), "sizes": sizes}
    (part,) = Generator(**arguments, inputs=chosen).components()
    assert part.write(tmp_path / "a.onnx")["checks"]
    low, high = (1, 2) if inputs == "arrays" else (0, 1)
    (drawn,) = part.example(50, torch.Generator().manual_seed(0))
    assert low <= drawn.min() < drawn.max() <= high
    (part,) = Generator(**arguments, inputs="normal").components()
    with pytest.raises(AigcEdgeError, match="is off by nan"):
        part.write(tmp_path / "b.onnx")
