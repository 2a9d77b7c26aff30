"""Sampling from a bundle on a GPU: noise, rows, decoder and bytes stay there, and the loop is one graph."""

from __future__ import annotations

import importlib.util
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.diffusion import Program
from aigc_edge.engines.base import Engine, sample_dtype
from aigc_edge.errors import AigcEdgeError, EngineUnavailable
from aigc_edge.runtime.initial_state import classes_of_seeds, seeds_of
from aigc_edge.runtime.request import SampleRequest

DEVICES = ("auto", "cpu", "cuda")
MAX_BATCH = 64  # larger counts run one after the other, with the same result, and need no graph of their own
CACHED_LOOPS = 8  # each holds its graph, whose memory is that of one run


def without_gpu() -> str | None:
    """Why torch and the kernels of this build cannot compute on a GPU here; None when they can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed, which owns the memory on the GPU: pip install 'aigc-edge[train]'"
    import torch

    from aigc_edge.ops import native_core  # here, as below: sampling on a CPU imports no ops

    if not torch.cuda.is_available():
        built = "its build has no CUDA" if torch.version.cuda is None else "there is no NVIDIA GPU with a driver"
        return f"torch finds no GPU here ({built}): choose the device 'cpu'"
    core = native_core()
    return "the native core was not built: install aigc-edge" if core is None else core.cuda_unavailable() or None


def choose(engine: type[Engine], device: str) -> tuple[str | None, str | None]:
    """Where a pipeline samples: torch's device, or None for the runtime's own loop in host memory; and why it is not the GPU.

    "auto" takes the GPU for an engine that computes nowhere else. Raises EngineUnavailable for a GPU that is missing, and
    AigcEdgeError for a device that the engine does not support.
    """
    if device not in DEVICES:
        raise AigcEdgeError(f"device is {device!r}: it must be one of {', '.join(DEVICES)}")
    if device == "cpu" or (device == "auto" and "cpu" in engine.devices):
        if "cpu" not in engine.devices:
            raise AigcEdgeError(f"the engine {engine.name!r} computes on a GPU only: choose the device 'cuda', or another engine")
        return None, "the device is the CPU"
    if "cuda" not in engine.devices:
        raise EngineUnavailable(
            f"the engine {engine.name!r} computes on the CPU only: for a GPU choose the engine torch or tensorrt"
        )
    reason = without_gpu()
    if reason is None:
        return "cuda:0", None
    if "cpu" in engine.devices:
        raise EngineUnavailable(f"device='cuda' was requested, and {reason}")
    return None, f"the loop runs on the CPU around a network on the GPU: {reason}"  # such an engine copies by itself


class DeviceLoop:
    """A bundle's networks on a torch device, and the loops that were prepared around them.

    `statistics` are of the last `sample`; `captured` whether its loop was one CUDA graph, and `reason` why it was not.
    """

    def __init__(self, bundle: Bundle, engines: Mapping[str, Engine], device: str) -> None:
        self._networks = {name: engine.on_device(device) for name, engine in engines.items()}
        self._specs = {name: engine.spec for name, engine in engines.items()}
        self._bundle, self._device = bundle, device
        self._shape = tuple(int(size) for size in bundle.manifest.sample_shape)
        self._classes = bundle.manifest.num_classes
        roles = {t.role: t.name for t in self._specs["denoiser"].inputs} if "denoiser" in self._specs else {}
        self._embedded = roles.get("guidance")  # the input that takes the scale as a number: then no row is doubled
        self._guides = self._embedded is None and (self._classes > 0 or "condition" in roles)
        self._loops: OrderedDict[tuple[Program, int, bool], Any] = OrderedDict()
        self.statistics: dict[str, float] = {"evaluations": 0, "total_seconds": 0.0}
        self.captured, self.reason = False, "nothing was sampled yet"

    def sample(
        self, program: Program, request: SampleRequest, *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[Any]:
        """What the native loop returns for the same request, up to rounding: uint8 [N, H, W, C] or float32 [N, C, H, W]."""
        import torch

        started = time.perf_counter()
        if not self._networks:
            raise AigcEdgeError("this bundle was closed: open it again")
        count, latents = request.count, request.latents
        noise: Any = request.noise  # an array or None: the request is resolved
        program = program.with_guidance(request.guidance_scale, request.guidance_rescale)
        if not self._guides and self._embedded is None:  # without classes and conditions there is nothing to guide by
            program = program.with_guidance(1.0, 0.0)
        seeds = seeds_of(request)
        chosen = self._labels(seeds, request.classes)
        other = self._labels(seeds, np.full(count, -1) if request.negative_classes is None else request.negative_classes)
        parts = []
        evaluations = 0
        with torch.no_grad():
            for first in range(0, count, MAX_BATCH):
                part = slice(first, min(first + MAX_BATCH, count))
                rows = {name: None if value is None else self._to_device(value[part]) for name, value in
                        (("mask", request.mask), ("known", request.known), ("known_noise", request.known_noise))}  # fmt: skip
                start = self._latents(seeds[part], latents, part)
                both = tuple(
                    self._conditions("denoiser", labels, part) | self._rows(named, part)
                    for labels, named in ((chosen, request.conditions), (other, request.negative_conditions))
                )
                if program.rows:
                    source = "philox" if noise is None else self._to_device(noise[:, part])
                    loop = self._loop(program, start, both, rows)
                    samples = loop(
                        start,
                        seeds=seeds[part],
                        noise=source,
                        conditions=both[0],
                        negative=both[1],
                        progress=progress,
                        before=first,
                        **rows,
                    )
                    self.captured, self.reason = loop.captured, loop.reason
                else:
                    samples = start * program.init_scale
                    self.captured, self.reason = False, "one evaluation is not a loop"
                evaluations += len(program.rows)
                if "decoder" in self._networks:
                    samples = self._decode(samples, self._conditions("decoder", chosen, part), first)
                    evaluations += 1
                    if progress is not None:
                        progress(len(program.rows), len(program.rows))
                parts.append(self._bytes(samples) if request.output == "uint8" else samples)
            images: NDArray[Any] = (parts[0] if len(parts) == 1 else torch.cat(parts)).cpu().numpy()
        self.statistics = {"evaluations": float(evaluations), "total_seconds": time.perf_counter() - started}
        return images

    def close(self) -> None:
        """Release graphs and networks."""
        self._loops.clear()
        self._networks.clear()

    def _to_device(self, array: NDArray[Any]) -> Any:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _latents(self, seeds: NDArray[np.uint64], latents: NDArray[np.float32] | None, part: slice) -> Any:
        import torch

        from aigc_edge.ops import randn

        if latents is not None:
            return self._to_device(latents[part])
        normals: Any = torch.empty((len(seeds), *self._shape), device=self._device)
        randn(self._to_device(seeds), 0, normals.view(len(seeds), -1))
        return normals

    def _labels(self, seeds: NDArray[np.uint64], classes: Any) -> NDArray[np.int64]:
        """Class indices [N]; the index after the last class stands for unconditional."""
        if classes is None:
            return classes_of_seeds(seeds, self._classes)
        return np.where(classes < 0, self._classes, classes).astype(np.int64)

    def _conditions(self, component: str, labels: NDArray[np.int64], part: slice) -> dict[str, Any]:
        spec = self._specs.get(component)
        return {t.name: self._to_device(labels[part]) for t in (spec.inputs if spec else ()) if t.role == "class"}

    def _rows(self, conditions: Mapping[str, NDArray[np.float32]] | None, part: slice) -> dict[str, Any]:
        """The conditions of a part of the samples; an array [1, ...] is shared by all."""
        return {name: self._to_device(value if len(value) == 1 else value[part]) for name, value in (conditions or {}).items()}

    def _loop(self, program: Program, start: Any, both: tuple[Any, ...], rows: Mapping[str, Any]) -> Any:
        from aigc_edge.diffusion import prepare  # here: only sampling on a GPU needs it

        key = (program, len(start), rows["mask"] is not None)
        if key not in self._loops:
            options = {"conditions": both[0], "negative": both[1], "mask": rows["mask"], "known": rows["known"]}
            while len(self._loops) >= CACHED_LOOPS:
                self._loops.popitem(last=False)
            rows_program = program if self._embedded is None else program.with_guidance(1.0, 0.0)
            self._loops[key] = prepare(rows_program, self._denoiser(program), start, **options)
        self._loops.move_to_end(key)
        return self._loops[key]

    def _denoiser(self, program: Program) -> Any:
        """The denoiser with the inputs that each row of `program` fixes: the schedule constants and the guidance weight."""
        from aigc_edge.engines.constants import Constants

        network = self._networks["denoiser"]
        names = [t.name for t in self._specs["denoiser"].inputs if t.role == "constant"]
        constants = Constants.of(self._bundle) if names else None
        rows: list[dict[str, Any]] = [{} for _ in program.rows]
        if constants is not None:
            rows = [{n: self._to_device(constants(row.timestep)[n]) for n in names} for row in program.rows]
        if self._embedded is not None:
            for row, weight in zip(rows, program.weights, strict=True):
                row[self._embedded] = self._to_device(np.array([weight], np.float32))
        return WithConstants(network, rows) if any(rows) else network

    def _decode(self, samples: Any, conditions: Mapping[str, Any], first: int) -> Any:
        import torch

        dtype = getattr(torch, sample_dtype(self._specs["decoder"]))
        pixels = self._networks["decoder"](samples.to(dtype), None, **conditions).float().contiguous()
        bad = (~torch.isfinite(pixels)).flatten(1).any(1).cpu().numpy()
        if bad.any():
            raise AigcEdgeError(
                f"the decoder returned a value that is not finite for sample {first + int(np.flatnonzero(bad)[0])}: try another "
                "format or engine, or other latents"
            )
        return pixels

    def _bytes(self, samples: Any) -> Any:
        import torch

        from aigc_edge.ops import latent_to_rgb8

        low, high = (float(bound) for bound in self._bundle.manifest.output_range)
        count, channels, height, width = samples.shape
        out: Any = torch.empty((count, height, width, channels), dtype=torch.uint8, device=self._device)
        scale = 255.0 / (high - low)
        latent_to_rgb8(samples, out, scale, -low * scale)
        return out


class WithConstants:
    """A network with inputs that its row fixes, schedule constants or the guidance weight: `rows[r]` by name, [1, ...]."""

    def __init__(self, network: Any, rows: list[dict[str, Any]]) -> None:
        self._network, self._rows, self._row = network, rows, 0
        self._whole: dict[tuple[int, int], dict[str, Any]] = {}  # by row and batch; allocated once, as a graph needs
        self.dtype = network.dtype

    def at_row(self, row: int) -> None:
        """Say which row is evaluated next."""
        self._row = row

    def uncapturable(self, batch: int) -> str | None:
        """Why a batch of this size cannot be captured in a graph; None when it can."""
        limit = getattr(self._network, "uncapturable", None)
        reason: str | None = limit(batch) if callable(limit) else None
        return reason

    def __call__(self, sample: Any, timestep: Any, **conditions: Any) -> Any:
        key = self._row, len(sample)
        if key not in self._whole:
            each = self._rows[self._row].items()
            self._whole[key] = {name: value.expand(len(sample), *value.shape[1:]).contiguous() for name, value in each}
        return self._network(sample, timestep, **conditions, **self._whole[key])
