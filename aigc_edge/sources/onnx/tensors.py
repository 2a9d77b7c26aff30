"""Reads the message of an ONNX file and the signature of its graph, without onnx, whose import takes a second."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge.bundle.spec import Role
from aigc_edge.errors import AigcEdgeError

if TYPE_CHECKING:
    import onnx

# Element types of tensors, and the type of attributes that are graphs, as onnx.proto numbers them.
FLOAT, FLOAT16, DOUBLE, BFLOAT16, GRAPH = 1, 10, 11, 16, 5
HALVES = (FLOAT16, BFLOAT16)
_FLOATS = (FLOAT, DOUBLE, *HALVES)
_CLASS = re.compile("class|label", re.IGNORECASE)
_TIME = re.compile(r"time|sigma|noise_level|(?<![a-z])(t|ts|step)(?![a-z])", re.IGNORECASE)
_AGAIN = "export it again"
_ALIAS = "ai.onnx"  # of the standard domain, ""


def messages() -> Any:
    """onnx's protobuf messages, under the name that onnx itself imports them by."""
    name = "onnx.onnx_ml_pb2"
    if name not in sys.modules:
        package = None if "onnx" in sys.modules else importlib.util.find_spec("onnx")
        file = Path(next(iter(package.submodule_search_locations or [""])), "onnx_ml_pb2.py") if package else Path()
        if not file.is_file():
            import onnx

            return onnx
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph: ONNX element type and shape, None for dynamic dimensions."""

    name: str
    kind: int
    shape: tuple[int | None, ...]

    def sizes(self, path: Path) -> tuple[int, ...]:
        """The shape without the batch; raises AigcEdgeError where a dimension is dynamic."""
        fixed = tuple(size for size in self.shape[1:] if size)
        if len(fixed) != len(self.shape[1:]):
            raise AigcEdgeError(
                f"{self.name!r} of {path.name} has a dynamic dimension that is neither the batch nor height or width of the "
                "sample: export it for one image size"
            )
        return fixed

    @property
    def sized(self) -> bool:
        """Whether only its height and width are dynamic, besides the batch."""
        return len(self.shape) == 4 and [not size for size in self.shape[1:]] == [False, True, True]


def graphs_of(graph: Any) -> Iterator[Any]:
    """The graph, or function, and the bodies of its control flow, at any depth."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.type == GRAPH else attribute.graphs:
                yield from graphs_of(inner)


def read_graph(path: Path) -> onnx.ModelProto:
    """The message in `path`, whose external weights are not read, without importing onnx."""
    try:
        model = messages().ModelProto.FromString(path.read_bytes())
    except Exception as error:  # protobuf's own errors have no useful base class
        raise AigcEdgeError(
            f"{path} is not a readable ONNX file ({type(error).__name__}), it may be truncated: {_AGAIN}"
        ) from error
    return _one_domain(model)


def _one_domain(model: Any) -> Any:
    """`model`, changed in place: the standard domain is called "" everywhere, never by its alias "ai.onnx"."""
    for holder in (model, *model.functions):
        versions: dict[str, int] = {}
        for entry in holder.opset_import:
            versions.setdefault("" if entry.domain == _ALIAS else entry.domain, entry.version)
        if any(entry.domain == _ALIAS for entry in holder.opset_import):
            del holder.opset_import[:]
            for domain, version in versions.items():
                holder.opset_import.add(domain=domain, version=version)
    functions = (graphs_of(function) for function in model.functions)  # which have nodes as graphs do
    nodes = itertools.chain.from_iterable(graph.node for graph in itertools.chain(graphs_of(model.graph), *functions))
    for item in itertools.chain(nodes, model.functions):
        if item.domain == _ALIAS:
            item.domain = ""
    return model


def tensors_of(model: onnx.ModelProto) -> tuple[dict[str, GraphTensor], dict[str, GraphTensor]]:
    """Inputs, without constants, and outputs by name."""

    def read(value: onnx.ValueInfoProto) -> GraphTensor:
        kind = value.type.tensor_type
        return GraphTensor(value.name, kind.elem_type, tuple(size.dim_value or None for size in kind.shape.dim))

    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = {value.name: read(value) for value in model.graph.input if value.name not in constants}
    return inputs, {value.name: read(value) for value in model.graph.output}


def result_of(outputs: Mapping[str, GraphTensor], chosen: str | None, path: Path) -> GraphTensor:
    """The output that is the network's result: the `chosen` one, or the only one; raises AigcEdgeError for another type."""
    if chosen is not None and chosen not in outputs:
        raise AigcEdgeError(f"{path.name} has no output {chosen!r}: it returns {', '.join(outputs)}")
    if chosen is None and len(outputs) > 1:
        raise AigcEdgeError(f"{path.name} returns {', '.join(outputs)}: choose one of them with --result NAME")
    result = outputs[chosen or next(iter(outputs))]
    if result.kind not in _FLOATS:
        kind = messages().TensorProto.DataType.Name(result.kind).lower()
        raise AigcEdgeError(f"{path.name} returns {result.name} as {kind}: a network of a bundle returns float32; {_AGAIN}")
    return result


def roles_of(inputs: Mapping[str, GraphTensor], role: str, declared: Mapping[str, str], path: Path) -> dict[str, Role]:
    """The role of each input: as declared, otherwise inferred from type and name. Raises AigcEdgeError where it is ambiguous."""
    unknown = [name for name in declared if name not in inputs]
    if unknown:
        raise AigcEdgeError(f"{path.name} has no input {unknown[0]!r}: it has {', '.join(inputs)}")
    roles: dict[str, Role] = {}
    scalars = [name for name, tensor in inputs.items() if len(tensor.shape) <= 1 and name not in declared]
    scalars = [name for name in scalars if not _CLASS.search(name)]
    named_times = [name for name in scalars if _TIME.search(name)]
    times = named_times if len(named_times) == 1 else scalars
    for name, tensor in inputs.items():
        if name in declared:
            roles[name] = declared[name]  # type: ignore[assignment]
        elif len(tensor.shape) >= 2 and tensor.kind in _FLOATS:
            roles[name] = "condition" if "sample" in roles.values() else "sample"
        elif _CLASS.search(name):
            roles[name] = "class"
        elif role == "denoiser" and times == [name] and "timestep" not in declared.values():
            roles[name] = "timestep"
        else:
            advice = f"--input {name}=ROLE, or a constant such as --input {name}=1.0"
            raise AigcEdgeError(f"the role of the input {name!r} of {path.name} cannot be inferred: give {advice}")
    for required in ["sample"] + (["timestep"] if role == "denoiser" else []):
        if list(roles.values()).count(required) != 1:  # type: ignore[arg-type]
            raise AigcEdgeError(
                f"{path.name} has {', '.join(inputs)}: a {role} takes exactly one {required}; select it with "
                f"--input NAME={required}"
            )
    return roles
