"""What int8 brings on a CPU: ours for each engine against float32 in both engines and against OpenVINO with NNCF's INT8.

    pip install nncf openvino diffusers
    python benchmarks/int8.py [--only dit] [--threads 1 2] [--rounds 60] [--out benchmarks/results/int8-x86-vnni.json]

All are given the same network, calibration inputs and test inputs. Timings take turns; ratios are of one round, and their median
and quartiles are kept. With one thread the time is that of the processor, so that what else runs takes little part; with more it
is that of the clock. Errors are of fresh noise, in the engine that is timed: of single evaluations along the float32 trajectory
(relative L2) and of the final sample (PSNR).
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import int8_networks
import numpy as np
import torch
from numpy.typing import NDArray

from aigc_edge.bench.machine import busy, fingerprint
from aigc_edge.bench.measure import rotation
from aigc_edge.bench.statistics import compare, summary
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.compress.calibration.trajectory import Calibration, Record, mean_square, psnr
from aigc_edge.compress.format import parse
from aigc_edge.diffusion import Program, build
from aigc_edge.export.onnx import export_component
from aigc_edge.files import write_json

Inputs = dict[str, NDArray[Any]]
Call = Callable[[Inputs], NDArray[Any]]
SAMPLES, TESTS, STEPS = 16, 4, 10
SPIN = 0.08  # seconds; onnxruntime's threads look for work some 40 ms after each call
SECONDS = 20.0  # small networks are timed in more rounds than asked for, at least so long
OURS = {"onnxruntime": "int8:engine=onnxruntime", "openvino": "int8:engine=openvino"}
OPTIONS = "psnr=27,aim=0,rank=false"  # the quality that is asked for; no more measuring than that takes


def onnxruntime_call(path: Path, threads: int) -> Call:
    from aigc_edge.engines.onnxruntime import open_session

    session = open_session(str(path), threads, what=path.name, format="fp32" if path.stem == "fp32" else "int8")
    return lambda inputs: session.run(None, inputs)[0]


def openvino_call(path: Path, threads: int) -> Call:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    options |= {"INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}  # as the engine of this package
    core = openvino.Core()
    request = core.compile_model(core.read_model(str(path)), "CPU", options).create_infer_request()

    def call(inputs: Inputs) -> NDArray[Any]:
        request.infer(inputs, share_inputs=True, share_outputs=True)
        return request.get_output_tensor(0).data

    return call


def nncf_model(source: Path, out: Path, records: list[Record], transformer: bool) -> None:
    """The network quantised by NNCF, calibrated on the inputs of `records`, one sample each."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    items = list(samples(records))
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    model = nncf.quantize(
        openvino.Core().read_model(str(source)), nncf.Dataset(items), subset_size=min(len(items), 300), model_type=kind
    )
    openvino.save_model(model, str(out), compress_to_fp16=False)


def samples(records: list[Record]) -> Iterator[Inputs]:
    """The inputs of each evaluation, one sample at a time."""
    for record in records:
        for index in range(len(next(iter(record.inputs.values())))):
            yield {name: value[index : index + 1] for name, value in record.inputs.items()}


def calibration(spec: ComponentSpec, case: int8_networks.Case, n: int, seed: int) -> Calibration:
    if case.diffusion:
        program = build(int8_networks.SCHEDULE, "dpmpp_2m", STEPS)
    else:
        program = Program("one", slots=1, init_scale=1.0, rows=())
    return Calibration.draw(spec, program, n, num_classes=case.classes, seed=seed)


def prepare(name: str, folder: Path) -> tuple[ComponentSpec, dict[str, tuple[str, Path]], dict[str, Any]]:
    """Files of all versions of a network by name, with the engine that runs each, and what making them took."""
    case, component = int8_networks.CASES[name], int8_networks.build(name)
    facts: dict[str, Any] = {"what": case.make.__doc__, "parameters": int8_networks.parameters(component)}
    source = folder / "fp32.onnx"
    started = time.perf_counter()
    export_component(component, source)
    facts["export_seconds"] = round(time.perf_counter() - started, 1)
    spec = component.spec
    del component
    seen = calibration(spec, case, SAMPLES if case.diffusion else 8 * SAMPLES, 1)
    files = {"onnxruntime fp32": ("onnxruntime", source), "openvino fp32": ("openvino", source)}
    for engine, text in OURS.items():
        out = folder / f"{engine}.onnx"
        started = time.perf_counter()
        report = parse(f"{text},{OPTIONS}").convert(source, out, seen).to_json()
        facts[f"{engine} int8"] = {"seconds": round(time.perf_counter() - started, 1)} | {
            key: report[key] for key in ("psnr", "estimator", "estimators", "macs_share", "bytes", "source_bytes", "trials")
        }
        files[f"{engine} int8"] = (engine, out)
    records: list[Record] = []
    half, _ = seen.split(4 if case.diffusion else 4 * SAMPLES)
    half.run(lambda inputs: [onnx_once(source)(inputs)], records)
    for kind in (False, True) if name == "dit" else (False,):
        key = "nncf transformer" if kind else "nncf"
        nncf_model(source, folder / f"{key}.xml", records, kind)
        files[key] = ("openvino", folder / f"{key}.xml")
    return spec, files, facts


