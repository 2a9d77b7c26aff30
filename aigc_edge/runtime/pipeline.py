"""Open a bundle and draw samples from it: a thin layer over the C API (`csrc/include/aigc_edge/aigc_edge.h`)."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc_edge import _core
from aigc_edge.bundle.sizes import Size, at_size
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.diffusion import Program
from aigc_edge.diffusion.noise import PHILOX
from aigc_edge.engines.base import ENGINES, Buffers, Engine, EngineSource, physical_cores, require
from aigc_edge.engines.constants import Constants, schedule_source
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import device_loop, inputs
from aigc_edge.runtime.auto_engine import AUTO, fastest
from aigc_edge.runtime.conditions import Conditions, Prompt, texts
from aigc_edge.runtime.programs import Programs
from aigc_edge.runtime.text_encoders import NAMES, TextEncoders

Progress = Callable[[int, int], None]
Watch = Callable[[str, int, Buffers, Buffers], None]
Verify = Literal["used", "all", "none"]
_VERIFY: dict[str, int] = {"used": 0, "all": 1, "none": 2}
_OUTPUT = {"uint8": 0, "float32": 1}
FLOAT32_MAX = 3.4028234e38


class Pipeline:
    """An open bundle; see `aigc_edge.open`. Safe to share between threads: calls of `sample` run one after the other."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        engine: str,
        format: str | None,
        threads: int | None,
        verify: Verify,
        device: str = "auto",
        torch_device: str | None = None,
        size: Size | None = None,
    ) -> None:
        if verify not in _VERIFY:
            raise AigcEdgeError(f"verify is {verify!r}: it must be one of {', '.join(_VERIFY)}")
        if threads is not None and threads < 1:
            raise AigcEdgeError(f"threads is {threads}: it must be at least 1")
        self.path = Path(path)
        self.threads = threads or physical_cores()
        if engine == AUTO and device == "cuda":
            engine = "torch"  # AUTO chooses among engines of the CPU
        if engine != AUTO:
            require(engine)
        on_device = ENGINES["onnxruntime" if engine == AUTO else engine]
        place, self._why = (torch_device, None) if torch_device else device_loop.choose(on_device, device)
        self._verified = verify != "none"
        self._lock = threading.Lock()
        self._engines: dict[str, Engine] = {}
        self._progress: Progress | None = None
        self._watch: Watch | None = None
        self._constants: Constants | None = None
        chosen = None if size is None else inputs.image_size(size)
        self._handle = _core.Handle(
            os.fspath(path), self._bind, format=format or "", threads=self.threads, verify=_VERIFY[verify], size=chosen
        )
        self.manifest: dict[str, Any] = at_size(json.loads(self._handle.manifest), chosen)
        self._programs = Programs(self.path, self.manifest, self._handle)
        self._shape = tuple(int(size) for size in self.manifest["sample_shape"])
        self.format = format or str(self.manifest["default_format"])
        self.engine = fastest(self.path, self.manifest, self.format, self.threads) if engine == AUTO else engine
        kind = require(self.engine)
        for name, component in self.manifest["components"].items():
            if name not in ("schedule", *NAMES):  # which a call may need or not
                self._engines[name] = kind.load(self._source(name, component), threads=self.threads)
        self._encoders = TextEncoders(self.manifest, self._load_encoder, self._handle.file)
        self._given = Conditions(self.path, self.manifest, self._encoders)
        self._on_device = None if place is None else device_loop.DeviceLoop(self.path, self.manifest, self._engines, place)

    def _source(self, name: str, component: Mapping[str, Any]) -> EngineSource:
        spec = ComponentSpec.from_json(name, component)
        return EngineSource(self.path, component, spec, self.format, self.manifest["family"], verified=self._verified)

    def _load_encoder(self, name: str) -> Engine:
        source = self._source(name, self.manifest["components"][name])
        for file in (source.model_file(), f"{source.model_file()}.data"):  # opening did not hash them: they may be large
            if file in self.manifest["files"]:
                self._handle.verify(file)
        return require(self.engine).load(source, threads=self.threads)

    def _bind(self, component: str, inputs: Buffers, outputs: Buffers) -> Callable[[int, int], None]:
        if component == "schedule":
            return self._bind_schedule(inputs, outputs)
        engine = self._engines[component]
        run = engine.bind({t.name: inputs[t.name] for t in engine.spec.inputs}, outputs)

        def call(row: int, num_rows: int) -> None:
            run()
            if self._watch is not None:
                self._watch(component, row, inputs, outputs)
            if self._progress is not None:
                self._progress(row, num_rows)

        return call

    def _bind_schedule(self, inputs: Buffers, outputs: Buffers) -> Callable[[int, int], None]:
        """Schedule constants of timesteps that the bundle's programs do not have."""
        if not any(t.role == "constant" for t in self._engines["denoiser"].spec.inputs):
            for array in outputs.values():  # this engine evaluates the whole network
                array.fill(0)
            return lambda row, num_rows: None
        if "schedule" not in self._engines:
            source = schedule_source(self.path, self.manifest["components"]["schedule"])
            source.read(source.model_file())  # checks its hash, which opening did not
            self._engines["schedule"] = require(ENGINES[self.engine].schedule_engine or self.engine).load(source, threads=1)
        run = self._engines["schedule"].bind(inputs, outputs)
        return lambda row, num_rows: run()

    @property
    def programs(self) -> list[str]:
        """The names of the programs in the bundle; the first is the default."""
        return self._programs.own

    @property
    def size(self) -> Size:
        """Height and width of the images."""
        height, width = self.manifest["output_shape"][1:]
        return height, width

    @property
    def device(self) -> str:
        """Where the sampling loop runs: "cpu" or "cuda"."""
        return "cpu" if self._on_device is None else "cuda"

    @property
    def reason(self) -> str | None:
        """Why the last `sample` was not one CUDA graph; None when it was."""
        return self._why if self._on_device is None else self._on_device.reason

    @property
    def stats(self) -> dict[str, float]:
        """Of the last `sample`: evaluations (count), total_seconds (wall clock) and, where the loop runs on the CPU,
        network_seconds (inside the engine)."""
        return dict(self._handle.statistics) if self._on_device is None else dict(self._on_device.statistics)

    def program(
        self, name: str | None = None, *, solver: str | None = None, steps: int | None = None, strength: float = 1.0
    ) -> Program:
        """A program of the bundle (None: its default), or one that is built for its network from `solver` and `steps`.

        With `strength` below 1 it is the last part of it, for image to image. Raises AigcEdgeError for what is not there.
        """
        return self._programs[self._programs.find(name, solver, steps, strength)]

    def add_program(self, program: Program) -> None:
        """Take a program beside the bundle's own, to be sampled from by its name; one of that name that was added is replaced.

        Raises AigcEdgeError for the name of a program of the bundle, and for rows that do not suit its networks.
        """
        if program.name in self.manifest["programs"]:
            raise AigcEdgeError(f"{self.path} has a program {program.name} itself: give the other one another name")
        with self._lock:
            self._programs.add(program.name, program)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int = 0,
        seeds: Sequence[int] | NDArray[np.uint64] | None = None,
        classes: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        negative_classes: int | Sequence[int] | NDArray[np.integer[Any]] | None = None,
        prompt: Prompt | None = None,
        negative_prompt: Prompt | None = None,
        conditions: Mapping[str, NDArray[Any]] | None = None,
        negative_conditions: Mapping[str, NDArray[Any]] | None = None,
        program: str | None = None,
        solver: str | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        latents: NDArray[np.float32] | None = None,
        noise: str | NDArray[np.float32] = PHILOX,
        image: NDArray[Any] | None = None,
        strength: float = 1.0,
        mask: NDArray[Any] | None = None,
        output: Literal["uint8", "float32"] = "uint8",
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> NDArray[Any]:
        """Draw `n` samples: uint8 [N, H, W, C], or float32 [N, C, H, W] in the bundle's output range (not clamped).

        Sample i is drawn from `seed` + i, or from `seeds`[i] (whole numbers from 0 to 2^64 - 1), and does not depend on the
        others. `classes` are class indices, one for all or one each; -1 is unconditional; None draws them from the seeds.
        `negative_classes` are what guidance leads away from (None: no class). `prompt` and `negative_prompt`, one for all or one
        each, are encoded by the bundle's text encoders (None: what the bundle says of no negative prompt); `conditions` and
        `negative_conditions` [N or 1, ...] are what its network takes beside, or instead, by name. `program` names one of
        `programs`; `solver` and `steps` build another one from the bundle's schedule. `guidance_scale` is the CFG scale (1: off),
        `guidance_rescale` 0 … 1 draws its contrast back (Lin et al. 2024). `latents`, float32 [N, *sample_shape] of unit normals,
        replace the noise of the seeds. `noise` is where noise comes from: "philox" (our own), "numpy", "torch-cpu", "torch-cuda"
        (as those draw it for the seeds), or what the rows add, float32 [draws, N, *sample_shape] in the order of
        `program(…).draws`.

        Image to image: `image`, uint8 [N, H, W, C] or float32 [N, C, H, W] in the output range, and a `strength` below 1, the
        share of the steps that is taken. Inpainting: `image` and `mask` [N, H, W] or [H, W], 1 where it is to be generated; the
        rest stays.

        `progress(row, rows)` and `watch(component, row, inputs, outputs)` are called after each network evaluation; what they
        raise stops the call. The buffers are the runtime's own, by the names of the component: copy what is kept. Raises
        AigcEdgeError for what is not allowed.
        """
        if output not in _OUTPUT:
            raise AigcEdgeError(f"output is {output!r}: it must be one of {', '.join(_OUTPUT)}")
        if latents is not None and np.shape(latents) != (n, *self._shape):
            raise AigcEdgeError(f"latents have the shape {list(np.shape(latents))}: they must have {[n, *self._shape]}")
        for name, value in (("scale", guidance_scale), ("rescale", guidance_rescale)):
            if value is not None and not abs(value) <= FLOAT32_MAX:
                raise AigcEdgeError(f"the guidance {name} is {value}: it must be a finite number; 1 means no guidance")
        count = inputs.integer("n", n, 1, 2**31 - 1)
        first = inputs.integer("seed", seed, 0, 2**64 - 1)
        each = None if seeds is None else inputs.integers("seeds", seeds, n, 0, 2**64 - 1).astype(np.uint64)
        with self._lock:
            name = self._programs.find(program, solver, steps, strength)
            start = inputs.Start(self.manifest, self._programs[name], n, each, first)
            latents, draws = start.noise(noise, latents)
            known = start.known(image, mask, strength)
            known_noise = None
            if known is not None and strength < 1:
                known_noise = start.latents() if latents is None else latents
                latents = self._programs[name].add_noise(known, known_noise)
            chosen = None if mask is None else start.mask(mask)
            guided = any(weight != 1.0 for weight in self._programs[name].with_guidance(guidance_scale).weights)
            text = prompt, negative_prompt, conditions, negative_conditions
            own, other = self._given.arrays(count, guided, *text)
            self._progress, self._watch = progress, watch
            given: dict[str, Any] = dict(
                count=count,
                seed=first,
                seeds=each,
                classes=None if classes is None else self._classes("classes", classes, n),
                negative_classes=None if negative_classes is None else self._classes("negative_classes", negative_classes, n),
                guidance_scale=guidance_scale,
                guidance_rescale=guidance_rescale,
                latents=None if latents is None else np.ascontiguousarray(latents, dtype=np.float32),
                noise=draws,
                mask=chosen,
                known=None if chosen is None else known,
                known_noise=None if chosen is None else known_noise,
                conditions=own,
                negative_conditions=other,
            )
            if self._on_device is not None:
                if watch is not None:
                    raise AigcEdgeError("watch looks at buffers in host memory: open the bundle with device='cpu' for it")
                return self._on_device.sample(self._programs[name], **given, rgb8=output == "uint8", progress=progress)
            images = self._handle.sample(program=name, elements=math.prod(self._shape), output=_OUTPUT[output], **given)
        return np.asarray(images)

    def _classes(self, name: str, classes: int | Sequence[int] | NDArray[np.integer[Any]], n: int) -> NDArray[np.int32]:
        if not self.manifest.get("classes"):
            raise AigcEdgeError(f"{self.path} is unconditional: leave the class out")
        last = int(self.manifest["classes"]["count"]) - 1
        each = [classes] * n if isinstance(classes, int) else classes
        return inputs.integers(name, each, n, -1, last).astype(np.int32)

    def network(self, sample: NDArray[Any], timestep: NDArray[Any] | float, **conditions: NDArray[Any]) -> NDArray[Any]:
        """The bundle's denoiser on `sample` [M, *sample_shape] at `timestep` (one, or [M]), conditions by their input names.

        May stand for the network in `aigc_edge.diffusion.sample`. Raises AigcEdgeError for a bundle without a denoiser.
        """
        if "denoiser" not in self._engines:
            raise AigcEdgeError(f"{self.path} generates in one evaluation: it has no denoiser")
        engine = self._engines["denoiser"]
        times = np.broadcast_to(np.asarray(timestep, np.float32), (len(sample),))
        given: dict[str, NDArray[Any]] = dict(conditions)
        for tensor in engine.spec.inputs:
            if tensor.role == "sample":
                given[tensor.name] = sample
            elif tensor.role == "timestep":
                given[tensor.name] = times
            elif tensor.role == "guidance" and tensor.name in given:
                given[tensor.name] = np.broadcast_to(np.asarray(given[tensor.name], np.float32), (len(sample),))
            elif tensor.role == "constant":
                self._constants = self._constants or Constants.load(self.path, self.manifest["components"])
                assert self._constants is not None
                given[tensor.name] = np.concatenate([self._constants(float(time))[tensor.name] for time in times])
        (output,) = engine.evaluate(given).values()
        return output

    def encode(self, prompt: Prompt) -> dict[str, NDArray[np.float32]]:
        """What the bundle's text encoders make of one prompt or of several: conditions by name, float32 [N, ...].

        Raises AigcEdgeError for a bundle without text encoders, and where the package tokenizers is not installed.
        """
        if not self._encoders.gives:
            raise AigcEdgeError(f"{self.path} has no text encoder: it cannot encode a prompt")
        with self._lock:
            return self._encoders(texts("prompt", prompt, len(prompt)))

    def close_encoders(self) -> None:
        """Give back the text encoders alone, which may be larger than all else; a prompt that is not kept loads them again."""
        with self._lock:
            self._encoders.close()

    def close(self) -> None:
        """Give back the networks and buffers; further calls say that the bundle was closed."""
        with self._lock:
            self._handle.close()
            if self._on_device is not None:
                self._on_device.close()
            self._encoders.close()
            for engine in self._engines.values():
                engine.close()
            self._engines.clear()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def open(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    format: str | None = None,
    threads: int | None = None,
    verify: Verify = "used",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    size: Size | None = None,
) -> Pipeline:
    """Open a bundle (a folder, or one file) for sampling.

    `engine` evaluates the networks, "auto" measures once which CPU engine is fastest here and remembers it; `format` chooses
    among the bundle's formats (None: its default); `threads` is the number of CPU threads (None: the physical cores); `verify`
    says which files are hashed: those "used", "all" or "none". `device` is where the loop runs: on "cuda" (engines torch and
    tensorrt) noise, rows and images stay on the first GPU and all rows are one CUDA graph; "auto" is the CPU, but for an engine
    that needs a GPU. `size` is the height and width of the images, for a bundle that was compiled for several (None: its first).

    onnxruntime lays a network out for the processor when it is opened. Of one of 32 MB or more, whose hashes were checked, the
    outcome is kept in $XDG_CACHE_HOME/aigc-edge/laid-out (~/.cache without it) and mapped the next time: quicker, and in about
    the memory of its weights. All that is kept takes at most AIGC_EDGE_PLAN_CACHE_GB (20); with 0 nothing is.

    Raises BundleError when the bundle cannot be trusted, EngineUnavailable when the engine is not installed or cannot run here,
    and AigcEdgeError for a format or a size that the bundle does not have.
    """
    if not Path(path).exists():
        raise BundleError(f"there is no bundle at {os.fspath(path)}: give the folder or file that `aigc-edge compile` wrote")
    return Pipeline(path, engine=engine, format=format, threads=threads, verify=verify, device=device, size=size)
