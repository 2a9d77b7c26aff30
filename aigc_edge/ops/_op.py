"""What makes a NumPy reference function an op: its signature as text, and the way to the native kernel."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any, Generic, ParamSpec, get_args, get_type_hints

from aigc_edge.errors import AigcEdgeError

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
    """One op: called, it runs the native kernel of the device its tensors are on; `reference` is its definition in NumPy.

    Tensors are NumPy arrays, torch tensors or anything else that speaks DLPack. Results are written into the arguments that the
    signature calls `out` or `inout`. Where the native core was not built, the reference runs instead (NumPy arrays only). Raises
    AigcEdgeError for a wrong dtype, shape or device, for what is not contiguous, for a read-only output and for a tensor that
    requires a gradient.
    """

    def __init__(self, reference: Callable[P, None]) -> None:
        self.reference = reference
        self.name: str = reference.__name__
        self.__doc__ = reference.__doc__
        self.__name__ = self.name
        self.__signature__ = inspect.signature(reference)

    @cached_property
    def types(self) -> dict[str, str]:
        """Parameter name → its type as the native signature writes it, such as "inout float32[S, N, E]"."""
        hints = get_type_hints(self.reference, include_extras=True)
        return {name: get_args(hints[name])[1] for name in self.__signature__.parameters}

    @cached_property
    def signature(self) -> str:
        """The text that `aigc_edge._core.ops()` must hold for this op."""
        return f"{self.name}({', '.join(f'{name}: {text}' for name, text in self.types.items())})"

    @cached_property
    def _native(self) -> Callable[..., None] | None:
        core = native_core()
        return None if core is None else core.op(self.name)

    @cached_property
    def _count(self) -> int:
        return len(self.__signature__.parameters)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        values: tuple[Any, ...] = args
        if kwargs or len(args) != self._count:
            try:
                bound = self.__signature__.bind(*args, **kwargs)
            except TypeError as error:
                raise AigcEdgeError(f"{self.name}: {error}; it is {self.signature}") from None
            bound.apply_defaults()
            values = bound.args
        run: Callable[..., None] = self._native or self.reference
        run(*values)

    def __repr__(self) -> str:
        return f"<op {self.signature}>"


def op(reference: Callable[P, None]) -> Op[P]:
    """Decorate the reference: its annotations (`Annotated[type, "in float32[N, E]"]`) are the op's schema."""
    return Op(reference)
