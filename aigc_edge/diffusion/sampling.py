"""Runs a program around any network: once, or prepared for many calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from aigc_edge.diffusion.executor import execution
from aigc_edge.diffusion.executor.loop import Loop
from aigc_edge.diffusion.program import Program


def sample(
    program: Program,
    network: Any,
    latents: Any,
    *,
    seeds: Any = None,
    noise: Any = "philox",
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    conditions: Mapping[str, Any] | None = None,
    negative: Mapping[str, Any] | None = None,
    mask: Any = None,
    known: Any = None,
    known_noise: Any = None,
    dtype: str | None = None,
    channels_last: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Run `program` around `network` on unit normal `latents` [N, C, H, W] (or any [N, ...]); returns float32 [N, ...].

    Latents are a NumPy array or a torch tensor on any device, and so are all other arrays. `network(sample [M, ...], timestep
    float32 [M], **conditions)` → [M, ...] is a function, a torch module (such as diffusers' UNets) or a loaded engine. M = 2 N in
    a guided row: the first N samples get `conditions`, the others `negative`, both arrays [N or 1, ...] by the network's names
    for them. Guidance scale and rescale are the program's own unless given. The noise that rows add is drawn for `seeds` [N]
    (0, 1, … by default) from the generator `noise`: "philox", "numpy", "torch-cpu" or "torch-cuda"; or `noise` is an array
    [draws, N, ...]. Where `mask` [N, ...] is 0 the result is `known` [N, ...], brought to each row's noise level with
    `known_noise` [N, ...] (the latents by default).

    The state is float32. `dtype` is the network's: "float32", "float16" or "bfloat16"; by default that of a module's parameters
    or of an engine, else that of the latents. `channels_last` is its memory layout. `progress(row, rows)` is called after each
    evaluation; an exception that it raises stops the run. Raises ProgramError for arguments that do not fit the program, and
    AigcEdgeError for network outputs that are not finite, with their row and sample.
    """
    prepared, network = execution.prepare(
        program.with_guidance(guidance_scale, guidance_rescale),
        network,
        latents,
        dtype=dtype,
        conditions=conditions,
        negative=negative,
        mask=mask,
        known=known,
        channels_last=channels_last,
    )
    with prepared.arrays.no_gradient():
        prepared.start(latents, seeds, noise, known_noise)
        prepared.run(network, progress)
        prepared.check()
    return prepared.sample if program.slots == 1 else prepared.arrays.copy(prepared.sample)


def prepare(
    program: Program,
    network: Any,
    like: Any,
    *,
    conditions: Mapping[str, Any] | None = None,
    negative: Mapping[str, Any] | None = None,
    mask: Any = None,
    known: Any = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    dtype: str | None = None,
    channels_last: bool = False,
    graph: bool | Literal["auto"] = "auto",
) -> Loop:
    """`sample`, prepared for many calls `loop(latents, seeds=…)` with latents of the shape, type and device of `like`.

    Conditions, mask and known fix the shapes; each call may give other values. Guidance is fixed. On a CUDA device the whole loop
    is captured into one CUDA graph, which serves any seeds and values. Where that is not possible, graph="auto" runs row by row
    and `loop.reason` says why, and True raises ProgramError; False never captures. What the network computes on the host is
    evaluated once, during the capture: a network that depends on such values needs graph=False.
    """
    prepared, network = execution.prepare(
        program.with_guidance(guidance_scale, guidance_rescale),
        network,
        like,
        dtype=dtype,
        standing=True,
        conditions=conditions,
        negative=negative,
        mask=mask,
        known=known,
        channels_last=channels_last,
    )
    return Loop(prepared, network, graph)
