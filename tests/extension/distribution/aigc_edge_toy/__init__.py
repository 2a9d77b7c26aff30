"""What another distribution can add to aigc-edge, one of each kind, found by the entry points in its pyproject.toml."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from aigc_edge.compress.formats.int8w import Int8Weights
from aigc_edge.diffusion.schedules import Level
from aigc_edge.diffusion.solvers.base import Step, straight
from aigc_edge.engines.base import Buffers, Engine, EngineSource, check_buffers

TARGET = Path(__file__).with_name("toy-npu.json")


def toy_midpoint(levels: Sequence[Level]) -> Iterator[Step]:
    """Two Euler steps for each step, by way of the level in the middle; order 1."""
    for start, end in pairwise(levels):
        middle = Level((start.alpha + end.alpha) / 2, (start.sigma + end.sigma) / 2)
        for first, last in ((start, middle), (middle, end)):
            yield Step(first, (straight(first, last, last.sigma),))


@dataclass(frozen=True)
class Toy8(Int8Weights):
    """int8 weights of all layers but the first."""

    name: ClassVar[str] = "toy8"
    requires: ClassVar[tuple[str, ...]] = ("int8w",)

    def recipe(self, model: Any, *evidence: Any) -> Any:
        recipe = super().recipe(model, *evidence)
        recipe.layers = recipe.layers[1:]
        return recipe


class ToyEngine(Engine):
    """ONNX files as the reference implementation of onnx computes them."""

    name = "toy"
    features = dict.fromkeys(("fp32", "int8w"), 0)

    def __init__(self, source: EngineSource, evaluator: Any) -> None:
        self.spec, self._evaluator = source.spec, evaluator

    @classmethod
    def unavailable(cls) -> str | None:
        return None

    @classmethod
    def load(cls, source: EngineSource, *, threads: int) -> Engine:
        import onnx
        from onnx.reference import ReferenceEvaluator

        with source.loadable(cls.name) as (_, model):
            loaded = onnx.load(model) if isinstance(model, str) else onnx.load_from_string(model)
            return cls(source, ReferenceEvaluator(loaded))

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        check_buffers(self.spec, inputs, outputs)

        def call() -> None:
            values = self._evaluator.run(list(outputs), dict(inputs))
            for buffer, value in zip(outputs.values(), values, strict=True):
                buffer[...] = value

        return call


def toy_pipeline(folder: Any, options: Any) -> Any:
    """Folders of the class ToyPipeline hold what those of DDPMPipeline do."""
    from aigc_edge.sources.diffusers.layout import PIPELINES

    other = copy.copy(folder)
    other.kind = "DDPMPipeline"
    return PIPELINES["DDPMPipeline"](other, options)
