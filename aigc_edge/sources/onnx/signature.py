"""The signature of a third-party ONNX file, and why it cannot be used: what the message alone shows, within a second.

Nothing here imports onnx, whose import takes that long itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.spec import Role
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.layout import channels_last
from aigc_edge.export.refused import QUANTISED, RANDOM, quantised_error, random_error
from aigc_edge.sources.base import SourceOptions
from aigc_edge.sources.onnx.tensors import GraphTensor, graphs_of, read_graph, result_of, roles_of, tensors_of

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Adaptation:
    """How a graph becomes a component: the role or the constant value of each input, and the output that is the result.

    `channels_last` names the tensors [N, H, W, C] among the sample and the output.
    """

    roles: Mapping[str, Role]
    output: str
    constants: Mapping[str, float] = field(default_factory=dict)
    channels_last: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Signature:
    """What an ONNX file is compiled as: `model` is its message, without external weights.

    `conditions` are examples [k, ...] of conditions by name; `one_sample` says that the file takes one sample only.
    """

    model: onnx.ModelProto
    adaptation: Adaptation
    one_sample: bool
    conditions: Mapping[str, npt.NDArray[np.float32]]
    num_classes: int


def signature_of(path: Path, options: SourceOptions) -> Signature:
    """The signature of the file in `path`; raises AigcEdgeError for a file that cannot be used, as far as its message shows."""
    options.refuse("an ONNX file", "prompts")
    if options.role is None:
        raise AigcEdgeError(f"{path.name} was given without --role: choose denoiser (evaluated each step) or decoder (once)")
    options.denoiser_schedule()
    model = read_graph(path)
    if not model.graph.node or not model.graph.output:
        raise AigcEdgeError(f"{path} contains no network: export it again")
    _check_nodes(model, path)
    inputs, outputs = tensors_of(model)
    conditions = {name: _examples(file) for name, file in options.inputs.items() if file.endswith(".npy")}
    adaptation = _adaptation(path, options, inputs, outputs, conditions)
    one_sample = _one_sample(path, inputs, adaptation.roles)
    return Signature(model, adaptation, one_sample, conditions, options.classes or 0)


def _check_nodes(model: onnx.ModelProto, path: Path) -> None:
    """Raise AigcEdgeError for operators of other domains, and for those that draw random numbers or quantise activations."""
    own = {function.domain for function in model.functions}
    nodes = [node for holder in (model.graph, *model.functions) for graph in graphs_of(holder) for node in graph.node]
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain and node.domain not in own})
    if foreign:
        names = ", ".join(foreign[:5])
        raise AigcEdgeError(
            f"{path.name} uses {names}: engines run operators of the standard ONNX domain only; export it again without them"
        )
    drawing = [node.op_type for node in nodes if node.op_type in RANDOM]
    if drawing:
        raise random_error(path.name, drawing[0])
    constants = {tensor.name for tensor in model.graph.initializer} - {value.name for value in model.graph.input}
    quantised = set()
    for node in model.graph.node:  # weights that are quantised become constants in float
        if all(name in constants for name in node.input if name) and not any(a.HasField("g") for a in node.attribute):
            constants.update(node.output)
        elif node.op_type in QUANTISED:
            quantised.add(node.op_type)
    if quantised:
        raise quantised_error(path.name, quantised)


def _adaptation(
    path: Path,
    options: SourceOptions,
    inputs: Mapping[str, GraphTensor],
    outputs: Mapping[str, GraphTensor],
    examples: Mapping[str, Any],
) -> Adaptation:
    """Roles, constants, the result and its layout."""
    role = options.role or ""
    result = result_of(outputs, options.result, path)
    declared = dict(options.inputs)
    constants = {name: number for name, value in declared.items() if (number := _number(value)) is not None}
    declared |= dict.fromkeys(examples, "condition")
    missing = [name for name in constants if name not in inputs]
    if missing:
        raise AigcEdgeError(f"{path.name} has no input {missing[0]!r}: it has {', '.join(inputs)}")
    variable = {name: tensor for name, tensor in inputs.items() if name not in constants}
    roles = roles_of(variable, role, {name: role for name, role in declared.items() if name not in constants}, path)
    conditions = [name for name, role in roles.items() if role == "condition"]
    if conditions and role == "decoder":
        raise AigcEdgeError(
            f"{path.name} takes {', '.join(conditions)} beside the sample, as only a denoiser does: set a constant, such as "
            f"--input {conditions[0]}=0.5, or compile it with --role denoiser"
        )
    unknown = [name for name in conditions if name not in examples]
    if unknown:
        raise AigcEdgeError(
            f"{path.name} takes {', '.join(unknown)}, which an ONNX file does not describe: give examples [k, ...] as "
            f"--input {unknown[0]}=FILE.npy, or a constant such as --input {unknown[0]}=1.0"
        )
    if "class" in roles.values() and not options.classes:
        raise AigcEdgeError(f"{path.name} takes a class: set the number of classes with --classes")
    if options.classes and "class" not in roles.values():
        raise AigcEdgeError(f"--classes was given, but {path.name} takes no class: leave it out, or name it with --input")
    sample = next(name for name, role in roles.items() if role == "sample")
    last = channels_last([inputs[sample].shape, result.shape], options.layout)
    names = frozenset(name for name, is_last in zip((sample, result.name), last, strict=True) if is_last)
    return Adaptation(roles, result.name, constants, names)


def _one_sample(path: Path, inputs: Mapping[str, GraphTensor], roles: Mapping[str, str]) -> bool:
    """Whether the file takes one sample only; raises AigcEdgeError for any other fixed batch."""
    shapes = [inputs[name].shape for name, role in roles.items() if role in ("sample", "condition")]
    batches = {shape[0] for shape in shapes if shape}
    for batch in batches - {None, 1}:
        raise AigcEdgeError(f"{path.name} takes batches of {batch} only: export it with a dynamic batch, or for one sample")
    return 1 in batches


def _number(value: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(value)
    return None


def _examples(file: str) -> npt.NDArray[np.float32]:
    """Examples [k, ...] of a condition, from a .npy file."""
    try:
        values = np.load(file, allow_pickle=False)
        array = np.asarray(values, np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise AigcEdgeError(f"{file} cannot be read as an array ({error}): write float32 examples with numpy.save") from error
    if array.ndim < 1 or not len(array) or not np.isfinite(array).all():
        raise AigcEdgeError(f"{file} has the shape {list(array.shape)}: give finite examples [k, ...], k of at least 1")
    return array
