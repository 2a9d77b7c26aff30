"""The base class of sources: components that are loaded one at a time, programs, and information about the data."""

from __future__ import annotations

import contextlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.sizes import Size
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.diffusion import Program, build
from aigc_edge.diffusion.prediction import PREDICTIONS
from aigc_edge.errors import AigcEdgeError, ProgramError
from aigc_edge.files import check_regular
from aigc_edge.registry import Registry
from aigc_edge.sources.inputs import NORMAL, TIMES, random_inputs

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from aigc_edge.data.image_set import ImageSet
    from aigc_edge.export.onnx import Evaluate

# Compiled into every bundle with a known schedule, at these numbers of steps; the runtime builds others on request.
SOLVERS = ("dpmpp_2m", "euler", "heun", "ddim", "euler_ancestral")
STEPS = (10, 20)
RESULT = ("result", "layout")  # options of sources whose networks may return several tensors, or images with the channels last


class SourceComponent:
    """One network to export: its spec, a function that loads its module, and example inputs for a batch size.

    The module is loaded on first access, in eval mode and float32, and can be released, so that only one network of a large
    generator is in memory at a time. `sizes` are the image sizes if the network supports several and its shapes depend on them;
    the example inputs, in the order of the spec, then have the first size. They are random unless `example` returns them, with
    timesteps among `times`, classes below `classes` and samples of `inputs`.
    """

    def __init__(
        self,
        spec: ComponentSpec,
        load: Callable[[], nn.Module],
        example: Callable[[int, torch.Generator], tuple[Tensor, ...]] | None = None,
        sizes: Sequence[Size] = (),
        *,
        times: Callable[[], Sequence[float]] = lambda: TIMES,
        classes: int = 0,
        inputs: SampleInputs = NORMAL,
    ) -> None:
        self.spec, self.sizes, self.times, self.classes, self.inputs = spec, tuple(sizes), times, classes, inputs
        self.example = example or self._random
        self._load = load
        self._module: nn.Module | None = None

    def _random(self, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        spec = self.spec.at(self.sizes[0] if self.sizes else None)
        return random_inputs(spec, batch, generator, self.times(), self.classes, self.inputs)

    @property
    def module(self) -> nn.Module:
        """The network; raises AigcEdgeError where its weights cannot be loaded."""
        if self._module is None:
            self._module = self._load().eval().requires_grad_(False)
        return self._module

    def release(self) -> None:
        """Release the module; it is loaded again on the next access."""
        self._module = None

    def write(self, path: Path) -> dict[str, Any]:
        """Write the network as ONNX to `path`, verified against torch; returns the results of the verification."""
        from aigc_edge.export.onnx import export_component

        return export_component(self, path)

    def compare(
        self,
        whole: Path,
        evaluate: Evaluate,
        what: str,
        *,
        one_timestep: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """Compare `evaluate`, described by `what`, with torch (or the file `whole` that `write` wrote); see `export.onnx`."""
        from aigc_edge.export.onnx import compare

        return compare(self, evaluate, what, one_timestep=one_timestep, done=done)


@dataclass(frozen=True)
class Tokens:
    """Tokenizer of a text encoder: the bytes of its tokenizer.json, the length to truncate or pad to, and the padding id."""

    tokenizer: bytes
    length: int
    pad: int


@dataclass(frozen=True)
class Text:
    """Text conditioning: tokenizer by text encoder, the default negative prompt, and calibration prompts.

    The outputs of the text encoders (components `text_encoder`, `text_encoder_2`, …) are the denoiser's inputs of role
    "condition" with the same names.
    """

    encoders: Mapping[str, Tokens]
    negative: Literal["encode", "zeros"] = "encode"
    prompts: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class SourceOptions:
    """User-provided options for what a source does not specify itself."""

    role: str | None = None  # "denoiser" or "decoder"
    prediction: str | None = None  # an entry of PREDICTIONS
    schedule: Mapping[str, Any] = field(default_factory=dict)  # further members of the schedule
    size: Size | None = None  # height and width of the images, where the networks support several
    further_sizes: tuple[Size, ...] = ()  # further sizes that the bundle supports
    data: str | None = None  # a data set or folder of real images
    prompts: tuple[str, ...] = ()
    classes: int | None = None
    result: str | None = None  # the output of an ONNX file or module that is its result
    layout: Literal["nchw", "nhwc"] | None = None  # "nchw" or "nhwc", of the images that an ONNX file or module takes and returns
    # By the name of an input of an ONNX file: its role, a number that it always has, or a .npy file with examples of a condition.
    inputs: Mapping[str, str] = field(default_factory=dict)
    calibration: str | None = None  # what a network of one evaluation takes: see SampleInputs.parse
    output_range: tuple[float, float] | None = None  # of the images that an ONNX file or module returns; None: -1 … 1

    def __post_init__(self) -> None:
        low, high = self.output_range or (0.0, 1.0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise AigcEdgeError(f"the output range {low:g} … {high:g} was given: give two finite numbers, the lower first")

    @property
    def sizes(self) -> tuple[Size, ...]:
        """All requested sizes, the default first."""
        return () if self.size is None else tuple(dict.fromkeys((self.size, *self.further_sizes)))

    def denoiser_schedule(self) -> dict[str, Any] | None:
        """The schedule of a denoiser, None for a decoder; raises AigcEdgeError where the options contradict each other."""
        if self.role == "denoiser":
            if self.prediction is None:
                raise AigcEdgeError(
                    f"a denoiser was given without --prediction: choose what it predicts ({', '.join(PREDICTIONS)})"
                )
            return {"prediction": self.prediction, **self.schedule}
        if self.prediction or self.schedule:
            raise AigcEdgeError("--prediction or --schedule was given for a decoder: they belong to --role denoiser")
        return None

    def refuse(self, what: str, *names: str) -> None:
        """Raise AigcEdgeError when one of the options `names` was given although `what` specifies it itself."""
        for name in names:
            if getattr(self, name):
                option = "range" if name == "output_range" else name
                raise AigcEdgeError(f"--{option} was given, but {what} specifies it itself: leave the option out")


def sample_inputs(value: Any, spec: ComponentSpec, what: str, classes: int) -> SampleInputs:
    """What `value` says that the network `spec` is fed with (see `SampleInputs.parse`); `what` describes it in messages.

    Raises AigcEdgeError for a denoiser, whose inputs are the states of its own program, and for arrays that do not fit the
    network, which takes labels of `classes` classes.
    """
    inputs = SampleInputs.parse(value)
    if value is None:
        return inputs
    if spec.name == "denoiser":
        raise AigcEdgeError(
            f"the inputs {inputs} were given for {what}, a denoiser: it is calibrated on the states of its own program, leave "
            "them out"
        )
    known = {tensor.name: tensor for tensor in spec.inputs}
    unknown = sorted(set(inputs.arrays) - set(known))
    sample = next(tensor.name for tensor in spec.inputs if tensor.role == "sample")
    if unknown or (inputs.arrays and sample not in inputs.arrays):
        raise AigcEdgeError(
            f"the arrays {', '.join(inputs.arrays)} were given as inputs of {what}: name them as its inputs {', '.join(known)}"
        )
    for name, array in inputs.arrays.items():
        shape = tuple(int(size) for size in known[name].shape[1:])
        if array.shape[1:] != shape:
            raise AigcEdgeError(f"the inputs {name!r} have the shape {list(array.shape)}: {what} takes {['N', *shape]}")
        if known[name].role == "class":
            labels = array.astype("float64")
            wrong = labels[(labels < 0) | (labels >= classes) | (labels % 1 != 0)]
            if len(wrong):
                raise AigcEdgeError(
                    f"the inputs {name!r} hold {wrong[0]:g}: {what} takes labels, whole numbers from 0 to {classes - 1}"
                )
    return inputs


class Source(ABC):
    """A generator to compile.

    A kind of source is one class with `@SOURCES.register(name)`; `claims` decides which command-line arguments it handles.
    """

    name: str  # of the bundle, unless another is requested
    family: str  # "diffusion", "gan", the class of a pipeline, "module", "onnx"
    sample_shape: tuple[int, ...]  # of the state or latents of one sample
    output_shape: tuple[int, int, int]  # C, H, W of an image
    sizes: tuple[Size, ...] = ()  # image sizes, the size of these shapes first; empty: only one
    output_range: tuple[float, float] = (-1.0, 1.0)
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    guidance_scale: float = 1.0  # of its programs, unless another is requested
    steps: int = 10  # of its default program, unless another number is requested
    samples: int = 64  # evaluated per format, unless another number is requested
    text: Text | None = None
    conditions: Mapping[str, Any] = {}  # examples, arrays [k, ...] by name, of conditions without a text encoder
    negative: Mapping[str, Any] = {}
    inputs: SampleInputs = NORMAL  # of a network that is evaluated once
    schedule: Mapping[str, Any] | None = None  # arguments of `diffusion.build`; None: one evaluation, or custom programs only
    images: str | None = None  # a data set or folder of real images for evaluation
    folder: Path | None = None  # a folder where derived data (the judge) may be stored
    opened: tuple[str, SourceOptions] | None = None  # arguments of `open_source`

    @classmethod
    @abstractmethod
    def claims(cls, text: str) -> bool:
        """Whether `text` refers to a source of this kind; cheap, never raises."""

    @classmethod
    @abstractmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        """Open the source without loading weights; raises AigcEdgeError when it is invalid."""

    @classmethod  # noqa: B027 - most sources take long to read
    def check(cls, text: str, options: SourceOptions) -> None:
        """Raise AigcEdgeError for what is wrong with the source, as far as that shows within a second; `open` does so too."""

    @abstractmethod
    def components(self) -> list[SourceComponent]:
        """The networks: "denoiser" and/or "decoder", and text encoders. Nothing is loaded yet."""

    def programs(self, solver: str | None, steps: int | None, guidance_scale: float | None) -> list[Program]:
        """The programs of the bundle, the default first; None selects the source's default."""
        if self.schedule is None:
            return [Program("one-shot", slots=1, init_scale=1.0, rows=())]
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        listed = (
            self.schedule.get("sigmas") if self.schedule.get("kind") == "table" and not self.schedule.get("resample") else None
        )
        default_steps = self.steps if listed is None else len(listed) - 1
        programs = [build(self.schedule, solver or SOLVERS[0], steps or default_steps, guidance_scale=scale)]
        for name, n in itertools.product(SOLVERS, STEPS):
            with contextlib.suppress(ProgramError):  # a schedule may list its own noise levels
                programs.append(build(self.schedule, name, n, guidance_scale=scale))
        return distinct(programs)

    def timesteps(self) -> tuple[float, ...]:
        """The network's timesteps in all its programs, at which it is checked."""
        return tuple(sorted({row.timestep for program in self.programs(None, None, None) for row in program.rows}))

    def identity(self, part: str) -> str | None:
        """A fingerprint of everything that the exported network `part` depends on; None: unknown."""
        return None

    def data(self) -> ImageSet | None:
        """Real images for evaluation, at the output size, or None; raises DataError where they cannot be read."""
        from aigc_edge.data.load import load

        return None if self.images is None else load(self.images, self.output_shape[1])

    @property
    def judged(self) -> bool:
        """Whether there are real images for evaluation, without loading them."""
        return self.images is not None

    def model_config(self) -> dict[str, Any] | None:
        """The model configuration from which the torch engine rebuilds the modules; None: not supported."""
        return None

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Origin and licence of weights and data: the manifest's "provenance" without the command."""


def distinct(programs: Sequence[Program]) -> list[Program]:
    """The first program of each name, in order."""
    by_name: dict[str, Program] = {}
    for program in programs:
        by_name.setdefault(program.name, program)
    return list(by_name.values())


SOURCES: Registry[type[Source]] = Registry("source", "aigc_edge.sources", "aigc_edge.sources", Source)


def open_source(text: str, options: SourceOptions | None = None) -> Source:
    """The source that `text` refers to: a run's folder, a diffusers folder, an ONNX file, or `package:function`.

    Raises AigcEdgeError that lists the kinds of sources.
    """
    kind, options = _kind_of(text), options or SourceOptions()
    source = kind.open(text, options)
    source.opened = (text, options)
    return source


def check_source(text: str, options: SourceOptions) -> None:
    """Raise AigcEdgeError for a source that cannot be opened, as far as that shows before anything heavy is imported."""
    _kind_of(text).check(text, options)


def _kind_of(text: str) -> type[Source]:
    check_regular(Path(text))
    for kind in SOURCES:
        if SOURCES[kind].claims(text):
            return SOURCES[kind]
    problem = "is not a source" if Path(text).exists() else "does not exist"
    raise AigcEdgeError(
        f"{text} {problem}: give a folder that 'aigc-edge train' wrote (config.json), a diffusers folder (model_index.json), an "
        "ONNX file or package:function"
    )
