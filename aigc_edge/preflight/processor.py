"""Measure the CPU of this machine: rates that the generic CPU targets cannot state."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.hardware import import_onnxruntime, total_memory
from aigc_edge.targets import Target

SIDE = 1024  # of the square matrices: 2 G operations a product, and 4 MB that stay in a cache
READ = 2**26  # bytes that each thread reads; too large for any cache, like the weights of a network
SECONDS = 0.4  # measuring time per rate, long enough that other load does not decide it


def measured(target: Target, threads: int) -> Target:
    """`target`, a CPU, with the rates, memory and bandwidth that `threads` threads reach here; takes about a second.

    The rates are the best of repeated onnxruntime matrix multiplications, an upper bound for most networks.
    """
    rng = np.random.default_rng(0)
    floats = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    whole = rng.integers(0, 255, (SIDE, SIDE), dtype=np.uint8)
    work = 2 * SIDE**3 / 1e12
    tops = {
        "fp32": work / _product("MatMul", floats, floats, threads),
        "int8": work / _product("MatMulInteger", whole, (whole // 2).astype(np.int8), threads),
    }
    figures = f"measured here, {threads} thread{'s' if threads > 1 else ''}"
    memory = total_memory()
    return dataclasses.replace(
        target,
        tops=tops,
        figures=figures,
        bandwidth_gbs=READ * threads / _reads(threads) / 1e9,
        memory_gb=None if memory is None else memory / 1e9,
    )


def _product(operator: str, a: npt.NDArray[Any], b: npt.NDArray[Any], threads: int) -> float:
    """Seconds of a · b where b is a constant, as weights are."""
    import onnx
    from onnx import helper, numpy_helper

    onnxruntime = import_onnxruntime()

    kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.uint8): onnx.TensorProto.UINT8}
    result = onnx.TensorProto.FLOAT if operator == "MatMul" else onnx.TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", kinds[a.dtype], a.shape)],
        [helper.make_tensor_value_info("c", result, [a.shape[0], b.shape[1]])],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return _least(lambda: session.run(None, {"a": a}))


def _reads(threads: int) -> float:
    """Seconds in which each thread reads its own array."""
    arrays = [np.zeros(READ // 4, np.float32) + 1 for _ in range(threads)]

    def together() -> None:
        workers = [threading.Thread(target=array.max) for array in arrays]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return _least(together)


def _least(run: Callable[[], object]) -> float:
    least, until = math.inf, time.perf_counter() + SECONDS
    while time.perf_counter() < until or least == math.inf:
        started = time.perf_counter()
        run()
        least = min(least, time.perf_counter() - started)
    return least
