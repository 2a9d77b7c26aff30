"""The layout that a pipeline family derives from its folder, and the registry of families."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aigc_edge.bundle.sizes import Size, named
from aigc_edge.errors import AigcEdgeError
from aigc_edge.registry import Registry
from aigc_edge.sources.base import SourceComponent, SourceOptions, Text
from aigc_edge.sources.diffusers.folder import Folder


@dataclass(frozen=True)
class Layout:
    """The networks of a pipeline and how diffusers' own pipeline class calls its scheduler.

    `arguments` returns what the pipeline passes to `set_timesteps` besides the number of steps. `few` lists the step counts of a
    few-step distilled generator, which is compiled with its own scheduler only. `clip` is the range to which the scheduler clips
    the denoised sample. `sizes` are the image sizes if there are several, the size of the shapes first.
    """

    sample_shape: tuple[int, ...]
    output_shape: tuple[int, int, int]
    components: list[SourceComponent]
    scheduler: Any
    steps: int
    guidance_scale: float = 1.0
    num_classes: int = 0
    text: Text | None = None
    schedule: Mapping[str, Any] | None = None
    timestep_scale: float = 1.0
    arguments: Callable[[int], dict[str, Any]] = lambda steps: {}
    few: tuple[int, ...] = ()
    clip: tuple[float, float] | None = None
    sizes: tuple[Size, ...] = ()


# By the _class_name of a model_index.json.
PIPELINES: Registry[Callable[[Folder, SourceOptions], Layout]] = Registry(
    "pipeline class", "aigc_edge.sources.diffusers.pipelines", "aigc_edge.pipelines"
)


def latent_size(name: str, options: SourceOptions, default: Any, scale: int, multiple: int) -> tuple[int, int]:
    """Height and width of the latents: from the requested size, otherwise the `default` (a number or a pair).

    Raises AigcEdgeError for a size that is not a multiple of `multiple` pixels.
    """
    if options.size is None:
        sides = default if isinstance(default, (list, tuple)) else (default, default)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise AigcEdgeError(
                f"{name} does not specify its size (sample_size is {default!r}): give one, such as --size 512x512"
            )
        return int(sides[0]), int(sides[1])
    height, width = options.size
    if height <= 0 or width <= 0 or height % multiple or width % multiple:
        raise AigcEdgeError(
            f"the size {height}x{width} is not supported by {name}: height and width must be multiples of {multiple}"
        )
    return height // scale, width // scale


def image_sizes(name: str, options: SourceOptions, first: Size, multiple: int) -> tuple[Size, ...]:
    """The sizes of the images, `first` first; empty if no further sizes are requested.

    Raises AigcEdgeError for a size that is not a multiple of `multiple` pixels, as networks of several sizes require.
    """
    sizes = tuple(dict.fromkeys((first, *options.further_sizes)))
    for size in sizes if len(sizes) > 1 else ():
        if any(side <= 0 or side % multiple for side in size):
            raise AigcEdgeError(
                f"the size {named(size)} is not supported by {name} with several sizes: height and width must be multiples of "
                f"{multiple}"
            )
    return sizes if len(sizes) > 1 else ()


def one_size(name: str, options: SourceOptions, reason: str) -> None:
    """Raise AigcEdgeError if several sizes are requested from a pipeline that does not support them."""
    if options.further_sizes:
        raise AigcEdgeError(f"several sizes were given for {name}, but {reason}: compile a bundle for each")


def same(name: str, what: str, one: Any, other_what: str, other: Any) -> None:
    """Raise AigcEdgeError unless two values in the configurations of one folder agree."""
    if one != other:
        raise AigcEdgeError(
            f"the components of {name} do not fit together: {what} is {one}, {other_what} {other}; take them from one pipeline"
        )
