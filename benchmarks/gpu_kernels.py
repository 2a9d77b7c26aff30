"""Kernels alone, for benchmarks/gpu.py: solver steps against diffusers and plain torch, bandwidth, random numbers."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from gpu_timing import Bench, Call

from aigc_edge import ops
from aigc_edge.diffusion import Program, build, from_diffusers
from aigc_edge.diffusion.executor.arrays import TorchArrays
from aigc_edge.diffusion.executor.execution import Execution

STEPS = 20
EDM = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0}
SCHEDULERS = {"unipc": "UniPCMultistepScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler"}


def plain_sweep(program: Program, x: torch.Tensor, output: torch.Tensor) -> Call:
    """All steps of a program as one writes them in torch: the same numbers, an expression a slot, nothing computed twice."""

    given = torch.empty_like(x)  # the network's input

    def sweep() -> torch.Tensor:
        slots = [x * program.init_scale, *(torch.zeros_like(x) for _ in range(program.slots - 1))]
        for row in program.rows:
            given.copy_(slots[0] * row.c_in)
            terms = [*slots, slots[0] * row.c_skip + output * row.c_out]
            for place, weights in enumerate(row.after):
                used = [(w, t) for w, t in zip(weights, terms, strict=True) if w != 0.0]
                value = used[0][1] * used[0][0] if used else torch.zeros_like(x)
                for weight, term in used[1:]:
                    value.add_(term, alpha=weight)
                slots[place] = value
        return slots[0]

    return sweep


def steps(bench: Bench) -> list[dict[str, Any]]:
    """All that is computed between two evaluations, over a whole run of 20 steps, divided by 20."""
    found = []
    has_diffusers = importlib.util.find_spec("diffusers") is not None
    for solver, name in SCHEDULERS.items():
        for shape in ((1, 3, 32, 32),) if bench.quick else ((1, 3, 32, 32), (1, 3, 256, 256)):
            x, output = bench.normal(*shape), bench.normal(*shape)
            calls: dict[str, Call] = {}
            if has_diffusers:
                import diffusers

                scheduler = getattr(diffusers, name)(beta_schedule="scaled_linear", prediction_type="epsilon")
                program = from_diffusers(scheduler, STEPS)
                scheduler.set_timesteps(STEPS, device=bench.device)
                fresh = dict(scheduler.__dict__)  # as it is before the first step, for every sweep

                def sweep(scheduler: Any = scheduler, x: Any = x, output: Any = output, fresh: Any = fresh) -> None:
                    scheduler.__dict__.update({k: list(v) if isinstance(v, list) else v for k, v in fresh.items()})
                    sample = x
                    for timestep in scheduler.timesteps:
                        scheduler.scale_model_input(sample, timestep)
                        sample = scheduler.step(output, timestep, sample, return_dict=False)[0]

                calls["diffusers"] = sweep
            else:
                program = build(EDM, solver, STEPS)
            execution = Execution(program, TorchArrays(x), shape)
            execution.start(x)
            calls |= {"aigc-edge": lambda e=execution, o=output: e.run(lambda sample, timestep: o)}  # type: ignore[misc]
            calls["plain torch"] = plain_sweep(program, x, output)
            calls["aigc-edge"]()
            error = float((execution.sample - calls["plain torch"]()).norm() / execution.sample.norm())  # type: ignore[operator]
            if not error < 1e-4:
                raise AssertionError(f"plain torch computes something else for {solver}: relative L2 {error:.2g}")
            replay = bench.replayed(calls["aigc-edge"], 1)
            if replay:
                calls["aigc-edge, one graph"] = replay
            timed = bench.timed(calls, bench.rounds(60))
            entry = {"solver": solver, "shape": list(shape), "slots": program.slots, "steps": STEPS}
            entry["relative_l2_to_plain_torch"] = error
            entry["microseconds_a_step"] = {n: 1e6 * t["wall"]["median"] / STEPS for n, t in timed.items()}
            entry["launches_a_step"] = {n: bench.launches(call) / STEPS for n, call in calls.items() if "graph" not in n}
            entry["ratios"] = bench.ratios(timed, "aigc-edge", "wall")
            if replay:
                entry["ratios_one_graph"] = bench.ratios(timed, "aigc-edge, one graph", "wall")
            found.append(entry)
    return found


def bandwidth(bench: Bench) -> list[dict[str, Any]]:
    """Bytes/s of one solver step (two slots, no noise) as a share of a copy of as many bytes, in turns."""
    found = []
    program = build(EDM, "dpmpp_2m", STEPS)
    for megabytes in (1,) if bench.quick else (256, 1024):
        for dtype in (torch.float32, torch.float16):
            size = dtype.itemsize
            elements = megabytes * 2**20 // (16 + 2 * size) // 1024 * 1024
            shape = (1, 1, elements // 1024, 1024)
            execution = Execution(program, TorchArrays(bench.normal(1)), shape, dtype=str(dtype).removeprefix("torch."))
            execution.start(bench.normal(*shape))
            output = bench.normal(1, 1, elements, dtype=dtype)
            total = elements * (16 + 2 * size)  # slots read and written, output read, input written
            source = torch.empty(total // 2, dtype=torch.uint8, device=bench.device).random_()
            target = torch.empty_like(source)
            calls: dict[str, Call] = {"aigc-edge": lambda rows=execution._rows, output=output: rows.run(5, output)}  # type: ignore[misc]
            calls["copy"] = lambda s=source, t=target: t.copy_(s)  # type: ignore[misc]
            timed = bench.timed(calls, bench.rounds(40), repeats=1 if bench.quick else 5)
            median = {name: own["device"]["median"] for name, own in timed.items()}
            found.append(
                {"bytes": total, "network": str(dtype).removeprefix("torch."), "bytes_per_second": total / median["aigc-edge"],
                 "share_of_copy": bench.ratios(timed, "aigc-edge", "device")["copy"]}
            )  # fmt: skip
    return found


def normals(bench: Bench) -> list[dict[str, Any]]:
    """Philox normals against torch's `normal_`; each writes 4 bytes a number, which is the floor."""
    found = []
    for count, elements in ((1, 3072), (1, 196_608)) if bench.quick else ((1, 3072), (1, 196_608), (64, 2**20)):
        seeds = torch.from_numpy(np.arange(count, dtype=np.uint64)).to(bench.device)
        ours, theirs = torch.empty(count, elements, device=bench.device), torch.empty(count, elements, device=bench.device)
        calls: dict[str, Call] = {"aigc-edge": lambda s=seeds, o=ours: ops.randn(s, 1, o)}  # type: ignore[misc]
        calls["torch normal_"] = lambda t=theirs: t.normal_()  # type: ignore[misc]
        timed = bench.timed(calls, bench.rounds(40), repeats=1 if bench.quick else 10)
        rates = {name: count * elements / own["device"]["median"] for name, own in timed.items()}
        entry: dict[str, Any] = {"numbers": count * elements, "numbers_per_second": rates}
        found.append(entry | {"ratios": bench.ratios(timed, "aigc-edge", "device")})
    return found