_session: dict[Path, Call] = {}


def onnx_once(path: Path) -> Call:
    if path not in _session:
        _session.clear()
        _session[path] = onnxruntime_call(path, 1)
    return _session[path]


def errors(calls: dict[str, Call], test: Calibration) -> dict[str, dict[str, float]]:
    """Relative L2 error of single evaluations and PSNR of final samples, both against float32 in onnxruntime."""
    reference, records = calls["onnxruntime fp32"], []
    wanted = test.run(lambda inputs: [reference(inputs)], records)
    answers = [reference(record.inputs).copy() for record in records]
    found: dict[str, dict[str, float]] = {}
    for name, call in calls.items():
        wrong = sum(float(np.square(call(r.inputs) - answer).sum()) for r, answer in zip(records, answers, strict=True))
        size = sum(float(np.square(answer).sum()) for answer in answers)
        final = psnr(mean_square(test.run(lambda inputs, call=call: [call(inputs).copy()]), wanted))
        found[name] = {"relative_l2": float(np.sqrt(wrong / size)), "psnr": min(final, 200.0)}
    return found


def timed(calls: dict[str, Call], inputs: Inputs, rounds: int, threads: int) -> dict[str, list[float]]:
    """Seconds of each call in each round."""
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    repeat = {}
    for name, call in calls.items():
        call(inputs)
        started = time.perf_counter()
        call(inputs)
        repeat[name] = max(1, min(20, int(0.01 / (time.perf_counter() - started))))
    end = time.perf_counter() + SECONDS
    for turn in range(20 * rounds):
        if turn >= rounds and time.perf_counter() > end:
            break
        for name in rotation(list(calls), turn):
            if threads > 1:  # the threads of the engine before must not spin on a core
                time.sleep(SPIN)
                calls[name](inputs)
            started = clock()
            for _ in range(repeat[name]):
                calls[name](inputs)
            seconds[name].append((clock() - started) / repeat[name])
    return seconds


def judge(seconds: dict[str, list[float]], quality: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Our faster int8 against the faster float32, against the faster NNCF and the error of the more exact NNCF."""

    def fastest(names: list[str]) -> str:
        return min(names, key=lambda name: float(np.median(seconds[name])))

    ours = fastest([f"{engine} int8" for engine in OURS])
    plain, peers = fastest([n for n in seconds if n.endswith("fp32")]), [n for n in seconds if n.startswith("nncf")]
    peer = fastest(peers)
    least = min(quality[n]["relative_l2"] for n in peers)
    return {
        "ours": ours,
        "fp32": plain,
        "peer": peer,
        "against_fp32": compare(seconds[ours], seconds[plain]),
        "against_nncf": compare(seconds[ours], seconds[peer]),
        "error_of_nncf": quality[ours]["relative_l2"] / least,
        "psnr": quality[ours]["psnr"],
    }


def measure(name: str, threads: list[int], rounds: int) -> dict[str, Any]:
    case = int8_networks.CASES[name]
    with tempfile.TemporaryDirectory() as place:
        spec, files, facts = prepare(name, Path(place))
        test = calibration(spec, case, TESTS if case.diffusion else 16 * TESTS, 999)
        found: dict[str, Any] = facts | {"goal": case.goal, "threads": {}}
        for count in threads:
            makers = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}
            calls = {key: makers[engine](path, count) for key, (engine, path) in files.items()}
            if "errors" not in found:
                found["errors"] = errors(calls, test)
            records: list[Record] = []
            test.split(1)[0].run(lambda inputs: [onnx_once(files["openvino fp32"][1])(inputs)], records)
            seconds = timed(calls, records[len(records) // 2].inputs, rounds, count)
            verdict = judge(seconds, found["errors"])
            found["threads"][str(count)] = {"seconds": {k: summary(v) for k, v in seconds.items()}} | verdict
            print(line(name, count, verdict), flush=True)
    return found


def line(name: str, threads: int, found: dict[str, Any]) -> str:
    def ratio(key: str) -> str:
        low, high = found[key]["quartiles"]
        return f"{found[key]['ratio']:.2f} ({low:.2f} … {high:.2f})"

    return (
        f"{name:10} {threads} threads: {found['ours']} is {ratio('against_fp32')} × {found['fp32']}, {ratio('against_nncf')} × "
        f"{found['peer']}, {found['error_of_nncf']:.2f} × its error, {found['psnr']:.1f} dB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(int8_networks.CASES), choices=list(int8_networks.CASES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, help="a JSON file; networks that are in it already are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"version": 1, "networks": {}}
    if arguments.out and arguments.out.exists():
        result = json.loads(arguments.out.read_text(encoding="utf-8"))
    for name in arguments.only:
        result["networks"][name] = measure(name, arguments.threads, arguments.rounds)
        result["machine"] = fingerprint() | {"busy": busy()}
        if arguments.out:
            write_json(arguments.out, result)


if __name__ == "__main__":
    main()
