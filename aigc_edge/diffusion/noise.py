"""Sources of noise: the library's own, drawn in the kernels, or that of other tools for the same seeds, for comparable images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_edge.diffusion import checks
from aigc_edge.errors import ProgramError
from aigc_edge.ops._philox import philox
from aigc_edge.registry import Registry

Stream = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""The noise of one sample: each call returns the next standard normals of a shape."""

PHILOX = "philox"  # the library's own, drawn in the kernels
CUDA_THREADS = 24_576  # the fewest threads with which torch fills a tensor, on an AGX Orin and larger GPUs
NOISES: Registry[Callable[[int], Stream]] = Registry("noise source", __name__, "aigc_edge.noises")


@NOISES.register("numpy")
def numpy_stream(seed: int) -> Stream:
    """`numpy.random.default_rng(seed).standard_normal(shape, dtype=float32)`, call after call."""
    generator = np.random.default_rng(seed)
    return lambda shape: generator.standard_normal(shape, dtype=np.float32)


@NOISES.register("torch-cpu")
def torch_cpu_stream(seed: int) -> Stream:
    """`torch.randn` with a CPU generator of that seed, as diffusers draws with a list of generators."""
    import torch

    generator = torch.Generator().manual_seed(_signed(seed))
    return lambda shape: torch.randn(shape, generator=generator).numpy()


@NOISES.register("torch-cuda")
def torch_cuda_stream(seed: int) -> Stream:
    """`torch.randn` with a CUDA generator of that seed: by torch where it has a GPU, else emulated here, to 1e-6.

    For tensors with more elements than the GPU has threads, the values depend on the GPU: these need one.
    """
    try:
        import torch

        if torch.cuda.is_available():
            generator = torch.Generator("cuda").manual_seed(_signed(seed))
            return lambda shape: torch.randn(shape, generator=generator, device="cuda").cpu().numpy()
    except ImportError:
        pass
    calls = 0

    def draw(shape: tuple[int, ...]) -> NDArray[np.float32]:
        nonlocal calls
        elements = int(np.prod(shape))
        if elements > CUDA_THREADS:
            raise ProgramError(
                f"noise as torch draws it on a GPU depends on the GPU for samples of more than {CUDA_THREADS} numbers, these "
                f"have {elements}: use a machine with that GPU, or the noise source torch-cpu"
            )
        # curand's Philox: one thread an element, which takes the first of the four normals of its own subsequence.
        words = philox((calls, 0, np.arange(elements), 0), (seed & 0xFFFFFFFF, seed >> 32))
        calls += 1
        u, v = (word.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33) for word in words[:2])
        radius = np.sqrt(np.float32(-2) * np.log(u))
        return (radius * np.sin(np.float32(2 * np.pi) * v)).reshape(shape)

    return draw


def _signed(seed: int) -> int:
    return seed - (1 << 64) if seed >= 1 << 63 else seed  # torch takes the bits, in a signed number


def draw(source: str, seeds: Sequence[int] | NDArray[np.uint64], shape: tuple[int, ...], count: int) -> NDArray[np.float32]:
    """`count` draws of unit normal noise [count, N, *shape] from `source`; sample i uses seeds[i], and draw 0 is the latents.

    Raises ProgramError for an unknown source.
    """
    streams = [checks.look_up(NOISES, source)(int(seed)) for seed in seeds]
    return np.stack([np.stack([stream(shape) for stream in streams]) for _ in range(count)])
