"""Open a bundle and sample from it: a thin layer over the C API (`csrc/include/aigc_edge/aigc_edge.h`)."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc_edge import _core
from aigc_edge.bundle.bundle import Bundle, existing, native_reader
from aigc_edge.bundle.sizes import LONGEST, Size, image_size
from aigc_edge.diffusion import Program
from aigc_edge.engines.base import ENGINES, Buffers, Engine, EngineSource, load_engine, made_as, physical_cores, require
from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime import device as devices
from aigc_edge.runtime.calibrated_inputs import check_range, expected_latents
from aigc_edge.runtime.conditions import Conditions, texts
from aigc_edge.runtime.initial_state import floats, initial_state
from aigc_edge.runtime.networks import Networks
from aigc_edge.runtime.precision import DEFAULT, check_precision, precision_of, warn_of_deviation
from aigc_edge.runtime.programs import Programs
from aigc_edge.runtime.request import Prompt, SampleRequest, as_request, integer
from aigc_edge.runtime.text_encoders import TextEncoders

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from aigc_edge.engines.constants import Constants
    from aigc_edge.runtime.request import SampleOptions

Progress = Callable[[int, int], None]
Watch = Callable[[str, int, Buffers, Buffers], None]
Verify = Literal["used", "all", "none"]
AUTO = "auto"
MAX_THREADS = 1024
WARNED = 6  # stack level of who called `open`
_VERIFY: dict[str, int] = {"used": 0, "all": 1, "none": 2}


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
        precision: str = DEFAULT,
        tile: Size | None = None,
        denoising_tile: Size | None = None,
        overlap: int | None = None,
    ) -> None:
        for name, value in (("engine", engine), ("format", format or ""), ("verify", verify), ("device", device)):
            if not isinstance(value, str):
                raise AigcEdgeError(f"{name} is {value!r}: it must be text")
        if verify not in _VERIFY:
            raise AigcEdgeError(f"verify is {verify!r}: it must be one of {', '.join(_VERIFY)}")
        requested = check_precision(precision)
        self.path = Path(os.fsdecode(path))
        self.threads = physical_cores() if threads is None else integer("threads", threads, 1, MAX_THREADS)
        if engine == AUTO and device == "cuda":
            engine = "torch"  # AUTO chooses among engines of the CPU
        if engine != AUTO:
            require(engine)
        engine_class = ENGINES["onnxruntime" if engine == AUTO else engine]
        if torch_device is None:
            torch_device, self._why = devices.choose(engine_class, device)
        self._torch_device = torch_device
        verified = verify != "none"
        self._lock = threading.RLock()
        self._sampling = self._close_later = False
        self._constants: Constants | None = None
        self._networks = Networks(torch_device)
        image = None if size is None else image_size(size)
        tiles = {name: value for name, value in (("tile", tile), ("denoising_tile", denoising_tile)) if value is not None}
        tiles = {name: image_size(value, name, "tiles") for name, value in tiles.items()}
        options: dict[str, Any] = {"format": format or "", "threads": self.threads, "verify": _VERIFY[verify], "size": image}
        options |= tiles if overlap is None else tiles | {"overlap": integer("overlap", overlap, 0, LONGEST)}
        with self._networks.current():
            self._handle = native_reader(self.path, self._networks.bind, _core, **options, **self._networks.place)
        self._bundle = Bundle.of(self.path, self._handle.manifest).at(image, **tiles)
        self.manifest = self._bundle.manifest
        self._programs = Programs(self.path, self.manifest, self._handle)
        self._shape = tuple(int(size) for size in self.manifest.sample_shape)
        self.format = format or self.manifest.default_format
        self._loader = _Loader(self._bundle, self.format, engine, requested, self.threads, verified, self._handle.verify)
        self._networks.load(self._bundle, self._loader)
        self.engine = self._loader.engines[self.manifest.main.name]
        self._encoders = TextEncoders(self.manifest, self._loader, self._handle.file)
        self._conditions = Conditions(self.path, self.manifest, self._encoders)

    @property
    def engines(self) -> dict[str, str]:
        """The engine of each component that is loaded; those of text encoders are chosen when they are first needed."""
        return dict(self._loader.engines)

    @property
    def precisions(self) -> dict[str, str]:
        """What each component that is loaded computes floats in: "exact", "bf16" or "fp16"."""
        return dict(self._loader.precisions)

    @property
    def programs(self) -> list[str]:
        """The names of the programs in the bundle; the first is the default."""
        return self._programs.own

    @property
    def size(self) -> Size:
        """Height and width of the images."""
        height, width = self.manifest.output_shape[1:]
        return int(height), int(width)

    @property
    def device(self) -> str:
        """Where the sampling loop runs: "cpu" or "cuda"."""
        return "cpu" if self._torch_device is None else "cuda"

    @property
    def reason(self) -> str | None:
        """Why the last `sample` was not one CUDA graph; None when it was."""
        if self._torch_device is None:
            return self._why
        statistics = self._handle.statistics
        return None if statistics["captured"] else statistics["reason"] or "nothing was sampled yet"

    @property
    def stats(self) -> dict[str, float]:
        """Of the last `sample`: evaluations (count), total_seconds (wall clock) and, where the loop runs on the CPU,
        network_seconds (inside the engine)."""
        names = ["evaluations", "total_seconds"] + ["network_seconds"] * (self._torch_device is None)
        return {name: self._handle.statistics[name] for name in names}

    @property
    def component_seconds(self) -> dict[str, float]:
        """Seconds inside each network during the last `sample`, by component, in order; of text encoders only for prompts that
        were not cached. Empty where the loop runs on a GPU."""
        return {**self._encoders.seconds, **self._networks.seconds} if self._torch_device is None else {}

    def program(
        self, name: str | None = None, *, solver: str | None = None, steps: int | None = None, strength: float = 1.0
    ) -> Program:
        """A program of the bundle (None: its default), or one that is built for its network from `solver` and `steps`.

        With `strength` below 1, the last part of it, for image to image. Raises AigcEdgeError for an unknown name or solver.
        """
        with self._lock:
            return self._programs[self._programs.find(name, solver, steps, strength)]

    def add_program(self, program: Program) -> None:
        """Add a program, which `sample` then finds by its name; an added program of the same name is replaced.

        Raises AigcEdgeError for the name of a program of the bundle, and for rows that do not fit its networks.
        """
        if not isinstance(program, Program):
            raise AigcEdgeError(f"the program is {program!r:.80}: it must be a Program")
        if program.name in self.manifest.programs:
            raise AigcEdgeError(f"{self.path} has a program {program.name} itself: give the other one another name")
        with self._exclusive("add_program"):
            self._programs.add(program.name, program)

    def sample(
        self,
        n: int | SampleRequest = 1,
        *,
        progress: Progress | None = None,
        watch: Watch | None = None,
        **options: Unpack[SampleOptions],
    ) -> NDArray[Any]:
        """Draw `n` samples: uint8 [N, H, W, C], or float32 [N, C, H, W] in the bundle's output range, not clamped.

        `options` are the fields of `SampleRequest` (seed, classes, prompt, program, solver, steps, guidance_scale, latents,
        image, mask, output …); `n` may be a `SampleRequest` itself. `progress(row, rows)` and `watch(component, row, inputs,
        outputs)` are called after each network evaluation; an exception that they raise stops the call. The buffers belong to
        the runtime: copy what is needed later. Raises AigcEdgeError for what is not allowed.
        """
        request = as_request(n, options)
        with self._exclusive("sample"):
            if watch is not None and self._torch_device is not None:
                raise AigcEdgeError("watch looks at buffers in host memory: open the bundle with device='cpu' for it")
            self._sampling = True
            self._encoders.seconds.clear()
            self._networks.seconds.clear()
            self._networks.progress, self._networks.watch = progress, watch
            try:
                resolved = self._resolve(request)
                with self._networks.current():
                    samples = self._handle.sample(resolved, math.prod(self._shape), row_by_row=progress is not None)
                return np.asarray(samples)
            finally:
                self._networks.progress = self._networks.watch = None  # they may hold much, this pipeline too
                self._sampling = False
                if self._close_later:
                    self.close()

    @contextlib.contextmanager
    def _exclusive(self, what: str) -> Iterator[None]:
        with self._lock:
            if self._sampling:
                raise AigcEdgeError(f"{what} was called by progress or watch of a sample that still runs: call it afterwards")
            yield

    def _resolve(self, request: SampleRequest) -> SampleRequest:
        """The same request in the fields that the C struct has too: a program by name, arrays in place of prompts and images."""
        name = self._programs.find(request.program, request.solver, request.steps, request.strength)
        program = self._programs[name]
        state = initial_state(request, program, self._shape, self.manifest.output_range)
        if not program.rows:
            state["latents"] = expected_latents(request, state["latents"], self.manifest, self.format)
        guided = any(weight != 1.0 for weight in program.with_guidance(request.guidance_scale, None).weights)
        conditions, negative = self._conditions.arrays(request, guided)
        check_range(conditions, self.manifest, self.format)
        resolved: dict[str, Any] = dict.fromkeys(("solver", "steps", "prompt", "negative_prompt", "image"))
        resolved |= {"program": name, "strength": 1.0, "conditions": conditions, "negative_conditions": negative}
        return replace(request, **resolved, **state)

    def network(self, sample: NDArray[Any], timestep: NDArray[Any] | float, **conditions: NDArray[Any]) -> NDArray[Any]:
        """The bundle's denoiser on `sample` [M, *sample_shape] at `timestep` (one, or [M]), conditions by their input names.

        May stand for the network in `aigc_edge.diffusion.sample`. Raises AigcEdgeError for a bundle without a denoiser.
        """
        if "denoiser" not in self._networks.engines:
            raise AigcEdgeError(f"{self.path} generates in one evaluation: it has no denoiser")
        engine = self._networks.engines["denoiser"]
        times = np.broadcast_to(floats("timestep", timestep), (len(sample),))
        inputs: dict[str, NDArray[Any]] = dict(conditions)
        for tensor in engine.spec.inputs:
            if tensor.role == "sample":
                inputs[tensor.name] = sample
            elif tensor.role == "timestep":
                inputs[tensor.name] = times
            elif tensor.role == "guidance" and tensor.name in inputs:
                inputs[tensor.name] = np.broadcast_to(np.asarray(inputs[tensor.name], np.float32), (len(sample),))
            elif tensor.role == "constant":
                from aigc_edge.engines.constants import Constants

                self._constants = self._constants or Constants.of(self._bundle)
                assert self._constants is not None
                inputs[tensor.name] = np.concatenate([self._constants(float(time))[tensor.name] for time in times])
        (output,) = engine.evaluate(inputs).values()
        return output

    def encode(self, prompt: Prompt) -> dict[str, NDArray[np.float32]]:
        """Encode one prompt or several with the bundle's text encoders: conditions by name, float32 [N, ...].

        Raises AigcEdgeError for a bundle without text encoders, and where the package tokenizers is not installed.
        """
        if not self._encoders.outputs:
            raise AigcEdgeError(f"{self.path} has no text encoder: it cannot encode a prompt")
        with self._exclusive("encode"):
            return self._encoders(texts("prompt", prompt, len(prompt)))

    def close_encoders(self) -> None:
        """Release the text encoders, which may be larger than all other networks; an uncached prompt loads them again."""
        with self._exclusive("close_encoders"):
            self._encoders.close()

    def close(self) -> None:
        """Release the networks and buffers; later calls raise AigcEdgeError. Within `progress` or `watch`: after that sample."""
        with self._lock:
            self._close_later = self._sampling
            if self._sampling:
                return
            self._handle.close()
            self._encoders.close()
            self._networks.close()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Loader:
    """Loads the components of a bundle, each with its engine and precision, which are chosen when it is first loaded.

    What opening did not hash, `verify` does before it is loaded: networks of text encoders, and those made for one engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        format: str,
        engine: str,
        precision: str,
        threads: int,
        verified: bool,
        verify: Callable[[str], None],
    ) -> None:
        self._bundle, self._format, self._engine = bundle, format, engine
        self._precision, self._threads, self._verified, self._verify = precision, threads, verified, verify
        self.engines: dict[str, str] = {}
        self.precisions: dict[str, str] = {}

    def __call__(self, name: str) -> Engine:
        source, manifest, engine = self._source(name), self._bundle.manifest, self._engine
        if name in self.engines:
            engine = self.engines[name]
        elif engine == AUTO:
            from aigc_edge.runtime.auto_engine import fastest  # imports what opening with a named engine does without

            check = functools.partial(self._check, source)
            engine = fastest(self._bundle, self._format, self._threads, component=name, precision=self._precision, check=check)
        self._check(source, engine)
        precision = precision_of(manifest, self._format, engine, self._precision)
        loaded = load_engine(engine, source, threads=self._threads, precision=precision)
        self.engines[name], self.precisions[name] = engine, precision
        warn_of_deviation(manifest, name, made_as(source.model_file(engine), self._format), engine, WARNED)
        return loaded

    def _source(self, name: str) -> EngineSource:
        return EngineSource.of(self._bundle, name, self._format, verified=self._verified)

    def _check(self, source: EngineSource, engine: str) -> None:
        """Hash the component's network for `engine` and its weights, once; they may be large."""
        file = source.model_file(engine if "cpu" in ENGINES[engine].devices else "")  # others load plans
        for each in (file, f"{file}.data"):
            if each in self._bundle.manifest.files:
                self._verify(each)


