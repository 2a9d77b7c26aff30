"""OpenVINO on x86 and Arm CPUs, often the fastest engine for int8 networks, bound to the caller's buffers."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable, Collection
from typing import Any

from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines.base import (
    ENGINES,
    EXACT,
    INTEGER_FORMATS,
    Buffers,
    Engine,
    EngineSource,
    check_buffers,
    check_signature,
    made_as,
)
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable, first_line
from aigc_edge.hardware import half_precision, has_vnni

_HINTS = {EXACT: "f32", "bf16": "bf16", "fp16": "f16"}  # exact: not bfloat16 where the CPU supports it, as OpenVINO's default is
_WHERE = ("Exception from", "Check ")  # lines of its messages that name a place in its source


def import_openvino() -> Any:
    """openvino, without its telemetry, which leaves an id in the home directory: where that package is missing, there is none."""
    hidden = not {"openvino", "openvino_telemetry"} & set(sys.modules)
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino


@ENGINES.register("openvino")
class OpenVinoEngine(Engine):
    """An ONNX file compiled by OpenVINO's CPU plugin for low latency, in float32 where the network uses float32, unless it is
    loaded with a reduced precision."""

    name = "openvino"
    features = dict.fromkeys(("fp32", "fp16", "bf16", "int8", "w4a8", "int8w", "int4", "fp8", "fp8w", "nvfp4", "w4a4"), 0)
    auto = True

    def __init__(self, spec: ComponentSpec, compiled: Any) -> None:
        self.spec = spec
        self._compiled = compiled

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("openvino") is None:
            return "the engine 'openvino' is not installed here: pip install 'aigc-edge[openvino]', or choose another engine"
        return None

    @classmethod
    def deviates(cls, format: str) -> str | None:
        if format in INTEGER_FORMATS and platform.machine().lower() in ("x86_64", "amd64") and not has_vnni():
            return "on x86 without VNNI OpenVINO's int8 kernels saturate 16-bit sums"  # NNCF's documentation
        return None

    @classmethod
    def precisions(cls) -> Collection[str]:
        return [name for name in _HINTS if name != EXACT and half_precision(name)]

    @classmethod
    def load(cls, source: EngineSource, *, threads: int, precision: str = EXACT) -> Engine:
        reason = cls.unavailable()
        if reason is not None:
            raise EngineUnavailable(reason)
        openvino = import_openvino()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # nor int8 activations where only the weights are quantised
            "ENABLE_CPU_PINNING": False,  # thread affinity is left to the caller
        }
        core = openvino.Core()
        with source.loadable(cls.name) as (relative, model):
            try:
                network = core.read_model(model)
                if made_as(relative, source.format) == "w4a8":
                    _expand(openvino, network)
                if source.component.dims:  # static except for the batch, at the image size that the bundle was opened at
                    network.reshape({t.name: openvino.PartialShape([-1, *map(int, t.shape[1:])]) for t in source.spec.inputs})
                compiled = core.compile_model(network, "CPU", options)
            except (RuntimeError, ValueError) as error:
                raise BundleError(
                    f"OpenVINO {openvino.__version__} cannot load {relative} of {source.bundle}: {first_line(error, _WHERE)}"
                ) from error
        actual = {port.get_any_name(): str(port.get_element_type().to_dtype()) for port in (*compiled.inputs, *compiled.outputs)}
        check_signature(source, relative, actual, {t.name: t.dtype for t in (*source.spec.inputs, *source.spec.outputs)})
        return cls(source.spec, compiled)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        openvino = import_openvino()
        check_buffers(self.spec, inputs, outputs)
        request = self._compiled.create_infer_request()
        for name, array in {**inputs, **outputs}.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        infer, name = request.infer, self.spec.name
        alive = (*inputs.values(), *outputs.values())  # OpenVINO holds bare pointers

        def call(_alive: Any = alive) -> None:
            try:
                infer(share_inputs=True, share_outputs=True)
            except RuntimeError as error:
                raise AigcEdgeError(f"OpenVINO failed while evaluating {name!r}: {first_line(error, _WHERE)}") from error

        return call


def _expand(openvino: Any, network: Any) -> None:
    """Compute int8 weights that the file stores in 4 bits (format `w4a8`), one at a time; compiling would not, and use floats."""
    from openvino.passes import ConstantFolding, Manager

    constant: set[str] = set()
    for node in network.get_ordered_ops():
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        if constant.issuperset(sources) if sources else node.get_type_name() == "Constant":
            constant.add(node.get_friendly_name())
            if node.get_type_name() == "Convert" and node.get_element_type() == openvino.Type.i8:
                passes = Manager()
                passes.register_pass(ConstantFolding())
                passes.run_passes(openvino.Model([node.output(0)], [], "weight"))
