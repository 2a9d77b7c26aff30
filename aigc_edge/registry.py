"""Named objects that are discovered instead of listed: solvers, engines, formats, pipelines; and those of other distributions."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aigc_edge.errors import AigcEdgeError, ExtensionWarning

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to objects of one kind.

    Objects register themselves with the decorator `register`. A lookup imports the module of that name in `package`, then every
    module of `package` (which may also be one module that holds them all), then the entry point of that name in `group`, by which
    another distribution adds an object. An extension cannot replace a name of this package. `base` is the class that extensions
    must derive from, if any.
    """

    def __init__(self, kind: str, package: str, group: str | None = None, base: type | None = None) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._base = base
        self._things: dict[str, T] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that stores its argument as `name`; raises ValueError for a second object of that name."""

        def store(value: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = value
            return value

        return store

    def _import(self, name: str) -> None:
        """Import the module called `name`, where `package` is a package that has one."""
        module = f"{self._package}.{name}"
        if hasattr(importlib.import_module(self._package), "__path__") and importlib.util.find_spec(module) is not None:
            importlib.import_module(module)

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True  # before the imports, which may look up names
        import pkgutil

        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
            importlib.import_module(f"{self._package}.{module.name}")

    def _extend(self, name: str | None = None) -> None:
        """Load the extensions, or the one called `name`."""
        for point, value in extensions(self._group, name) if self._group else ():
            if self._base is not None and not (isinstance(value, type) and issubclass(value, self._base)):
                skip(point, f"is not a subclass of {self._base.__name__}")
            elif self._things.setdefault(point.name, value) is not value:
                skip(point, f"has the name of another {self.kind}")

    def names(self) -> list[str]:
        """All names, sorted."""
        self._scan()
        self._extend()
        return sorted(self._things)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _find(self, name: object) -> bool:
        if name not in self._things and isinstance(name, str):
            if name.isidentifier():
                self._import(name)
            if name not in self._things:
                self._scan()
            if name not in self._things:
                self._extend(name)
        return name in self._things

    def __contains__(self, name: object) -> bool:
        return self._find(name)

    def __getitem__(self, name: str) -> T:
        """The object called `name`; raises AigcEdgeError that lists the names there are."""
        if self._find(name):
            return self._things[name]
        raise AigcEdgeError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}")


def extensions(group: str, name: str | None = None) -> Iterator[tuple[EntryPoint, Any]]:
    """The entry points of `group` (those called `name`) in installed distributions, and what each one loads.

    One that cannot be loaded is left out, with an ExtensionWarning that names its distribution.
    """
    for point in _entry_points():
        if point.group == group and name in (None, point.name):
            try:
                value = point.load()
            except (Exception, SystemExit) as error:  # whatever another distribution does wrong
                skip(point, f"cannot be loaded ({type(error).__name__}: {error})")
                continue
            yield point, value


@functools.cache
def _entry_points() -> tuple[EntryPoint, ...]:
    from importlib.metadata import distributions  # costs more than all of `import aigc_edge`

    found: dict[str, list[EntryPoint]] = {}
    for distribution in distributions():  # faster than entry_points(), which parses those of every distribution
        if "aigc_edge." in (distribution.read_text("entry_points.txt") or ""):
            points = [point for point in distribution.entry_points if point.group.startswith("aigc_edge.")]
            found.setdefault(distribution.name, points)  # the first one on the path is what is imported
    return tuple(point for points in found.values() for point in points)


@functools.cache
def skip(point: EntryPoint, reason: str) -> None:
    """Say once that the extension of an entry point is left out, and why, in one sentence."""
    owner = f"the distribution {point.dist.name}" if point.dist else "an installed distribution"
    sentence = f"{point.name!r} ({point.group}) of {owner} {reason}; it is left out: update or uninstall that distribution"
    warnings.warn(" ".join(sentence.split()), ExtensionWarning, stacklevel=2)
