"""What every source of a bundle offers: components that are loaded one at a time, programs, and what is known of its data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigc_edge.bundle.sizes import Size
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.diffusion import Program, build
from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from aigc_edge.data.image_set import ImageSet
    from aigc_edge.export.onnx import Evaluate

# Compiled into every bundle whose schedule is known, at these numbers of steps; the runtime builds others when asked.
SOLVERS = ("dpmpp_2m", "euler", "heun", "ddim", "euler_ancestral")
STEPS = (10, 20)


class Part:
    """One network to export: its spec, how its module is loaded, and example inputs of a batch size, in the order of the spec.

    The module is loaded when it is first asked for, in eval mode and float32, and can be let go: of a large generator only one
    network has to be in memory at a time. `sizes` are those of the images where the network serves several and its shapes follow
    them; the example is then of the first.
    """

    def __init__(
        self,
        spec: ComponentSpec,
        load: Callable[[], nn.Module],
        example: Callable[[int, torch.Generator], tuple[Tensor, ...]],
        sizes: Sequence[Size] = (),
    ) -> None:
        self.spec, self.example, self.sizes = spec, example, tuple(sizes)
        self._load = load
        self._module: nn.Module | None = None

    @property
    def module(self) -> nn.Module:
        """The network; raises AigcEdgeError where its weights cannot be loaded."""
        if self._module is None:
            self._module = self._load().eval().requires_grad_(False)
        return self._module

    def release(self) -> None:
        """Let the module go; it is loaded again when it is asked for."""
        self._module = None

    def write(self, path: Path) -> dict[str, Any]:
        """Write the network as ONNX to `path`, checked against torch; returns the figures of the check."""
        from aigc_edge.export.onnx import export_component

        return export_component(self, path)

    def compare(
        self,
        whole: Path,
        evaluate: Evaluate,
        what: str,
        *,
        seed: int = 0,
        one_timestep: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> list[dict[str, Any]]:
        """Hold `evaluate`, the network `what`, to torch (or to the file `whole` that `write` wrote): see `export.onnx`."""
        from aigc_edge.export.onnx import compare

        return compare(self, evaluate, what, seed=seed, one_timestep=one_timestep, done=done)


@dataclass(frozen=True)
class Tokens:
    """How a text encoder wants its tokens: the bytes of a tokenizer.json, the length to cut or pad to, with which id."""

    tokenizer: bytes
    length: int
    pad: int


@dataclass(frozen=True)
class Text:
    """How prompts become conditions: tokens by text encoder; what an absent negative prompt is; prompts to calibrate with.

    The outputs of the text encoders (components `text_encoder`, `text_encoder_2`, …) feed the denoiser's inputs of role
    "condition" of the same names.
    """

    encoders: Mapping[str, Tokens]
    negative: Literal["encode", "zeros"] = "encode"
    prompts: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a source that does not say it itself."""

    role: str | None = None  # "denoiser" or "decoder"
    prediction: str | None = None  # an entry of PREDICTIONS
    schedule: Mapping[str, Any] = field(default_factory=dict)  # further members of the schedule
    size: Size | None = None  # height and width of the images, where the networks take several
    further_sizes: tuple[Size, ...] = ()  # that the bundle serves beside it
    data: str | None = None  # a data set or folder of real images
    prompts: tuple[str, ...] = ()
    classes: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)  # name of an input of an ONNX file → its role

    @property
    def sizes(self) -> tuple[Size, ...]:
        """Every size that was asked for, the default first."""
        return () if self.size is None else tuple(dict.fromkeys((self.size, *self.further_sizes)))

    def refuse(self, what: str, *names: str) -> None:
        """Raise AigcEdgeError when one of the options `names` was given, which `what` says itself."""
        for name in names:
            if getattr(self, name):
                raise AigcEdgeError(f"--{name} was given, but {what} says that itself: leave the option out")


class Source(ABC):
    """A generator to compile.

    A kind of source is one class with `@SOURCES.register(name)`; `claims` says which texts on a command line are its own.
    """

    name: str  # of the bundle, unless another is asked for
    family: str  # "diffusion", "gan", the class of a pipeline, "module", "onnx"
    sample_shape: tuple[int, ...]  # of the state or latents of one sample
    output_shape: tuple[int, int, int]  # C, H, W of an image
    sizes: tuple[Size, ...] = ()  # of the images, the one of these shapes first; empty: there is one
    output_range: tuple[float, float] = (-1.0, 1.0)
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    guidance_scale: float = 1.0  # of its programs, unless another is asked for
    steps: int = 10  # of its default program, unless another number is asked for
    samples: int = 64  # a format that are measured, unless another number is asked for
    text: Text | None = None
    conditions: Mapping[str, Any] = {}  # examples, arrays [k, ...] by name, of what no text encoder gives
    negative: Mapping[str, Any] = {}
    schedule: Mapping[str, Any] | None = None  # what `diffusion.build` takes; None: one evaluation, or own programs only
    folder: Path | None = None  # a folder that may keep what is made of it (the judge)
    opened: tuple[str, SourceOptions] | None = None  # what `open_source` was given

    @classmethod
    @abstractmethod
    def claims(cls, text: str) -> bool:
        """Whether `text` names a source of this kind; cheap, and never raises."""

    @classmethod
    @abstractmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        """Look at the source without loading weights; raises AigcEdgeError that says what is wrong with it."""

    @abstractmethod
    def parts(self) -> list[Part]:
        """The networks: "denoiser" and/or "decoder", and text encoders. Nothing is loaded yet."""

    def programs(self, solver: str | None, steps: int | None, guidance_scale: float | None) -> list[Program]:
        """The programs of the bundle, the default first; None is the source's own choice."""
        if self.schedule is None:
            return [Program("one-shot", slots=1, init_scale=1.0, rows=())]
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        chosen = [(solver or SOLVERS[0], steps or self.steps), *((name, n) for name in SOLVERS for n in STEPS)]
        return [build(self.schedule, name, n, guidance_scale=scale) for name, n in dict.fromkeys(chosen)]

    def identity(self, part: str) -> str | None:
        """What the exported network of that name depends on, as text: equal means equal; None: it cannot be told."""
        return None

    def data(self) -> ImageSet | None:
        """Real images to judge by, in the size of the output; None: none are known."""
        return None

    @property
    def judged(self) -> bool:
        """Whether there are real images to judge by, known without loading them."""
        return False

    def model_config(self) -> dict[str, Any] | None:
        """What the torch engine rebuilds the modules of the family from; None: it cannot."""
        return None

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Where weights and data came from and on what terms: the manifest's "provenance" without the command."""


SOURCES: Registry[type[Source]] = Registry("source", "aigc_edge.sources", "aigc_edge.sources", Source)


def open_source(text: str, options: SourceOptions | None = None) -> Source:
    """The source that `text` names: a run's folder, a diffusers folder, an ONNX file, or `package:function`.

    Raises AigcEdgeError that lists what there could be.
    """
    for kind in SOURCES:
        if SOURCES[kind].claims(text):
            options = options or SourceOptions()
            found = SOURCES[kind].open(text, options)
            found.opened = (text, options)
            return found
    there = "is none of them" if Path(text).exists() else "does not exist"
    raise AigcEdgeError(
        f"{text} {there}: give a folder that 'aigc-edge train' wrote (config.json), a diffusers folder (model_index.json), an "
        "ONNX file or package:function"
    )
