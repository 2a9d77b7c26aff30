"""The C++ tests of the native foundation, each a program that checks itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_edge.bundle.write import write_members
from aigc_edge.diffusion import build
from tests import emulated_core


@pytest.mark.parametrize("name", ["test_philox", "test_parallel", "test_sha256"])
def test_program(native: Any, name: str) -> None:
    assert native.run(native.build_test(name)) == "done\n"


@pytest.mark.parametrize("name", ["test_loop_allocations", "test_image_sizes", "test_reentrancy", "test_recovery"])
def test_program_with_a_bundle(native: Any, name: str) -> None:
    assert native.run(native.build_test(name), native.root / "tests" / "data" / "digits-tiny.aigc") == "done\n"


def test_sampling_on_an_emulated_gpu(native: Any) -> None:
    program = emulated_core.build("test_device_sampling") / "test_device_sampling"
    assert native.run(program, native.root / "tests" / "data" / "digits-tiny.aigc") == "done\n"


def test_schedule_constants_on_an_emulated_gpu(native: Any, tmp_path: Path) -> None:
    shape, constants = [2, 3, 5], [("early", "constant", [4]), ("late", "constant", [2, 3])]
    tensors = [("sample", "sample", shape), ("timestep", "timestep", []), *constants]
    inputs = [{"name": name, "role": role, "dtype": "float32", "shape": ["N", *rest]} for name, role, rest in tensors]
    programs = {
        name: build({"prediction": "edm"}, solver, 5).to_json() | {"name": name}
        for name, solver in (("listed", "dpmpp_2m"), ("other", "euler"))
    }
    for row in programs["other"]["rows"]:
        row["timestep"] += 0.125
    timesteps = np.unique(np.float32([row["timestep"] for row in programs["listed"]["rows"]]))
    assert not set(timesteps) & set(np.float32([row["timestep"] for row in programs["other"]["rows"]]))
    # As `constant` in test_device_constants.cpp, in float32, plus one.
    rows = [
        np.float32(sign) * (timesteps[:, None] + np.float32(0.01) * np.arange(np.prod(rest), dtype=np.float32)) + np.float32(1)
        for sign, (_, _, rest) in zip((1, -1), constants, strict=True)
    ]
    table = {"file": "schedule.table", "timesteps": [float(value) for value in timesteps]}
    denoiser = {"inputs": inputs, "outputs": [inputs[0] | {"name": "output"}], "formats": {"fp32": {"file": "net.onnx"}}}
    schedule = {"inputs": inputs[1:2], "outputs": inputs[2:], "formats": {"fp32": {"file": "schedule.onnx"}}, "table": table}
    manifest = {"name": "toy", "family": "", "sample_shape": shape, "output_shape": shape, "output_range": [-1, 1],
                "default_format": "fp32", "components": {"denoiser": denoiser, "schedule": schedule}, "programs": programs,
                "default_program": "listed"}  # fmt: skip
    networks = dict.fromkeys(("net.onnx", "schedule.onnx"), b"the engine of the test reads no file")
    values = np.concatenate(rows, axis=1).astype("<f4").tobytes()
    write_members(tmp_path / "toy.aigc", manifest, networks | {"schedule.table": values})
    program = emulated_core.build("test_device_constants") / "test_device_constants"
    assert native.run(program, tmp_path / "toy.aigc") == "done\n"


def test_the_loop_allocates_nothing_with_conditions(native: Any, tmp_path: Path) -> None:
    shape = [2, 3, 5]
    tensors = [("sample", "sample", shape), ("timestep", "timestep", []), ("text", "condition", [2, 3])]
    inputs = [{"name": name, "role": role, "dtype": "float32", "shape": ["N", *rest]} for name, role, rest in tensors]
    spec = {"inputs": inputs, "outputs": [inputs[0] | {"name": "output"}], "formats": {"fp32": {"file": "net.onnx"}}}
    programs = {
        f"{solver}-20": build({"prediction": "edm"}, solver, 20, guidance_scale=2.0).to_json() | {"name": f"{solver}-20"}
        for solver in ("dpmpp_2m", "euler_ancestral", "heun")
    }
    manifest = {"name": "toy", "family": "", "sample_shape": shape, "output_shape": shape, "output_range": [-1, 1],
                "default_format": "fp32", "components": {"denoiser": spec}, "programs": programs,
                "default_program": "dpmpp_2m-20"}  # fmt: skip
    write_members(tmp_path / "toy.aigc", manifest, {"net.onnx": b"the engine of the test reads no file"})
    assert native.run(native.build_test("test_loop_allocations"), tmp_path / "toy.aigc", "conditions") == "done\n"