def open(
    path: str | os.PathLike[str],
    *,
    engine: str = "onnxruntime",
    format: str | None = None,
    threads: int | None = None,
    verify: Verify = "used",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    size: Size | None = None,
    precision: Literal["default", "exact", "bf16", "fp16"] = "default",
    tile: Size | None = None,
    denoising_tile: Size | None = None,
    overlap: int | None = None,
) -> Pipeline:
    """Open a bundle (a folder, or one file) for sampling.

    `engine` evaluates the networks, "auto" measures once, for each of them, which CPU engine is fastest here and remembers it;
    `format` chooses among the bundle's formats (None: its default); `threads` is the number of CPU threads (None: the physical
    cores); `verify` says which files are hashed: those "used", "all" or "none". `device` is where the loop runs: on "cuda"
    (engines torch and tensorrt) noise, rows and images stay on the first GPU and all rows are one CUDA graph; "auto" is the CPU,
    except for an engine that needs a GPU. `size` is the height and width of the images, for a bundle with several (None: its
    first).

    `precision` is that of what stays in float: "exact" is float32, "bf16" and "fp16" are half precision, which OpenVINO has on
    CPUs with avx512_bf16, AMX or Arm's bf16 and fp16, and onnxruntime on Arm's bf16. The default is half precision where the
    bundle's quality card says that the format holds its budget with it and this engine, else "exact". Only in "exact" do samples
    of CPUs with and without these instructions agree but for rounding in float32.

    `tile`, height and width in pixels, decodes large images in overlapping tiles, one after the other, in less memory.
    `denoising_tile`, one of the bundle's sizes, evaluates the denoiser on overlapping tiles too and averages its outputs in every
    row (MultiDiffusion, arXiv 2302.08113), so that `size` may be any larger size; images then differ from those of one evaluation
    of the whole. `overlap`, of both, is in pixels (None: a quarter of `tile`, half of `denoising_tile`).

    onnxruntime prepacks the weights of a network when it is opened. For networks of 32 MB or more whose hashes were verified, the
    optimised model is cached in $XDG_CACHE_HOME/aigc-edge/prepacked (default ~/.cache) and memory-mapped from then on, which is
    faster and takes about the memory of its weights. The cache is limited to AIGC_EDGE_PLAN_CACHE_GB (default 20; 0 disables it).

    Raises BundleError when the bundle cannot be trusted, EngineUnavailable when the engine is not installed or cannot run here,
    and AigcEdgeError for a format or a size that the bundle does not have, a precision that the engine does not have here, and
    tiles that its networks do not take. Warns with DeviationWarning where the engine's integer kernels would compute other values
    here than those that were measured.
    """
    tiles: dict[str, Any] = {"tile": tile, "denoising_tile": denoising_tile, "overlap": overlap}
    options: dict[str, Any] = {"engine": engine, "format": format, "threads": threads, "verify": verify, "device": device}
    return Pipeline(existing(path), size=size, precision=precision, **options, **tiles)
