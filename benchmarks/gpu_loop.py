"""The whole loop around a UNet of 36 M parameters, for benchmarks/gpu.py: one graph against eager and compiled loops."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import torch
from gpu_kernels import EDM, STEPS
from gpu_timing import Bench, Call
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aigc_edge.bench import plain
from aigc_edge.diffusion import build, prepare, sample
from aigc_edge.nn.unet import UNet

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def unet(bench: Bench, dtype: torch.dtype) -> UNet:
    """The same random weights for every dtype; the embedding of the time stays in float32."""
    torch.manual_seed(0)
    small = bench.quick or not bench.cuda
    widths, blocks = ((16, 32), (1, 1)) if small else ((128, 256, 432), (4, 4, 4))
    network = UNet(3, 0, widths=widths, blocks=blocks, attention=(1,), embedding=64 if small else 512)
    for parameter in network.parameters():  # what training begins with is zero, and zeros hide errors
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.02)
    embedding, network.embedding = network.embedding, nn.Identity()  # type: ignore[assignment]
    network.to(bench.device, dtype, memory_format=torch.channels_last)
    network.embedding = embedding.to(bench.device)
    network.embedding.register_forward_hook(lambda module, inputs, output: output.to(dtype))
    return network.eval().requires_grad_(False)


def plain_loop(network: Network, latents: torch.Tensor, dtype: torch.dtype, step_begins: Call) -> Call:
    """DPM-Solver++ 2M written by hand in torch around the network."""
    sigmas = plain.karras(STEPS, EDM["sigma_min"], EDM["sigma_max"], EDM["rho"])  # type: ignore[arg-type]
    data = float(EDM["sigma_data"])  # type: ignore[arg-type]

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        total = math.hypot(sigma, data)
        step_begins()
        given = (x * (1 / total)).to(dtype, memory_format=torch.channels_last)
        output = network(given, x.new_full((len(x),), math.log(sigma) / 4)).float()
        return (data / total) ** 2 * x + (sigma * data / total) * output

    return lambda: plain.dpmpp_2m(denoise, latents * sigmas[0], sigmas)


def diffusers_loop(network: Network, latents: torch.Tensor, dtype: torch.dtype, step_begins: Call) -> Call:
    """A pipeline as diffusers writes it, with its scheduler."""
    import diffusers

    settings = {name: EDM[name] for name in ("sigma_min", "sigma_max", "sigma_data", "rho")}
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(**settings, sigma_schedule="karras")

    def run() -> torch.Tensor:
        scheduler.set_timesteps(STEPS, device=latents.device)
        x = latents * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            step_begins()
            given = scheduler.scale_model_input(x, timestep).to(dtype, memory_format=torch.channels_last)
            output = network(given, timestep.float().expand(len(x)))
            x = scheduler.step(output.float(), timestep, x, return_dict=False)[0]
        return x

    return run


def ways(bench: Bench, dtype: torch.dtype, latents: torch.Tensor, compiled: bool) -> tuple[dict[str, Call], dict[str, str]]:
    """The loops of one dtype by name, and what was left out with its reason."""
    network, left_out = unet(bench, dtype), {}
    name = str(dtype).removeprefix("torch.")
    program = build(EDM, "dpmpp_2m", STEPS)
    options: dict[str, Any] = {"dtype": name, "channels_last": True}
    loops: dict[str, Call] = {}

    def add_loop(key: str, module: Network) -> None:
        loop = prepare(program, module, latents, **options)
        loops[key] = lambda: loop(latents)
        if not loop.captured:
            left_out[f"the graph of {key}"] = str(loop.reason)

    add_loop("aigc-edge", network)
    loops["plain torch"] = plain_loop(network, latents, dtype, lambda: None)
    peer = plain_loop
    if importlib.util.find_spec("diffusers") is not None:
        loops["diffusers"], peer = diffusers_loop(network, latents, dtype, lambda: None), diffusers_loop
    if compiled:
        try:
            begins = torch.compiler.cudagraph_mark_step_begin
            fast = torch.compile(network, mode="max-autotune")
            loops["torch.compile"] = peer(fast, latents, dtype, begins)
            loops["torch.compile"]()
            add_loop("aigc-edge around torch.compile", torch.compile(unet(bench, dtype), mode="max-autotune-no-cudagraphs"))
        except Exception as error:  # what a compiler cannot do is a result
            loops.pop("torch.compile", None)
            left_out["torch.compile"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return loops, left_out


def floor(bench: Bench, ceilings: dict[str, float], dtype: torch.dtype, latents: torch.Tensor) -> dict[str, float]:
    """What no loop can beat: the weights read once a step, or the arithmetic, at the measured ceilings."""
    network = unet(bench, dtype)
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(latents.to(dtype), latents.new_zeros(len(latents)))
    flops = counter.get_total_flops()
    rate = ceilings[f"{str(dtype).removeprefix('torch.')}_flop_per_second"]
    times = {"bytes": STEPS * weights / ceilings["copy_bytes_per_second"], "arithmetic": STEPS * flops / rate}
    return {"parameters": sum(p.numel() for p in network.parameters()), "weight_bytes_a_step": weights, "flop_a_step": flops,
            "seconds_for_bytes": times["bytes"], "seconds_for_arithmetic": times["arithmetic"],
            "seconds": max(times.values())}  # fmt: skip


@torch.no_grad()
def loop(bench: Bench, ceilings: dict[str, float], dtypes: tuple[torch.dtype, ...], compiled: bool) -> list[dict[str, Any]]:
    """Batch 1, 20 steps: time, launches, and the relative L2 of the result to the same loop in float32 (TF32 off)."""
    size = 16 if bench.quick else 32
    latents, found = bench.normal(1, 3, size, size), []
    exact = sample(build(EDM, "dpmpp_2m", STEPS), unet(bench, torch.float32), latents, dtype="float32", channels_last=True)
    for dtype in dtypes if bench.cuda else (torch.float32,):  # half precision takes a CPU seconds
        entry: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "shape": list(latents.shape), "steps": STEPS}
        entry["floor"] = floor(bench, ceilings, dtype, latents)
        calls, entry["left_out"] = ways(bench, dtype, latents, compiled)
        results = {name: call() for name, call in calls.items()}
        entry["relative_l2"] = {name: float((x - exact).norm() / exact.norm()) for name, x in results.items()}  # type: ignore[attr-defined]
        timed = bench.timed(calls, bench.rounds(40))
        entry["milliseconds"] = {name: 1e3 * own["wall"]["median"] for name, own in timed.items()}
        entry["timings"] = timed
        entry["times_the_floor"] = {name: own["wall"]["median"] / entry["floor"]["seconds"] for name, own in timed.items()}
        entry["ratios"] = bench.ratios(timed, "aigc-edge", "wall")
        entry["launches"] = {name: bench.launches(call) for name, call in calls.items()}
        found.append(entry)
    return found
