"""Runs a bundle and a peer around the same network from the same noise, and compares the input of every evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import aigc_edge
from aigc_edge.bundle.spec import Role
from aigc_edge.diffusion import Program, noise
from aigc_edge.engines.base import EXACT
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_regular
from aigc_edge.metrics.paired import centred_l2
from aigc_edge.runtime.pipeline import Pipeline
from aigc_edge.verify.base import PEERS, NetworkInput, SamplerInputs, SamplerTrace, Verification

SOURCE = "torch-cpu"  # the noise of both sides, which a scheduler draws with generators of the same seeds


def verify(
    bundle: str | os.PathLike[str],
    against: str = "diffusers",
    *,
    program: str | None = None,
    solver: str | None = None,
    steps: int | None = None,
    scheduler: str | None = None,
    samples: int = 2,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    guidance_scale: float | None = None,
    engine: str = "onnxruntime",
    format: str | None = None,
    threads: int | None = None,
    tolerance: float = 1e-3,
) -> Verification:
    """Run a program of `bundle` by the runtime and by a peer around the same network, and compare every evaluation's input.

    `against` is "diffusers" (its scheduler, around the same engine) or "reference" (the NumPy executor in float64). `scheduler`
    is the path of the scheduler_config.json for diffusers; by default it is the scheduler that the program was imported from or
    corresponds to. Both sides use latents and noise of torch's CPU generators of the seeds `seed`, `seed` + 1 … Raises
    AigcEdgeError, with the reason, for programs that cannot be compared.
    """
    if against not in PEERS:
        raise AigcEdgeError(f"{against!r} cannot be compared with: choose one of {', '.join(PEERS)}")
    if samples < 1 or not tolerance > 0:
        raise AigcEdgeError(f"{samples} samples and a tolerance of {tolerance} were given: at least 1 and more than 0 are needed")
    if scheduler is not None:
        check_regular(Path(scheduler))
    with aigc_edge.open(bundle, engine=engine, format=format, threads=threads, precision=EXACT) as pipeline:
        plan = pipeline.program(program, solver=solver, steps=steps)
        if not plan.rows:
            raise AigcEdgeError(f"{bundle} generates in one evaluation: it has no steps to compare")
        if _input(pipeline, "condition") or _input(pipeline, "guidance"):
            raise AigcEdgeError(
                f"{bundle} has conditions or takes the guidance scale as an input: verify does not compare such bundles yet"
            )
        chosen = plan if guidance_scale is None else plan.with_guidance(guidance_scale)
        count = pipeline.manifest.num_classes
        if not count:
            chosen = chosen.with_guidance(1.0)
        labels = np.arange(samples) % count if classes is None and count else classes
        inputs = _inputs(pipeline, chosen, samples, seed, labels, count or None, scheduler)
        ours = _run(pipeline, inputs, program, solver, steps)
        theirs = PEERS[against](inputs)
    if len(ours.evaluations) != len(theirs.evaluations):
        raise AigcEdgeError(
            f"{chosen.name} evaluates the network {len(ours.evaluations)} times, {against} {len(theirs.evaluations)} times: they "
            "are not the same sampler; give the scheduler_config.json that the program stands for"
        )
    rows = [
        {
            "row": float(index),
            "sigma": row.sigma,
            "timestep": mine.timestep,
            "other_timestep": other.timestep,
            "relative_l2": centred_l2(mine.sample, other.sample),
        }
        for index, (row, mine, other) in enumerate(zip(chosen.rows, ours.evaluations, theirs.evaluations, strict=True))
    ]
    return Verification(chosen.name, against, tolerance, rows, centred_l2(ours.result, theirs.result))


def _inputs(
    pipeline: Pipeline,
    program: Program,
    samples: int,
    seed: int,
    labels: Sequence[int] | NDArray[np.int64] | None,
    null_class: int | None,
    scheduler: str | None,
) -> SamplerInputs:
    shape = tuple(int(size) for size in pipeline.manifest.sample_shape)
    drawn = noise.draw(SOURCE, [seed + i for i in range(samples)], shape, 1 + len(program.draws))
    classes = None if labels is None else np.asarray(labels, np.int64)
    if classes is not None and classes.shape != (samples,):
        raise AigcEdgeError(f"{classes.size} classes were given for {samples} samples: give one each")
    condition = _input(pipeline, "class")

    def network(sample: NDArray[Any], timestep: float, labels: NDArray[np.int64] | None) -> NDArray[np.float32]:
        keywords = {} if labels is None or condition is None else {condition: labels}
        return np.asarray(pipeline.network(sample, timestep, **keywords), np.float32)

    return SamplerInputs(program, drawn[0], drawn[1:], classes, null_class, seed, network, scheduler)


def _input(pipeline: Pipeline, role: Role) -> str | None:
    """The name of the denoiser's input of a role."""
    denoiser = pipeline.manifest.denoiser
    return next((tensor.name for tensor in denoiser.onnx.of_role(role)), None) if denoiser else None


def _run(pipeline: Pipeline, inputs: SamplerInputs, program: str | None, solver: str | None, steps: int | None) -> SamplerTrace:
    """The run of the runtime itself; of a guided batch the first half is recorded, the second is the same."""
    evaluations: list[NetworkInput] = []
    name = _input(pipeline, "sample")
    count = len(inputs.latents)

    def watch(component: str, row: int, tensors: Any, outputs: Any) -> None:
        if component == "denoiser":
            evaluations.append(
                NetworkInput(tensors[name][:count].astype(np.float64), float(np.float32(inputs.program.rows[row].timestep)))
            )

    result = pipeline.sample(
        count,
        classes=inputs.classes,
        latents=inputs.latents,
        noise=inputs.draws,
        program=program,
        solver=solver,
        steps=steps,
        guidance_scale=inputs.program.guidance_scale,
        output="float32",
        watch=watch,
    )
    return SamplerTrace(evaluations, result.astype(np.float64))
