"""Image to image: the last steps of a program, which start from an image with noise added."""

from __future__ import annotations

from aigc_edge.diffusion.builder import build
from aigc_edge.diffusion.program import Program
from aigc_edge.errors import ProgramError


def truncate(program: Program, strength: float) -> Program:
    """The last int(strength · steps) steps of `program`; its latents are made by `Program.add_noise` (Meng et al. 2022).

    The program is built (or imported, which needs diffusers and torch) again with that `strength`, 0 … 1, so that no step depends
    on steps that were left out. Raises ProgramError for a program whose `meta` does not say what it was built from, and where no
    step is left.
    """
    meta = program.meta
    if meta.get("source") == "diffusers":
        from aigc_edge.diffusion.importer import import_again  # here: built programs do without the importer

        return import_again(program, strength)
    if "source" in meta or not {"schedule", "solver", "steps"} <= set(meta):
        raise ProgramError(f"program {program.name!r} does not say what it was built from: build one with strength={strength}")
    options = {**meta.get("options", {}), "strength": strength}
    return build(meta["schedule"], meta["solver"], meta["steps"], guidance_scale=program.guidance_scale, **options)
