"""The state of one compilation: a manifest that grows, the files of the bundle, and finished steps that are found again."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc_edge.bundle.component import DECODER, DENOISER, SCHEDULE, Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.bundle.write import write_bundle
from aigc_edge.clock import Clock, Progress
from aigc_edge.compile.request import CompileRequest
from aigc_edge.compile.steps import Steps
from aigc_edge.diffusion import Program
from aigc_edge.engines.constants import Constants
from aigc_edge.hardware import return_memory

# Rough seconds of each stage for a small network on two cores; only their ratios matter, for the time left.
COSTS = {"export": 8.0, "judge": 25.0, "format": 14.0, "plan": 1.8, "quality": 7.5, "write": 0.5}


class Work:
    """What was made so far: `folder` holds the networks, `files` whatever else goes into the bundle."""

    def __init__(self, request: CompileRequest, folder: Path, steps: Steps, progress: Progress | None = None) -> None:
        self.request, self.folder, self.steps, self._progress = request, folder, steps, progress
        self.manifest = Manifest()  # the entries that nothing below holds
        self.files: dict[str, Path | bytes] = {}
        self.components: dict[str, Component] = {}
        self.programs: dict[str, Program] = {}
        self.default_program = ""
        self.constants: Constants | None = None
        self.judge: Path | None = None  # a folder
        self.quality: dict[str, dict[str, Any]] = {}
        self.details: dict[str, Any] = {}  # the quality card's compression reports of formats that were there before
        self.reports: dict[str, dict[str, Any]] = {}
        self.prompts: tuple[str, ...] = ()
        self.encoded: Any = None  # conditions and negative conditions of the prompts, once they were needed
        self.clock = Clock({}, None)

    @property
    def networks(self) -> dict[str, Component]:
        """The components that come in every format: all but the schedule, whose one file serves them all."""
        return {name: component for name, component in self.components.items() if name != SCHEDULE}

    @property
    def main(self) -> str:
        """The component that formats are calibrated for and blamed on: what samples are made by."""
        return DENOISER if DENOISER in self.components else DECODER

    @property
    def num_classes(self) -> int:
        return self.manifest.num_classes

    def spec(self, part: str) -> ComponentSpec:
        """What the ONNX files of a component take and give, at the default size of the images."""
        return self.components[part].onnx.at(self.manifest.default_size)

    def file(self, part: str, format: str) -> Path:
        """The ONNX file of a component in a format."""
        return self.folder / self.components[part].file(format)

    def set_file(self, part: str, format: str, engine: str, file: str) -> None:
        """Name the ONNX file of a component in a format, for `engine`, or as "file" for all others (which comes first)."""
        formats = dict(self.components[part].formats)
        formats[format] = {"file": file} if engine == "file" else dict(formats[format]) | {engine: file}
        self.components[part] = replace(self.components[part], formats=formats)

    def take(self, place: Path, name: str) -> None:
        """Put the file `name` of a finished step, and its weights beside it, into the folder, linked where that can be."""
        for suffix in ("", ".data"):
            source, final = place / (name + suffix), self.folder / (name + suffix)
            if source.exists():
                final.unlink(missing_ok=True)
                link(source, final)

    def plan_stages(self, **costs: float) -> None:
        """Begin the clock: stages by name with their costs, in order."""
        self.clock = Clock(costs, self._progress)

    def start(self, stage: str) -> None:
        """Enter a stage, with the memory of the one before given back."""
        gc.collect()
        return_memory()
        self.clock.start(stage)

    def tell(self, *report: Any) -> None:
        """Progress within a stage: …, done, total."""
        done, total = report[-2:]
        self.clock.advance(done / max(total, 1))

    def network_files(self, formats: list[str]) -> dict[str, Path | bytes]:
        """The ONNX files of these formats, the schedule's, and weights that are beside them."""
        chosen = [part.formats.get(name, {}) for part in self.networks.values() for name in formats]
        chosen += self.components[SCHEDULE].formats.values() if SCHEDULE in self.components else []
        names = {file for files in chosen for file in files.values()}
        names |= {f"{name}.data" for name in names if (self.folder / f"{name}.data").exists()}  # weights of a huge model
        return {name: self.folder / name for name in names}

    def draft(self, formats: list[str]) -> Path:
        """A bundle of the work as it stands with these formats, without plans; its files are links."""
        path = self.folder / "draft.aigc"
        files = {name: file for name, file in self.files.items() if not name.endswith(".plan")}
        components = dict(self.components)
        for name, part in self.networks.items():
            components[name] = replace(part, formats={f: part.formats[f] for f in formats if f in part.formats}, engines=())
        manifest = replace(self.whole_manifest("draft"), components=components, default_format=formats[0])
        write_bundle(path, manifest, files | self.network_files(formats), overwrite=True, link=True)
        return path

    def whole_manifest(self, name: str) -> Manifest:
        """The manifest as it stands, without its files."""
        return replace(
            self.manifest,
            name=name,
            components=self.components,
            default_program=self.default_program,
            programs=self.programs,
            quality=self.quality,
        )


@contextmanager
def begun(request: CompileRequest, progress: Progress | None = None) -> Iterator[Work]:
    """The work of a request in a temporary folder, on the disk where finished steps are kept; those go when it ends well."""
    steps = Steps()
    steps.root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=steps.root) as folder:
        try:
            yield Work(request, Path(folder), steps, progress)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("what was finished is kept, the same command goes on from it") from stop
    steps.forget()


def link(source: Path, target: Path) -> None:
    """`target` becomes `source` without a copy where the file system allows it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
