"""The default engine for embedding: onnxruntime on any CPU, bound by pointer to the caller's buffers (zero-copy)."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.engines import prepacked
from aigc_edge.engines.base import (
    ENGINES,
    EXACT,
    Buffers,
    Engine,
    EngineSource,
    check_buffers,
    check_signature,
    made_as,
    shape_of,
)
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable, first_line
from aigc_edge.hardware import half_precision, has_vnni, import_onnxruntime, is_arm

_TYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "uint8": "tensor(uint8)",
    "int8": "tensor(int8)",
    "bool": "tensor(bool)",
}


@ENGINES.register("onnxruntime")
class OnnxRuntimeEngine(Engine):
    """An ONNX file run by onnxruntime's CPU provider, with a fixed number of threads."""

    name = "onnxruntime"
    batch_invariant = True
    features = dict.fromkeys(("fp32", "fp16", "int8", "int8w", "int4", "fp8", "fp8w"), 0)  # no bf16 and no fp4 on a CPU
    auto = True

    def __init__(self, spec: ComponentSpec, session: Any) -> None:
        self.spec = spec
        self._session = session

    @classmethod
    def unavailable(cls) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "the engine 'onnxruntime' is not installed here: pip install onnxruntime, or choose another engine"
        return None

    @classmethod
    def precisions(cls) -> Collection[str]:
        return ("bf16",) if is_arm() and half_precision("bf16") else ()  # for matrix products; x86 has none

    @classmethod
    def load(cls, source: EngineSource, *, threads: int, precision: str = EXACT) -> Engine:
        reason = cls.unavailable()
        if reason is not None:
            raise EngineUnavailable(reason)
        relative, dims = source.model_file(), source.component.dims
        format = made_as(relative, source.format)
        options: dict[str, Any] = {"what": f"{relative} of {source.bundle}", "format": format, "dims": dims}
        options |= {} if precision == EXACT else {"precision": precision}
        key = {"int8": format == "int8", "dims": dims} | ({} if precision == EXACT else {"precision": precision})
        entry = prepacked.cache_entry(source, key)
        session = None if entry is None else _open_prepacked(source, entry, threads, options)
        if session is None:
            with source.loadable() as (_, model):
                session = open_session(model, threads, **options)
        check_signature(source, relative, *_signature(session, source))
        return cls(source.spec, session)

    def bind(self, inputs: Buffers, outputs: Buffers) -> Callable[[], None]:
        batch = check_buffers(self.spec, inputs, outputs)
        binding = self._session.io_binding()
        for tensor in self.spec.inputs:
            array = inputs[tensor.name]
            binding.bind_input(tensor.name, "cpu", 0, array.dtype.type, shape_of(tensor, batch), array.ctypes.data)
        for tensor in self.spec.outputs:
            array = outputs[tensor.name]
            binding.bind_output(tensor.name, "cpu", 0, array.dtype.type, shape_of(tensor, batch), array.ctypes.data)
        alive = (*inputs.values(), *outputs.values())  # onnxruntime holds bare pointers
        run, name = self._session.run_with_iobinding, self.spec.name

        def call(_alive: tuple[np.ndarray[Any, Any], ...] = alive) -> None:
            try:
                run(binding)
            except Exception as error:  # onnxruntime's own classes derive from Exception only
                raise AigcEdgeError(f"onnxruntime failed while evaluating {name!r}: {first_line(error)}") from error

        return call


def _open_prepacked(source: EngineSource, entry: Path, threads: int, options: dict[str, Any]) -> Any:
    """A session of the model with prepacked weights, which is written to the cache first if necessary; None on failure."""
    try:
        if not prepacked.is_complete(entry):
            with source.loadable() as (_, model), prepacked.write_entry(entry) as file:
                open_session(model, threads, **options, write=file)
        return open_session(str(entry / prepacked.MODEL), threads, **options, optimised=True)
    except AigcEdgeError:  # a full disk, or an onnxruntime that cannot save its optimised model: load from the bundle
        shutil.rmtree(entry, ignore_errors=True)
        return None


def open_session(
    model: str | bytes,
    threads: int,
    *,
    what: str,
    format: str = "fp32",
    dims: Mapping[str, int] | None = None,
    write: Path | None = None,
    optimised: bool = False,
    precision: str = EXACT,
) -> Any:
    """An onnxruntime session on the CPU; `what` names the model in the BundleError that a corrupt one raises.

    `format` is that of the file: only int8 files are written for onnxruntime's integer kernels. `dims` maps symbolic
    dimensions to their values at the image size that the bundle was opened at; the session is then as fast as one with static
    shapes. The optimised model is saved to `write`, with its weights beside it; `optimised` marks such a saved model. With the
    precision "bf16" Arm CPUs that have it multiply matrices in bfloat16.
    """
    ort = import_onnxruntime()  # here: it takes 60 ms, which `import aigc_edge` must not cost
    if threads < 1:
        raise AigcEdgeError(f"threads is {threads}: it must be at least 1")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_DISABLE_ALL if optimised else levels.ORT_ENABLE_ALL
    if write is not None:
        options.optimized_model_filepath = str(write)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", prepacked.WEIGHTS)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    options.log_severity_level = 4  # failures are raised; a library does not write to stderr
    if format != "int8":  # otherwise weights are dequantised at every call, or activations are rounded unasked
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, length in (dims or {}).items():
        options.add_free_dimension_override_by_name(name, length)
    if not has_vnni():  # the fast int8 kernels would saturate silently, and quality was measured without that
        options.add_session_config_entry("session.x64quantprecision", "1")
    if precision == "bf16":
        options.add_session_config_entry("mlas.enable_gemm_fastmath_arm64_bfloat16", "1")
    if threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        if "NOT_IMPLEMENTED" in str(error):
            raise BundleError(
                f"onnxruntime {ort.__version__} has no CPU kernels for the format {format} of {what}: choose the engine "
                "openvino or another format"
            ) from error
        raise BundleError(f"onnxruntime {ort.__version__} cannot load {what}: {first_line(error)}") from error


def _signature(session: Any, source: EngineSource) -> tuple[dict[str, str], dict[str, str]]:
    """The types and ranks of the loaded network's tensors, and of those that the manifest declares."""
    own, declared = (*session.get_inputs(), *session.get_outputs()), (*source.spec.inputs, *source.spec.outputs)
    return (
        {t.name: f"{t.type} of rank {len(t.shape)}" for t in own},
        {t.name: f"{_TYPES.get(t.dtype, t.dtype)} of rank {len(t.shape)}" for t in declared},
    )
