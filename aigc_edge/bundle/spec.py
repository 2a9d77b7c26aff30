"""What a component (one exported network) takes and gives: names, roles, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from aigc_edge.bundle.sizes import Size, at
from aigc_edge.errors import BundleError

Role = Literal["sample", "timestep", "class", "constant", "condition", "guidance", "tokens"]
Network = Literal["onnx", "weights", "any"]
BATCH = "N"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a component.

    `shape` begins with "N" (the batch, dynamic); the other sizes are numbers or, where a network serves several image sizes, "H",
    "W" or a part of them ("H/8"). `role` tells the executor what to feed: "sample" the scaled noisy sample (or the latents of a
    decoder), "timestep" the row's timestep float32 [N], "class" the class index int64 [N], "constant" what the schedule gives for
    the row's timestep, float32 [N, ...], the same for every sample, "condition" what a prompt or the caller gives, float32
    [N, ...], the same in every row (and what a text encoder puts out), "guidance" the row's guidance weight as a number, float32
    [N]: a network that takes it is never evaluated twice a row, "tokens" token ids int64 [N, L], which text encoders alone take.
    """

    name: str
    role: Role
    dtype: str
    shape: tuple[str | int, ...]

    def at(self, size: Size | None) -> TensorSpec:
        """The tensor at an image size: its shape is numbers behind the batch."""
        return replace(self, shape=at(self.shape, size))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}

    @staticmethod
    def from_json(value: dict[str, Any]) -> TensorSpec:
        return TensorSpec(value["name"], value["role"], value["dtype"], tuple(value["shape"]))


@dataclass(frozen=True)
class ComponentSpec:
    """One network of a bundle: "denoiser" is evaluated once a row, "decoder" once at the end, "schedule" once a timestep.

    "text_encoder", "text_encoder_2" and "text_encoder_3" are evaluated once a prompt: tokens in, conditions out, which feed the
    denoiser's inputs of the same names.

    One network may be stored in two ways that take different inputs: the ONNX files and plans of a denoiser take constants in
    place of the timestep, the module that its weights belong to still takes the timestep. In a manifest "inputs" lists all that
    the executor feeds; "onnx_inputs" of the component and "inputs" of its "weights" name those that either takes, in order
    (without: all). An engine is given all of them and binds those of its own spec.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def at(self, size: Size | None) -> ComponentSpec:
        """The component at an image size; None: it has one alone."""
        return replace(self, inputs=tuple(t.at(size) for t in self.inputs), outputs=tuple(t.at(size) for t in self.outputs))

    def to_json(self) -> dict[str, Any]:
        return {"inputs": [t.to_json() for t in self.inputs], "outputs": [t.to_json() for t in self.outputs]}

    @staticmethod
    def from_json(name: str, value: Mapping[str, Any], network: Network = "onnx") -> ComponentSpec:
        """What the component's ONNX files take, the module of its weights, or what the executor feeds to "any" network of it.

        Raises BundleError for names that are not among the component's inputs.
        """
        inputs = {t["name"]: TensorSpec.from_json(t) for t in value["inputs"]}
        taken: dict[Network, Any] = {"onnx": value.get("onnx_inputs"), "weights": (value.get("weights") or {}).get("inputs")}
        chosen = taken.get(network)
        unknown = [str(n) for n in chosen or () if n not in inputs]
        if unknown:
            raise BundleError(f"the component {name!r} takes {', '.join(unknown)}, which its inputs lack: compile it again")
        outputs = tuple(TensorSpec.from_json(t) for t in value["outputs"])
        return ComponentSpec(name, tuple(inputs[n] for n in (inputs if chosen is None else chosen)), outputs)
