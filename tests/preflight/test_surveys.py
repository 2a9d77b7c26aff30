"""Surveys count what networks really hold: against sums by hand, and the two kinds of survey against each other."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.preflight import onnx_survey, torch_survey
from aigc_edge.sources.base import SourceComponent


class Network(nn.Module):
    """[N, 4, 8, 8] → [N, 4, 16, 16], one of each kind of layer, and a product of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.query, self.key = nn.Linear(8, 6), nn.Linear(8, 6, bias=False)
        self.mix = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        x = nn.functional.silu(self.norm(self.first(sample)))
        tokens = x.flatten(2).transpose(1, 2)
        weights = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2), dim=-1)
        x = (weights @ tokens).transpose(1, 2).reshape(x.shape) + self.mix(x)
        return self.up(x)


def _part(module: nn.Module, shape=(4, 8, 8), output=(4, 16, 16)) -> SourceComponent:
    spec = ComponentSpec(
        "decoder",
        (TensorSpec("sample", "sample", "float32", (BATCH, *shape)),),
        (TensorSpec("output", "sample", "float32", (BATCH, *output)),),
    )
    return SourceComponent(spec, lambda: module, lambda batch, rng: (torch.randn(batch, *shape, generator=rng),))


MACS = {"first": 64 * 4 * 9 * 8, "query": 64 * 8 * 6, "key": 64 * 8 * 6, "mix": 64 * 8 * 2 * 9, "up": 64 * 8 * 4 * 4}


def test_a_torch_module_is_counted_without_computing():
    module = Network()
    before = [parameter.clone() for parameter in module.parameters()]
    found = torch_survey.survey(_part(module))
    assert {weight.name: weight.macs for weight in found.weights} == MACS
    assert {weight.name: (weight.operator, weight.outputs, weight.inputs) for weight in found.weights} == {
        "first": ("Conv", 8, 36),
        "query": ("Gemm", 6, 8),
        "key": ("Gemm", 6, 8),
        "mix": ("Conv", 8, 18),
        "up": ("ConvTranspose", 16, 8),
    }
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.products == 64 * 64 * 6 + 64 * 64 * 8
    # at the softmax: the residual input, the tokens' view of it, and two matrices of weights
    assert 4 * (64 * 64 * 2) <= found.activations <= 4 * (64 * 64 * 3 + 64 * 8 * 6)
    for parameter, was in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
        assert parameter.device.type == "cpu"


def test_the_graph_is_counted_alike(tmp_path):
    part = _part(Network())
    by_torch = torch_survey.survey(part)
    part.write(tmp_path / "net.onnx")
    by_graph = onnx_survey.survey("decoder", onnx.load(tmp_path / "net.onnx"))
    assert by_graph.macs == by_torch.macs
    assert sorted(w.elements for w in by_graph.weights) == sorted(w.elements for w in by_torch.weights)
    assert abs(by_graph.parameters - by_torch.parameters) <= 32  # shapes and axes are constants too
    assert 0.5 <= by_graph.activations / by_torch.activations <= 2


def test_a_module_that_decides_by_values_says_so():
    class Deciding(nn.Module):
        def forward(self, sample):
            return sample if sample.sum() > 0 else -sample

    with pytest.raises(AigcEdgeError, match="control flow that depends on values"):
        torch_survey.survey(_part(Deciding()))


def test_what_follows_from_the_timestep_alone_is_known():
    class Timed(nn.Module):
        def __init__(self):
            super().__init__()
            self.time, self.classes = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, 8)), nn.Embedding(4, 8)
            self.both, self.image = nn.Linear(8, 4), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, sample, timestep, labels):
            shift = self.both(self.time(timestep[:, None]) + self.classes(labels))
            return self.image(sample) + shift[:, :, None, None]

    def example(batch, rng):
        return torch.randn(batch, 4, 8, 8), torch.rand(batch), torch.randint(4, (batch,))

    image = TensorSpec("sample", "sample", "float32", (BATCH, 4, 8, 8))
    inputs = (image, TensorSpec("timestep", "timestep", "float32", (BATCH,)), TensorSpec("labels", "class", "int64", (BATCH,)))
    module = Timed()
    found = torch_survey.survey(SourceComponent(ComponentSpec("denoiser", inputs, (image,)), lambda: module, example))
    assert {weight.name for weight in found.weights if weight.timestep_only} == {"time.0", "time.2"}
    assert len(found.weights) == 5
