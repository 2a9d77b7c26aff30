"""The native loop with negative classes, rescale, a mask and noise of the caller, against the NumPy executor."""

from __future__ import annotations

import numpy as np
import pytest

from aigc_edge.diffusion import build, reference


def _options(toy, rng, n):
    return {
        "negative_classes": rng.integers(0, toy.CLASSES, n),
        "mask": rng.uniform(size=(n, *toy.SHAPE[1:])).round(1).astype(np.float32),
        "known": rng.normal(size=(n, *toy.SHAPE)).astype(np.float32),
    }


def _errors_with_every_option(pipeline, program, toy, rng):
    """Errors of the native loop and of the NumPy executor in float32 against float64, for one draw of all inputs."""
    given, classes = _options(toy, rng, 3), rng.integers(0, toy.CLASSES, 3)
    latents, noise = (rng.normal(size=(*lead, *toy.SHAPE)).astype(np.float32) for lead in ((3,), (len(program.draws), 3)))
    native = pipeline.sample(
        3, classes=classes, latents=latents, noise=noise, image=given["known"], mask=given["mask"],
        negative_classes=given["negative_classes"], output="float32",
    )  # fmt: skip
    mask = np.broadcast_to(given["mask"][:, None], latents.shape)
    np.testing.assert_array_equal(native[mask == 0], given["known"][mask == 0])

    def run(dtype):
        draws = iter(noise)
        options = {"mask": mask, "known": given["known"], "negative_classes": given["negative_classes"]}
        return reference.run(program, toy.denoiser, latents, classes=classes, draw=lambda *_: next(draws), dtype=dtype, **options)

    exact, plain = run(np.float64), run(np.float32)
    return native - exact, plain - exact, np.abs(exact).max()


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "euler_ancestral"])
def test_negative_classes_rescale_mask_and_given_noise_equal_the_numpy_executor(open_toy, toy, solver):
    rng = np.random.default_rng()
    program = build(toy.SCHEDULE, solver, 5, guidance_scale=2.7, guidance_rescale=0.6)
    pipeline = open_toy(programs={program.name: program.to_json()}, default_program=program.name)
    assert pipeline.program().draws == program.draws
    # The largest error of one draw is a matter of chance (0.6 % of draws exceed the bound with heun); the root mean squares of 16
    # draws had ratios of 0.62 to 0.98 in 100 runs for each solver.
    native, plain, sizes = zip(*(_errors_with_every_option(pipeline, program, toy, rng) for _ in range(16)), strict=True)
    floor = np.finfo(np.float32).eps * max(sizes)
    assert np.sqrt(np.mean(np.square(native))) <= 2 * np.sqrt(np.mean(np.square(plain))) + floor
