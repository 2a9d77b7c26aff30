"""What a call of `Pipeline.sample` asks for, as one value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from aigc_edge.errors import AigcEdgeError

if TYPE_CHECKING:  # the command line is built from this module: NumPy is imported where it is used
    from typing import TypedDict

    import numpy as np
    from numpy.typing import NDArray

    Integers = int | Sequence[int] | NDArray[np.integer[Any]]

    class SampleOptions(TypedDict, total=False):
        """The fields of `SampleRequest` but for the count, as keyword arguments."""

        seed: int
        seeds: Integers | None
        classes: Integers | None
        negative_classes: Integers | None
        prompt: Prompt | None
        negative_prompt: Prompt | None
        conditions: Mapping[str, NDArray[Any]] | None
        negative_conditions: Mapping[str, NDArray[Any]] | None
        program: str | None
        solver: str | None
        steps: int | None
        guidance_scale: float | None
        guidance_rescale: float | None
        latents: NDArray[np.float32] | None
        noise: str | NDArray[np.float32] | None
        image: NDArray[Any] | None
        strength: float
        mask: NDArray[Any] | None
        known: NDArray[np.float32] | None
        known_noise: NDArray[np.float32] | None
        output: Output


Prompt = str | Sequence[str]
Output = Literal["uint8", "float32"]
PHILOX = "philox"  # noise that the kernels draw
OUTPUTS = ("uint8", "float32")
SEEDS = 2**64
MAX_COUNT = 2**31 - 1
INT32 = -(2**31), 2**31 - 1


class Flag(NamedTuple):
    """The command-line option of a field."""

    name: str
    metavar: str
    help: str
    kind: Literal["text", "whole", "real"] = "text"
    low: float = -math.inf
    high: float = math.inf


# Fields that `aigc-edge sample` takes as they are.
FLAGS = {
    "steps": Flag("--steps", "N", "solver steps (default: the bundle's)", "whole", 1, 10_000),
    "solver": Flag("--solver", "NAME", "dpmpp_2m, euler, heun, ddim, euler_ancestral (default: the bundle's)"),
    "guidance_scale": Flag("--guidance", "X", "guidance scale, 1 is off (default: the program's)", "real", 0, 1000),
    "guidance_rescale": Flag("--rescale", "X", "guidance rescale, 0 is off (default: the program's)", "real", 0, 1),
    "negative_prompt": Flag(
        "--negative-prompt", "TEXT", "what guidance leads away from (default: the bundle's, usually the empty prompt)"
    ),
    "noise": Flag(
        "--noise",
        "SOURCE",
        "philox, or the numbers that another library draws for the seeds: torch-cpu, torch-cuda, numpy (default: %(default)s)",
    ),
    "program": Flag("--program", "NAME", "a program of the bundle instead of --solver and --steps (default: the bundle's)"),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleRequest:
    """The arguments of `Pipeline.sample`; the fields that the C struct `ae_sample_options` has too have the same names there.

    Parameters
    ----------
    count
        Number of samples N.
    seed, seeds
        Sample i is drawn from `seed` + i, or from `seeds`[i]: integers from 0 to 2^64 - 1. It does not depend on other samples.
    classes, negative_classes
        Class indices, one for all samples or one each; -1 is unconditional. Without `classes` each sample draws its class from
        its seed; without `negative_classes` guidance leads away from the unconditional output.
    prompt, negative_prompt
        Text for the bundle's text encoders, one for all samples or one each. Without `negative_prompt` the bundle says what
        guidance leads away from, usually the empty prompt.
    conditions, negative_conditions
        Inputs of the denoiser by name, float32 [N or 1, ...], in addition to or instead of a prompt.
    program, solver, steps
        The name of one of the bundle's programs, or the solver and number of steps to build one from the bundle's schedule.
    guidance_scale, guidance_rescale
        CFG scale (1: off) and rescale from 0 to 1 (Lin et al. 2024); None: the program's own.
    latents
        Initial unit-normal noise, float32 [N, *sample_shape], in place of the seeds' own.
    noise
        Where noise comes from: "philox" (this library's own), "numpy", "torch-cpu", "torch-cuda" (the numbers that these draw for
        the seeds), or the noise that the rows add, float32 [draws, N, *sample_shape] in the order of `Program.draws`.
    image, strength
        Image to image: uint8 [N, H, W, C] or float32 [N, C, H, W] in the output range, and the share of the steps to run.
    mask
        Inpainting of `image`: [N, H, W] or [H, W], 1 where the image is generated and 0 where it is kept.
    known, known_noise
        What `image` stands for in the space of the denoiser, float32 [N, *sample_shape], and the noise that brings it to the
        noise level of a row (None: the latents). Derived from `image` when that is given.
    output
        "uint8" [N, H, W, C], or "float32" [N, C, H, W] in the bundle's output range, not clamped.

    Raises
    ------
    AigcEdgeError
        For a value that no bundle accepts. What a particular bundle does not accept is found when it is sampled.
    """

    count: int = 1
    seed: int = 0
    seeds: Integers | None = None
    classes: Integers | None = None
    negative_classes: Integers | None = None
    prompt: Prompt | None = None
    negative_prompt: Prompt | None = None
    conditions: Mapping[str, NDArray[Any]] | None = None
    negative_conditions: Mapping[str, NDArray[Any]] | None = None
    program: str | None = None
    solver: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_rescale: float | None = None
    latents: NDArray[np.float32] | None = None
    noise: str | NDArray[np.float32] | None = PHILOX
    image: NDArray[Any] | None = None
    strength: float = 1.0
    mask: NDArray[Any] | None = None
    known: NDArray[np.float32] | None = None
    known_noise: NDArray[np.float32] | None = None
    output: Output = "uint8"

    def __post_init__(self) -> None:
        import numpy as np

        from aigc_edge.diffusion import checks

        n = integer("n", self.count, 1, MAX_COUNT)
        converted: dict[str, Any] = {"count": n, "seed": integer("seed", self.seed, 0, SEEDS - 1)}
        if self.output not in OUTPUTS:
            raise AigcEdgeError(f"output is {self.output!r}: it must be one of {', '.join(OUTPUTS)}")
        if self.program is not None and not isinstance(self.program, str):
            raise AigcEdgeError(f"program is {self.program!r}: it must be the name of a program of the bundle")
        if self.seeds is not None:
            converted["seeds"] = integers("seeds", self.seeds, n, 0, SEEDS - 1).astype(np.uint64)
        for name in ("classes", "negative_classes"):
            if (classes := getattr(self, name)) is not None:
                each = (
                    np.full(n, classes) if isinstance(classes, (int, np.integer)) and INT32[0] <= classes <= INT32[1] else classes
                )
                converted[name] = integers(name, each, n, *INT32).astype(np.int32)
        for name in ("guidance_scale", "guidance_rescale", "strength"):
            if (value := getattr(self, name)) is not None:
                converted[name] = checks.number(value, name)
        for name, value in converted.items():
            object.__setattr__(self, name, value)

    def part(self, first: int, count: int) -> SampleRequest:
        """The request for `count` of these samples, from number `first` on."""
        import numpy as np

        if self.seeds is not None:
            seeds: dict[str, Any] = {"seeds": np.asarray(self.seeds)[first : first + count]}
        else:
            seeds = {"seed": (self.seed + first) % SEEDS}
        per_sample = ("classes", "negative_classes", "latents", "image", "known", "known_noise")
        own = {name: value[first : first + count] for name in per_sample if (value := getattr(self, name)) is not None}
        for name in ("prompt", "negative_prompt"):
            if (text := getattr(self, name)) is not None and not isinstance(text, str):
                own[name] = text[first : first + count]
        for name in ("conditions", "negative_conditions"):
            if (arrays := getattr(self, name)) is not None:
                own[name] = {key: a if len(a) == 1 else a[first : first + count] for key, a in arrays.items()}
        if self.noise is not None and not isinstance(self.noise, str):
            own["noise"] = self.noise[:, first : first + count]
        if self.mask is not None and np.ndim(self.mask) > 2:
            own["mask"] = self.mask[first : first + count]
        return replace(self, count=count, **seeds, **own)


def as_request(n: int | SampleRequest, options: SampleOptions) -> SampleRequest:
    """`n` samples with `options`, or the request `n` with `options` in place of its own."""
    if isinstance(n, SampleRequest):
        return replace(n, **options) if options else n
    unknown = sorted(set(options) - set(SampleRequest.__dataclass_fields__))
    if unknown:
        raise TypeError(f"sample() got an unexpected keyword argument {unknown[0]!r}")
    return SampleRequest(count=n, **options)


def integer(name: str, value: Any, low: int, high: int) -> int:
    """An integer within low … high."""
    import numpy as np

    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise AigcEdgeError(f"{name} is {value!r}: it must be a whole number from {low} to {high}")
    return int(value)


def integers(name: str, values: Any, n: int, low: int, high: int) -> NDArray[Any]:
    """One integer within low … high for each of `n` samples."""
    import numpy as np

    array = np.asarray(values).reshape(-1)
    if array.size != n:
        raise AigcEdgeError(f"{name} holds {array.size} values: it must hold one for each of the {n} samples")
    if array.dtype.kind in "iu" and low <= int(array.min()) and int(array.max()) <= high:
        return array
    array = np.asarray(values, dtype=object).reshape(-1)  # numbers beyond int64, and the one that is wrong as it was written
    for value in array:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
            raise AigcEdgeError(f"{name} holds {value!r}: each must be a whole number from {low} to {high}")
    return array
