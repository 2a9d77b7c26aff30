"""The native ops, one module each: `ops.randn(...)` runs native code, `ops.randn.reference(...)` defines the result in NumPy.

The modules of this package are discovered. Each has the reference (decorated with `op`), `samples(rng)`, which yields keyword
arguments for the conformance test, and `workloads(rng)`, which yields (name, keyword arguments) for the benchmark.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TYPE_CHECKING

from aigc_edge.ops._op import Op, native_core

if TYPE_CHECKING:  # for type checkers, which cannot discover them
    from aigc_edge.ops.blend_tile import blend_tile as blend_tile
    from aigc_edge.ops.cut_tile import cut_tile as cut_tile
    from aigc_edge.ops.latent_to_rgb8 import latent_to_rgb8 as latent_to_rgb8
    from aigc_edge.ops.randn import randn as randn
    from aigc_edge.ops.solver_step import solver_step as solver_step

MODULES: dict[str, ModuleType] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
}
"""Name of every op → the module that defines it."""

OPS: dict[str, Op] = {name: getattr(module, name) for name, module in MODULES.items()}
"""Name of every op → the op."""

globals().update(OPS)  # over the modules of the same names
__all__ = ["MODULES", "OPS", "Op", "native_core", *OPS]
