"""The sampling programs of an open bundle: its own, and those that are built for its networks on request."""

from __future__ import annotations

import json
from pathlib import Path

from aigc_edge._core import Handle
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.diffusion import SOLVERS, Program, build
from aigc_edge.errors import AigcEdgeError


class Programs:
    """Programs by name; the native handle knows every one of them under the same name."""

    def __init__(self, path: Path, manifest: Manifest, handle: Handle) -> None:
        self._path, self._manifest, self._handle = path, manifest, handle
        self._known: dict[str, Program] = {}  # requested so far

    def __getitem__(self, name: str) -> Program:
        return self._known[name]

    @property
    def own(self) -> list[str]:
        """The names of the programs in the bundle; the first is the default."""
        default = self._manifest.default_program
        return [default, *sorted(set(self._manifest.programs) - {default})]

    def add(self, name: str, program: Program) -> None:
        """Add a program, or replace the one of that name. Raises AigcEdgeError for rows that do not fit the networks."""
        self._handle.add_program(json.dumps(program.to_json() | {"name": name}))
        self._known[name] = program

    def find(self, name: str | None, solver: str | None, steps: int | None, strength: float) -> str:
        """The name of the requested program, which is built if it is new; raises AigcEdgeError for an unknown one."""
        if solver is None and steps is None:
            program_name = name or self._manifest.default_program
            if program_name not in self._known:
                if program_name not in self._manifest.programs:
                    raise AigcEdgeError(f"{self._path} has no program {program_name}: choose one of {', '.join(self.own)}")
                self._known[program_name] = self._manifest.programs[program_name]
        else:
            program_name = self._build(name, solver, steps)
        if strength >= 1:
            return program_name
        part = f"{program_name} strength {strength:g}"
        if part not in self._known:
            from aigc_edge.diffusion import truncate

            self.add(part, truncate(self._known[program_name], strength))
        return part

    def _build(self, program: str | None, solver: str | None, steps: int | None) -> str:
        if program is not None:
            raise AigcEdgeError(f"program {program!r} was given together with a solver or steps: give one or the other")
        schedule = self._manifest.schedule
        if schedule is None:
            raise AigcEdgeError(f"{self._path} generates in one evaluation: it has no solver and no steps to choose")
        default = self._manifest.programs[self._manifest.default_program]
        solver = solver or named_solver(self._manifest)
        steps = int(default.meta["steps"]) if steps is None else steps
        name = f"custom {solver}-{steps}"  # a name that no bundle uses: a program of the bundle must not be replaced
        if name not in self._known:
            self.add(name, build(schedule, solver, steps, guidance_scale=default.guidance_scale))
        return name


def named_solver(manifest: Manifest) -> str:
    """The solver of the default program, to be built with other steps; raises AigcEdgeError for a tuned or an imported one."""
    name = manifest.default_program
    solver = str(manifest.programs[name].meta.get("solver"))
    if solver not in SOLVERS:
        raise AigcEdgeError(f"the default program {name!r} is made for its own number of steps: give a solver with the steps")
    return solver
