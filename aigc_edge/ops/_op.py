"""`@op` turns a NumPy reference function into an op that runs the native kernel of the same name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any, Generic, ParamSpec, get_args, get_type_hints

P = ParamSpec("P")


def native_core() -> ModuleType | None:
    """The compiled module `aigc_edge._core`, or None where it was not built (a bare source tree)."""
    try:
        return importlib.import_module("aigc_edge._core")
    except ModuleNotFoundError as error:
        if error.name != "aigc_edge._core":
            raise
        return None


class Op(Generic[P]):
    """One op: calling it runs the native kernel for the device of its tensors; `reference` defines it in NumPy.

    Tensors are NumPy arrays, torch tensors or any other objects with DLPack. Results are written into the arguments whose type
    says `out` or `inout`. Where the native core was not built, the reference runs instead (NumPy arrays only). Raises
    AigcEdgeError for a wrong dtype, shape or device, for a tensor that is not contiguous, for a read-only output and for a tensor
    that requires a gradient.
    """

    def __init__(self, reference: Callable[P, None]) -> None:
        self.reference = reference
        self.name = self.__name__ = reference.__name__
        self.__doc__ = reference.__doc__
        self.__signature__ = inspect.signature(reference)

    @cached_property
    def types(self) -> dict[str, str]:
        """Parameter name → its type, such as "inout float32[S, N, E]"."""
        hints = get_type_hints(self.reference, include_extras=True)
        return {name: get_args(hints[name])[1] for name in self.__signature__.parameters}

    @property
    def parameters(self) -> dict[str, tuple[Any, ...]]:
        """Parameter name → (type,) or (type, default); `aigc_edge._core.ops()` must hold the same."""
        defaults = {p.name: () if p.default is p.empty else (p.default,) for p in self.__signature__.parameters.values()}
        return {name: (kind, *defaults[name]) for name, kind in self.types.items()}

    @cached_property
    def _run(self) -> Callable[..., None]:
        core = native_core()
        return self.reference if core is None else core.op(self.name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        self._run(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def op(reference: Callable[P, None]) -> Op[P]:
    """Decorate a reference function. Its annotations (`Annotated[type, "in float32[N, E]"]`) are the op's parameter types."""
    return Op(reference)
