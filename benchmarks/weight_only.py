"""Memory and time of a diffusion transformer of 100 M parameters whose weights are stored in few bits, by format and engine.

    python benchmarks/weight_only.py [--rounds 5] [--output benchmarks/results/weight-only.json]

The network is a DiT (256 tokens of 768, 10 blocks with adaptive norms, attention and MLP) with random weights: memory and time
do not depend on them, quality does, so none is reported, and the formats have no quality budget. Each opening is a process of its
own with one thread: the first writes the optimised-model cache of the engine onnxruntime, the second reads it. `peak` is that
process's largest resident memory, `base` what it had with the engine imported before the network was opened, `opened` the
largest until it was open, and `overhead` = (opened - base) / file. Evaluations are of a batch of 2 (both halves of guidance);
their time is that of the processor, the least of all rounds, and the formats take turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from processes import child, peak

from aigc_edge.bench.machine import busy, fingerprint
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import FileEntry
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.engines.base import ENGINES, EngineSource
from aigc_edge.files import write_json

TOKENS, WIDTH, BLOCKS, HEADS, PATCH, BATCH_SIZE = 256, 768, 10, 12, 16, 2
FORMATS = {
    "fp32": "fp32",
    "int8w": "int8w:psnr=0",
    "int4": "int4:psnr=0,scaled=false",
    "int8": "int8:psnr=0,aim=0,rank=false,estimator=minmax",
    "w4a8": "w4a8:psnr=0,rank=false,estimator=minmax",
}
ENGINE_NAMES = ("onnxruntime", "openvino")


def spec() -> ComponentSpec:
    """sample [N, 256, 16] and timestep [N] to output [N, 256, 16]."""
    sample, output = (TensorSpec(name, "sample", "float32", (BATCH, TOKENS, PATCH)) for name in ("sample", "output"))
    return ComponentSpec("denoiser", (sample, TensorSpec("timestep", "timestep", "float32", (BATCH,))), (output,))


def write_network(path: Path) -> int:
    """Write the float32 network and return the number of its parameters."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants: dict[str, np.ndarray[Any, Any]] = {}
    nodes: list[Any] = []

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(name: str, value: Any) -> str:
        constants[name] = np.asarray(value)
        return name

    def linear(x: str, name: str, inputs: int, outputs: int, scale: float = 1.0) -> str:
        weight = rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(scale / np.sqrt(inputs))
        product = add("MatMul", [x, constant(f"{name}.weight", weight)], f"{name}.product")
        return add(
            "Add", [product, constant(f"{name}.bias", rng.uniform(-0.01, 0.01, outputs).astype(np.float32))], f"{name}.result"
        )

    def normed(x: str, name: str, shift: str, factor: str) -> str:
        scale = constant(f"{name}.ones", np.ones(WIDTH, np.float32))
        value = add("LayerNormalization", [x, scale], f"{name}.normed", axis=-1, epsilon=1e-6)
        return add("Add", [add("Mul", [value, factor], f"{name}.scaled"), shift], f"{name}.shifted")

    constant("one", np.float32(1))
    constant("axis1", np.array([1], np.int64))
    constant("to_heads", np.array([0, 0, HEADS, WIDTH // HEADS], np.int64))
    constant("to_width", np.array([0, 0, WIDTH], np.int64))
    constant("root", np.float32((WIDTH // HEADS) ** -0.5))
    time_row = add("Unsqueeze", ["timestep", "axis1"], "time")
    waves = add("Mul", [time_row, constant("rates", np.exp(np.linspace(0, -7, WIDTH)).astype(np.float32)[None])], "waves")
    hidden = linear(add("Sin", [waves], "embedding"), "time.first", WIDTH, WIDTH)
    condition = add("Mul", [hidden, add("Sigmoid", [hidden], "time.sigmoid")], "condition")
    x = linear("sample", "patches", PATCH, WIDTH)
    for index in range(BLOCKS):
        name = f"block{index}"
        six = add("Unsqueeze", [linear(condition, f"{name}.modulation", WIDTH, 6 * WIDTH, 0.1), "axis1"], f"{name}.six")
        names = [f"{name}.{part}" for part in ("shift1", "factor1", "gate1", "shift2", "factor2", "gate2")]
        nodes.append(helper.make_node("Split", [six], names, name=f"{name}.split", axis=2, num_outputs=6))
        factors = [add("Add", [names[part], "one"], f"{names[part]}.one") for part in (1, 4)]
        inner = normed(x, f"{name}.norm1", names[0], factors[0])
        parts = []
        for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            value = linear(inner, f"{name}.{part}", WIDTH, WIDTH)
            heads = add("Reshape", [value, "to_heads"], f"{name}.{part}.heads")
            parts.append(add("Transpose", [heads], f"{name}.{part}.turned", perm=perm))
        scores = add("Mul", [add("MatMul", parts[:2], f"{name}.scores"), "root"], f"{name}.scores.scaled")
        seen = add("MatMul", [add("Softmax", [scores], f"{name}.softmax", axis=-1), parts[2]], f"{name}.seen")
        joined = add("Reshape", [add("Transpose", [seen], f"{name}.back", perm=[0, 2, 1, 3]), "to_width"], f"{name}.joined")
        x = add("Add", [x, add("Mul", [linear(joined, f"{name}.out", WIDTH, WIDTH), names[2]], f"{name}.gated1")], f"{name}.sum1")
        inner = normed(x, f"{name}.norm2", names[3], factors[1])
        wide = add("Gelu", [linear(inner, f"{name}.wide", WIDTH, 4 * WIDTH)], f"{name}.gelu", approximate="tanh")
        narrow = linear(wide, f"{name}.narrow", 4 * WIDTH, WIDTH)
        x = add("Add", [x, add("Mul", [narrow, names[5]], f"{name}.gated2")], f"{name}.sum2")
    last = linear(x, "last", WIDTH, PATCH, 0.1)
    nodes[-1].output[0] = "output"
    assert last
    value = helper.make_tensor_value_info
    inputs = [value("sample", TensorProto.FLOAT, ["N", TOKENS, PATCH]), value("timestep", TensorProto.FLOAT, ["N"])]
    outputs = [value("output", TensorProto.FLOAT, ["N", TOKENS, PATCH])]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "dit", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    from aigc_edge.compress.graphs.graph import write

    write(model, path)
    return sum(array.size for array in constants.values() if array.dtype == np.float32)


def convert(source: Path, text: str, engine: str, out: Path) -> None:
    """Convert the network to a format, for an engine where the format has a graph for each."""
    from dataclasses import replace

    from aigc_edge.compress.calibration.trajectory import Calibration
    from aigc_edge.compress.format import parse
    from aigc_edge.config import names
    from aigc_edge.diffusion import build

    schedule = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
    format = parse(text)
    if text.startswith(("int8:", "w4a8:")) and "engine" in names(type(format)):
        format = replace(format, engine=engine)  # type: ignore[call-arg]
    calibration = Calibration.draw(spec(), build(schedule, "euler", 2), 2)
    format.convert(source, out, calibration, threads=2)


def measured(file: Path, format: str, engine: str, rounds: int) -> dict[str, Any]:
    """Open the network in this process, which does nothing else, and evaluate it."""
    listed = {}
    for part in (file, file.with_name(f"{file.name}.data")):
        if part.exists():
            with part.open("rb") as stream:
                listed[part.name] = FileEntry(bytes=part.stat().st_size, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
    loader = ENGINES[engine]
    loader.unavailable()
    __import__(engine)
    component = Component(spec(), {format: {"file": file.name}})
    rng = np.random.default_rng(1)
    inputs = {"sample": rng.standard_normal((BATCH_SIZE, TOKENS, PATCH), dtype=np.float32)}
    inputs["timestep"] = np.array([3, 300], np.float32)
    base, started = peak(), time.perf_counter()
    network = loader.load(EngineSource(Files(file.parent, listed, verified=True), component, format, verified=True), threads=1)
    opening, opened = time.perf_counter() - started, peak()
    outputs = {"output": np.empty((BATCH_SIZE, TOKENS, PATCH), np.float32)}
    call = network.bind(inputs, outputs)
    call()
    times = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    status = Path("/proc/self/status").read_text()
    anonymous = 1024 * int(status.split("RssAnon:")[1].split()[0])
    figures = {"base": base, "opened": opened, "peak": peak(), "anonymous": anonymous, "opening_seconds": round(opening, 2)}
    return figures | {"seconds": min(times), "file": sum(entry.bytes for entry in listed.values())}


def run_child(words: list[str]) -> Any:
    """What a child process does: "network", "convert" or "measure", with its arguments."""
    task, *rest = words
    if task == "network":
        return {"parameters": write_network(Path(rest[0]))}
    if task == "convert":
        convert(Path(rest[0]), rest[1], rest[2], Path(rest[3]))
        return {}
    return measured(Path(rest[0]), rest[1], rest[2], int(rest[3]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="openings of each network, of five evaluations each")
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--folder", type=Path, help="keep the networks here, and take those that are here")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_child(arguments.child)))
        return
    found: dict[str, Any] = {"machine": fingerprint(), "threads": 1, "batch": BATCH_SIZE, "tokens": TOKENS, "networks": {}}
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.folder or Path(place)
        os.environ["XDG_CACHE_HOME"] = str(Path(place) / "cache")
        source = folder / "denoiser.fp32.onnx"
        found |= child(__file__, "network", str(source))
        files = {}
        for name in arguments.formats:
            for engine in ENGINE_NAMES:
                own = name in ("int8", "w4a8") and engine != ENGINE_NAMES[0]
                file = source if name == "fp32" else folder / f"denoiser.{name}{'.' + engine if own else ''}.onnx"
                if not file.exists():
                    child(__file__, "convert", str(source), FORMATS[name], engine, str(file))
                    print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB", flush=True)
                files[name, engine] = file
        rounds: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in files}
        shares = []
        for _ in range(arguments.rounds):
            shares.append(busy())
            for (name, engine), file in files.items():
                rounds[name, engine].append(child(__file__, "measure", str(file), name, engine, "5"))
        for (name, engine), each in rounds.items():
            first, again = each[0], each[min(1, len(each) - 1) :]
            size = first["file"]
            figures = {
                "file": size,
                "base": first["base"],
                "first_peak": first["peak"],
                "first_seconds": first["opening_seconds"],
                "opened": min(one["opened"] for one in again),
                "peak": min(one["peak"] for one in again),
                "anonymous": min(one["anonymous"] for one in again),
                "opening_seconds": min(one["opening_seconds"] for one in again),
                "seconds": min(one["seconds"] for one in each),
            }
            figures["overhead"] = round((figures["opened"] - figures["base"]) / size, 2)
            found["networks"].setdefault(name, {})[engine] = figures
            print(
                f"{name:6} {engine:12} file {size / 1e6:6.1f} MB, peak {figures['peak'] / 1e6:6.0f} MB of which "
                f"{figures['base'] / 1e6:.0f} before ({figures['overhead']:.2f} x file; first opening "
                f"{first['peak'] / 1e6:.0f} MB), "
                f"{1e3 * figures['seconds']:.0f} ms of the processor",
                flush=True,
            )
        found["busy"] = shares
    if arguments.output is not None:
        write_json(arguments.output, found)


if __name__ == "__main__":
    sys.exit(main())
