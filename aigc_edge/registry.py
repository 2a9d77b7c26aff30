"""Named things that are found, not listed: solvers, families, engines, formats, ops."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from aigc_edge.errors import AigcEdgeError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to a thing of one kind.

    Things register themselves with the decorator. Looking one up imports the module of its name in `package`; where that does not
    bring it, every module of `package` (a scan, so that nobody edits a list) and the entry points of `group`, by which other
    distributions add things. A `package` that is a plain module holds all things itself.
    """

    def __init__(self, kind: str, package: str, group: str | None = None) -> None:
        self.kind = kind
        self._package = package
        self._group = group
        self._things: dict[str, T] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that stores its argument as `name`; a second thing of that name is refused."""

        def store(thing: T) -> T:
            if name in self._things:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._things[name] = thing
            return thing

        return store

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True  # before the imports: they may look things up
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
            importlib.import_module(f"{self._package}.{module.name}")

    def _load_entry_points(self) -> None:
        if self._group:
            from importlib.metadata import entry_points  # here, because it costs more than all of `import aigc_edge`

            group, self._group = self._group, None
            for point in entry_points(group=group):
                self._things.setdefault(point.name, point.load())

    def names(self) -> list[str]:
        """All names, sorted."""
        self._scan()
        self._load_entry_points()
        return sorted(self._things)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _import(self, name: str) -> None:
        """Import the module called `name`, where `package` is a package that has one."""
        module = f"{self._package}.{name}"
        if hasattr(importlib.import_module(self._package), "__path__") and importlib.util.find_spec(module) is not None:
            importlib.import_module(module)

    def _find(self, name: object) -> bool:
        if name not in self._things and isinstance(name, str) and name.isidentifier():
            self._import(name)
        if name not in self._things:
            self._scan()
        if name not in self._things:
            self._load_entry_points()
        return name in self._things

    def __contains__(self, name: object) -> bool:
        return self._find(name)

    def __getitem__(self, name: str) -> T:
        """The thing called `name`; raises AigcEdgeError that lists the names there are."""
        self._find(name)
        try:
            return self._things[name]
        except KeyError:
            raise AigcEdgeError(f"unknown {self.kind} {name!r}: choose one of {', '.join(self.names())}") from None
