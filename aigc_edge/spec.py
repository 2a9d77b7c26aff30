"""What a component (one exported network) takes and gives: names, roles, dtypes and shapes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Role = Literal["sample", "timestep", "class"]
BATCH = "N"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a component.

    `shape` begins with "N" (the batch, dynamic); the other sizes are numbers. `role` tells the executor what to feed: "sample"
    the scaled noisy sample (or the latents of a decoder), "timestep" the row's timestep float32 [N], "class" the class index
    int64 [N].
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[str | int, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> TensorSpec:
        return TensorSpec(value["name"], value["role"], value["dtype"], tuple(value["shape"]))


@dataclass(frozen=True)
class ComponentSpec:
    """One network of a bundle: "denoiser" is evaluated once a row, "decoder" once at the end."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    @staticmethod
    def from_json(name: str, value: dict[str, Any]) -> ComponentSpec:
        def parse(key: str) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec.from_json(t) for t in value[key])

        return ComponentSpec(name, parse("inputs"), parse("outputs"))
