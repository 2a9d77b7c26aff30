"""The state of one compilation: the manifest and files collected so far, and the cache of finished stages."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE, Component
from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Clock, Progress
from aigc_edge.compile.request import REFERENCE, CompileRequest
from aigc_edge.compile.stage_cache import StageCache
from aigc_edge.diffusion import Program
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import BudgetError
from aigc_edge.hardware import return_memory

# Approximate seconds of each stage for a small network on two cores; only the ratios matter, for the time left.
COSTS = {"export": 8.0, "judge": 25.0, "format": 14.0, "plan": 1.8, "quality": 7.5, "write": 0.5}


class CompileState:
    """The results so far: `folder` holds the networks, `files` everything else that goes into the bundle."""

    def __init__(self, request: CompileRequest, folder: Path, stages: StageCache, progress: Progress | None = None) -> None:
        self.request, self.folder, self.stages, self._progress = request, folder, stages, progress
        self.manifest = Manifest()  # only the members that no attribute below holds
        self.files: dict[str, Path | bytes] = {}
        self.components: dict[str, Component] = {}
        self.programs: dict[str, Program] = {}
        self.default_program = ""
        self.constants: Constants | None = None
        self.judge: Path | None = None  # a folder
        self.quality: dict[str, dict[str, Any]] = {}
        self.details: dict[str, Any] = {}  # compression reports of the formats that the bundle already had
        self.reports: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, dict[str, dict[str, Any]]] = {}  # what each component of a format is stored in, and why
        self.failed: dict[str, str] = {}  # formats that missed their budget, and how
        self.prompts: tuple[str, ...] = ()
        self.inputs = SampleInputs()  # of a program without rows
        # Latents and images of a decoder behind a denoiser, computed on first use.
        self.decoded: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None = None
        self.encoded: Any = None  # conditions and negative conditions of the prompts, computed on first use
        self.clock = Clock({}, None)

    @property
    def networks(self) -> dict[str, Component]:
        """The components that exist in every format: all but the schedule, which has one file for all formats."""
        return {name: component for name, component in self.components.items() if name != SCHEDULE}

    @property
    def main(self) -> str:
        """The component that generates samples, for which formats are calibrated."""
        return DENOISER if DENOISER in self.components else DECODER

    @property
    def num_classes(self) -> int:
        return self.manifest.num_classes

    def spec(self, part: str) -> ComponentSpec:
        """Inputs and outputs of a component's ONNX files at the default image size."""
        return self.components[part].onnx.at(self.manifest.default_size)

    def file(self, part: str, format: str) -> Path:
        """The ONNX file of a component in a format."""
        return self.folder / self.components[part].file(format)

    def set_file(self, part: str, format: str, engine: str, file: str) -> None:
        """Set the ONNX file of a component in a format for `engine`, or as "file", to be set first, for all other engines."""
        formats = dict(self.components[part].formats)
        formats[format] = {"file": file} if engine == "file" else dict(formats[format]) | {engine: file}
        self.components[part] = self.components[part]._replace(formats=formats)

    def add_file(self, folder: Path, name: str) -> None:
        """Link (or copy) the file `name` of a finished stage's folder, and its external weights, into the workspace."""
        for suffix in ("", ".data"):
            source, final = folder / (name + suffix), self.folder / (name + suffix)
            if source.exists():
                final.unlink(missing_ok=True)
                link(source, final)

    def plan_stages(self, parts: int, before: Mapping[str, float], after: Mapping[str, float]) -> None:
        """Start the clock for a request with `parts` networks; `before` and `after` are the costs of further stages."""
        converting = {f"making {name}": COSTS["format"] * parts for name in self.request.derived}
        measuring = {f"measuring {name}": COSTS["quality"] for name in (REFERENCE, *self.request.derived)}
        building = {"building engines": COSTS["plan"] * len(self.request.plans) * parts}
        stages = {**before, **converting, **measuring, **building, **after, "writing": COSTS["write"]}
        self.clock = Clock(stages, self._progress)

    def start(self, stage: str) -> None:
        """Enter a stage, after returning free memory to the system."""
        gc.collect()
        return_memory()
        self.clock.start(stage)

    def advance(self, *report: Any) -> None:
        """Report progress within a stage; the last two arguments are done and total."""
        done, total = report[-2:]
        self.clock.advance(done / max(total, 1))

    def network_files(self, formats: list[str]) -> dict[str, Path | bytes]:
        """The ONNX files of these formats and of the schedule, with their external weights."""
        chosen = [part.formats.get(name, {}) for part in self.networks.values() for name in formats]
        chosen += self.components[SCHEDULE].formats.values() if SCHEDULE in self.components else []
        names = {file for files in chosen for file in files.values()}
        names |= {f"{name}.data" for name in names if (self.folder / f"{name}.data").exists()}  # external weights
        return {name: self.folder / name for name in names}

    def draft(self, formats: list[str], exact: Collection[str] = ()) -> Path:
        """Write a temporary bundle of the current state with these formats, without plans; its files are links.

        The components `exact` have their fp32 network in place of that of the first format; fp32 is to be among the formats then.
        """
        path = self.folder / "draft.aigc"
        files = {name: file for name, file in self.files.items() if not name.endswith(".plan")}
        components = dict(self.components)
        for name, part in self.networks.items():
            chosen = {f: part.formats[f] for f in formats if f in part.formats}
            chosen |= {formats[0]: part.formats[REFERENCE]} if name in exact else {}
            components[name] = part._replace(formats=chosen, engines=())
        manifest = self.whole_manifest("draft")._replace(components=components, default_format=formats[0])
        write_bundle(path, manifest, files | self.network_files(formats), overwrite=True, link=True)
        return path

    def whole_manifest(self, name: str) -> Manifest:
        """The complete manifest of the current state, without its files."""
        return self.manifest._replace(
            name=name,
            components=self.components,
            default_program=self.default_program,
            programs=self.programs,
            quality=self.quality,
        )


@contextmanager
def open_workspace(request: CompileRequest, progress: Progress | None = None) -> Iterator[CompileState]:
    """The state of a new compilation in a temporary folder beside the stage cache, whose used stages are deleted on success."""
    stages = StageCache()
    stages.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=stages.root) as folder:
        try:
            yield CompileState(request, Path(folder), stages, progress)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("finished stages are kept: run the same command to resume") from stop
    stages.remove_used()


def raise_failed(state: CompileState, out: str | os.PathLike[str]) -> None:
    """Raise BudgetError if formats missed their budget, after the bundle `out` was written with the others."""
    if state.failed:
        raise BudgetError(
            f"{'; '.join(state.failed.values())}; {os.fspath(out)} is written without {', '.join(state.failed)}, it has "
            f"{', '.join(state.components[state.main].formats)}"
        )


def link(source: Path, target: Path) -> None:
    """Hard-link `target` to `source`, or copy it if the file system does not support links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
