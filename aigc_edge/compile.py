"""From a training run to a bundle: export, formats, engines, quality on the same noise, programs, one atomic write."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigc_edge import targets as known_targets
from aigc_edge.clock import Clock, Progress
from aigc_edge.diffusion import Program, build
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.base import physical_cores
from aigc_edge.engines.constants import SCHEDULE, Constants
from aigc_edge.engines.tensorrt import installed
from aigc_edge.engines.tensorrt_plan import PlanRequest, build_plan
from aigc_edge.errors import AigcEdgeError
from aigc_edge.export.bundle import write_bundle
from aigc_edge.export.provenance import created, provenance, tools
from aigc_edge.images import grid, to_uint8, write_png
from aigc_edge.spec import ComponentSpec
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.formats import Format
    from aigc_edge.models.base import Component, Run

REFERENCE = "fp32"  # what every other format is made from and compared with
# Compiled into every bundle at these numbers of steps; the runtime builds others when asked, an app adds its own.
SOLVERS = ("dpmpp_2m", "euler", "heun", "ddim", "euler_ancestral")
STEPS = (10, 20)
CALIBRATION = 64  # samples whose trajectories calibrate and test a format
PREVIEW_COLUMNS, PREVIEW_ROWS = 8, 16
# Rough seconds of each stage for a small network on two cores; only their ratios matter, for the time left.
COSTS = {"export": 8.0, "judge": 25.0, "format": 14.0, "plan": 1.8, "quality": 7.5, "write": 0.5}


def compile_run(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    formats: Sequence[str] = (REFERENCE,),
    targets: Sequence[str] = ("x86-cpu",),
    solver: str = "dpmpp_2m",
    steps: int = 10,
    guidance_scale: float = 2.0,
    budget: float | None = None,
    samples: int = 1000,
    weights: bool = True,
    schedule_constants: bool = True,
    overwrite: bool = False,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compile the training run in the folder `run` into the bundle `out` and return the bundle's manifest.

    `formats` may carry options ("int8:psnr=35"); the first is the bundle's default. Every format is measured against fp32 on
    `samples` images from the same noise; with `budget` a bundle is refused whose Fréchet distance exceeds that many times fp32's.
    Without `weights` the bundle lacks the copy that the torch engine loads, and is smaller. `schedule_constants` takes out of the
    denoiser what depends on the timestep alone: its results come from a table in the bundle. Engines are built for the GPU
    targets that can be built for here; for the others the bundle carries the ONNX files, from which the device builds its own.
    `progress(what, done, seconds_left)` is called as the work goes on, `done` in 0 … 1. Raises AigcEdgeError (BudgetError for
    quality) for whatever a user can mend, before the long work where it can be known; nothing half-written is left.
    """
    from aigc_edge.models.base import load_run

    named = [name for target in targets for name in (here() if target == "auto" else [target])]
    wanted, devices = _parse(formats), known_targets.expand(dict.fromkeys(named))
    _check(Path(out), list(wanted), devices, overwrite)
    if samples < 2:
        raise AigcEdgeError(f"samples is {samples}: a format is measured on at least 2 images, on hundreds to measure it well")
    if budget is not None and not budget >= 1:
        raise AigcEdgeError(f"the budget is {budget}: it is how many times {REFERENCE}'s Fréchet distance is allowed, at least 1")
    loaded = load_run(Path(run))
    options = [f"--format {name}" for name in formats] + [f"--target {name}" for name in targets]
    command = " ".join(["aigc-edge compile", loaded.path.name, *options])
    with tempfile.TemporaryDirectory(prefix="aigc-edge-") as folder:
        work = Compilation(loaded, Path(folder), wanted, devices, threads or physical_cores(), seed, command, progress)
        work.make_programs(solver, steps, guidance_scale)
        work.export(weights, schedule_constants)
        work.make_judge()
        work.compress()
        work.build_engines()
        work.measure(samples, budget)
        work.clock.start("writing the bundle")
        manifest = write_bundle(out, work.manifest(Path(out).stem), work.files, overwrite=overwrite)
        work.clock.finish()
    return manifest


def here() -> list[str]:
    """Names of the targets that this machine is: its CPU, and its GPU where there is one."""
    device = cuda_driver.device()
    if device is None:
        return known_targets.detect(platform.machine())
    return known_targets.detect(platform.machine(), device.name, device.sm, device.memory / 1e9)


def _parse(formats: Sequence[str]) -> dict[str, Format]:
    from aigc_edge.compress.formats import parse

    found: dict[str, Format] = {}
    for text in dict.fromkeys(formats):
        format = parse(text)
        if format.name in found:
            raise AigcEdgeError(f"the format {format.name} was given twice with other options: a bundle holds one of each name")
        found[format.name] = format
    return found


def _check(out: Path, formats: list[str], devices: list[Target], overwrite: bool) -> None:
    """Refuse what cannot succeed before anything long is done."""
    if not formats or not devices:
        raise AigcEdgeError("no format or no target was given: give at least one of each, such as fp32 and x86-cpu")
    if out.exists() and not overwrite:
        raise AigcEdgeError(f"{out} already exists: give another name or ask to overwrite it")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise AigcEdgeError(f"cannot write {out}: {place} is no folder that can be written to; choose another place")
    for target in devices:
        wrong = ", ".join(name for name in formats if name not in target.precisions)
        if wrong:
            allowed = ", ".join(target.precisions)
            raise AigcEdgeError(f"the target {target.name} does not run {wrong}, it runs {allowed}: leave out one or the other")
        if target.flavour == "tensorrt_rtx" and "tensorrt_rtx" not in installed():
            raise AigcEdgeError(
                f"building for the target {target.name} needs TensorRT-RTX, which is not installed here: pip install "
                "'aigc-edge[tensorrt]', or leave out the target"
            )


class Compilation:
    """The state of one compilation: what was made so far in `folder`, and the files that go into the bundle."""

    def __init__(
        self,
        run: Run,
        folder: Path,
        formats: dict[str, Format],
        devices: list[Target],
        threads: int,
        seed: int,
        command: str,
        report: Progress | None = None,
    ) -> None:
        self.run, self.folder, self.formats, self.devices = run, folder, formats, devices
        self.threads, self.seed, self.command = threads, seed, command
        self.files: dict[str, Path | bytes] = {}
        self.components: dict[str, dict[str, Any]] = {}
        self.programs: dict[str, Program] = {}
        self.constants: Constants | None = None
        self.default_program = ""
        self.judge: dict[str, Any] | None = None
        self.quality: dict[str, dict[str, Any]] = {}
        self.reports: dict[str, dict[str, Any]] = {}
        self.derived = [name for name in formats if name != REFERENCE]
        self.plans = [(t, name) for t in devices if t.flavour == "tensorrt_rtx" for name in formats]
        self.clock = Clock(self._stages(), report)

    @property
    def networks(self) -> dict[str, dict[str, Any]]:
        """The components that come in every format: all but the schedule, which is small and stays in float32."""
        return {name: entry for name, entry in self.components.items() if name != SCHEDULE}

    def _stages(self) -> dict[str, float]:
        parts = len(self.run.family.components())
        stages = {"exporting": COSTS["export"] * parts}
        stages["training the judge"] = 0.0 if (self.run.path / "judge").is_dir() else COSTS["judge"]
        stages |= {f"making {name}": COSTS["format"] * parts for name in self.derived}
        stages["building engines"] = COSTS["plan"] * len(self.plans) * parts
        stages |= {f"measuring {name}": COSTS["quality"] for name in (REFERENCE, *self.derived)}
        return stages | {"writing the bundle": COSTS["write"]}

    def _tell(self, *report: Any) -> None:
        done, total = report[-2:]
        self.clock.advance(done / max(total, 1))

    def make_programs(self, solver: str, steps: int, guidance_scale: float) -> None:
        """The default program, and the usual solvers at the usual numbers of steps; a one-shot generator has one without rows."""
        family = self.run.family
        if family.schedule is None:
            made = [Program("one-shot", slots=1, init_scale=1.0, rows=())]
        else:
            scale = guidance_scale if family.num_classes else 1.0
            chosen = [(solver, steps), *((name, n) for name in SOLVERS for n in STEPS)]
            made = [build(family.schedule, name, n, guidance_scale=scale) for name, n in dict.fromkeys(chosen)]
        self.programs = {program.name: program for program in made}
        self.default_program = made[0].name

    def export(self, weights: bool, schedule_constants: bool) -> None:
        """Every component as ONNX, checked against torch, and with `weights` what the torch engine loads."""
        from safetensors.torch import save

        from aigc_edge.export.onnx import export_component

        self.clock.start("exporting")
        parts = self.run.family.components()
        for index, component in enumerate(parts):
            name = component.spec.name
            file = f"{name}.{REFERENCE}.onnx"
            export_component(component, self.folder / "whole" / file)
            self.components[name] = component.spec.to_json() | {"formats": {REFERENCE: {"file": file}}, "engines": []}
            if weights:
                copy = f"{name}.safetensors"
                self.files[copy] = save({k: v.contiguous() for k, v in component.module.state_dict().items()})
                self.components[name]["weights"] = {"file": copy, "model": self.run.family.model_config()}
            if not (name == "denoiser" and schedule_constants and self._split(component)):
                for made in (self.folder / "whole").glob(f"{file}*"):  # the weights of a huge model are in a second file
                    made.replace(self.folder / made.name)
            self._tell(index + 1, len(parts))

    def _split(self, component: Component) -> bool:
        """Take the schedule out of the denoiser: a component of its own, evaluated here for every timestep of the programs."""
        from aigc_edge.export.split import Split, export_split

        entry, file = self.components["denoiser"], f"schedule.{REFERENCE}.onnx"
        name = entry["formats"][REFERENCE]["file"]
        split = export_split(component, self.folder / "whole" / name, self.folder / name, self.folder / file)
        if not isinstance(split, Split):
            entry["schedule_constants"] = {"operators": 0, "reason": split}
            return False
        self.components["denoiser"], schedule = split.entries(component.spec, entry, file)
        self.components[SCHEDULE] = schedule
        self.constants = Constants.load(self.folder, self.components)
        assert self.constants is not None
        table, times = f"schedule.{REFERENCE}.table", [row.timestep for p in self.programs.values() for row in p.rows]
        self.files[table], timesteps = self.constants.table(times)
        schedule["table"] = {"file": table, "timesteps": timesteps}
        return True

    def make_judge(self) -> None:
        """The run's judge; trained on the run's data when there is none yet, and kept there."""
        self.clock.start("training the judge")
        folder = self.run.path / "judge"
        if not folder.is_dir():
            from aigc_edge import data
            from aigc_edge.metrics.classifier import train_judge

            known = self.run.config["data"]
            images = data.load(known["source"], known["size"])
            if images.fingerprint != known["fingerprint"]:
                raise AigcEdgeError(
                    f"the data in {known['source']} are not those that {self.run.path} was trained on: restore them, so that a "
                    "judge can be trained, or copy the judge folder of another run on the same data"
                )
            labels = images.labels if images.num_classes else None
            train_judge(images.scaled(), labels, folder, seed=self.seed, progress=self._tell)
        files = {path.stem: f"judge/{path.name}" for path in sorted(folder.iterdir()) if path.is_file()}
        self.files |= {name: folder / Path(name).name for name in files.values()}
        card = json.loads((folder / "judge.json").read_text(encoding="utf-8"))
        self.judge = {"classifier": files["classifier"], "features": files["features"], "accuracy": card["accuracy"]}

    def compress(self) -> None:
        """Every format but the reference, calibrated along the denoising trajectory of the default program.

        A format with a choice of engine is made for onnxruntime, and once more for TensorRT when a GPU is among the targets.
        """
        from aigc_edge.compress.calibration import Calibration
        from aigc_edge.compress.formats import convert

        gpus = any(target.kind == "gpu" for target in self.devices)
        program, classes = self.programs[self.default_program], self.run.family.num_classes
        for name in self.derived:
            self.clock.start(f"making {name}")
            main, other = (_for_engine(self.formats[name], engine) for engine in ("onnxruntime", "tensorrt"))
            made, number = 0, len(self.networks) * (1 + (gpus and other != main))
            for part, entry in self.networks.items():
                source = self.folder / entry["formats"][REFERENCE]["file"]
                spec = ComponentSpec.from_json(part, entry)
                noise = Calibration.draw(spec, program, CALIBRATION, num_classes=classes, constants=self.constants)
                entry["formats"][name] = {}
                for key, format in {"file": main, **({"tensorrt": other} if gpus and other != main else {})}.items():
                    file = f"{part}.{name}.onnx" if key == "file" else f"{part}.{name}.{key}.onnx"
                    tell = self.clock.within(made / number, (made + 1) / number)
                    report = convert(format, source, self.folder / file, noise, progress=tell, threads=self.threads)
                    made += 1
                    entry["formats"][name][key] = file
                    self.reports.setdefault(name, {})[file.removesuffix(".onnx")] = report

    def build_engines(self) -> None:
        """A plan for each component, format and GPU target that can be built for here; targets of one capability share a file."""
        self.clock.start("building engines")
        wanted = [(part, target, name) for target, name in self.plans for part in self.networks]
        for index, (part, target, name) in enumerate(wanted):
            assert target.sm is not None
            entry = self.components[part]
            files = entry["formats"][name]
            request = PlanRequest(self.folder / files.get("tensorrt", files["file"]), name, target.sm, target.name)
            plan = build_plan(request)
            same = [e["file"] for e in entry["engines"] if (e["sm"], e["format"]) == (target.sm, name)]
            file = same[0] if same else f"engines/{part}.{name}.{target.name}.plan"
            self.files[file] = plan.file
            self.files[file.removesuffix("plan") + "json"] = json.dumps(plan.report, indent=1).encode()
            found = {"engine": "tensorrt", "format": name, "target": target.name, "sm": target.sm, "file": file}
            found |= {"built_with": plan.built_with, "batches": plan.report["batches"]}
            entry["engines"].append(found | {"precision": {k: plan.report["precision"][k] for k in ("layers", "macs_share")}})
            self._tell(index + 1, len(wanted))

    def measure(self, samples: int, budget: float | None) -> None:
        """Quality of every format on the same noise with the default program, through the runtime itself; and the preview."""
        from aigc_edge.prove import Prover, hold_to_budget

        every = [REFERENCE, *self.derived]
        draft = self.folder / "draft.aigc"
        write_bundle(draft, self.manifest("draft"), self._without_plans() | self._networks(every))
        classes = self.run.family.num_classes
        prover = Prover(
            draft, self.run.path / "judge", num_classes=classes, samples=samples, seed=self.seed, threads=self.threads
        )
        for name in every:
            self.clock.start(f"measuring {name}")
            self.quality[name] = prover.score(name, self._tell) | {"program": self.default_program}
        if budget is not None:
            hold_to_budget(self.quality, self.reports, budget, REFERENCE)
        detail = {name: figures | {"compression": self.reports.get(name, {})} for name, figures in self.quality.items()}
        self.files["quality.json"] = json.dumps(detail, indent=1, allow_nan=False).encode()
        self._preview(draft)
        for entry in self.networks.values():
            entry["formats"] = {name: entry["formats"][name] for name in self.formats}
        self.files |= self._networks(list(self.formats))

    def _without_plans(self) -> dict[str, Path | bytes]:
        return {name: file for name, file in self.files.items() if not name.endswith(".plan")}

    def _networks(self, formats: list[str]) -> dict[str, Path | bytes]:
        names = {file for entry in self.networks.values() for name in formats for file in entry["formats"][name].values()}
        names |= {entry["formats"][REFERENCE]["file"] for entry in self.components.values() if "table" in entry}
        names |= {f"{name}.data" for name in names if (self.folder / f"{name}.data").exists()}  # weights of a huge model
        return {name: self.folder / name for name in names}

    def _preview(self, bundle: Path) -> None:
        from aigc_edge.prove import draw

        number = self.run.family.num_classes
        rows = min(number or PREVIEW_COLUMNS, PREVIEW_ROWS)
        classes = np.repeat(np.arange(rows), PREVIEW_COLUMNS) if number else None
        count = rows * PREVIEW_COLUMNS
        images = draw(bundle, next(iter(self.formats)), classes, count, seed=self.seed, threads=self.threads)
        write_png(self.folder / "preview.png", grid(to_uint8(images), columns=PREVIEW_COLUMNS))
        self.files["preview.png"] = self.folder / "preview.png"

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest as it stands, without format, version and files."""
        family, data = self.run.family, self.run.config["data"]
        on_device = [target.name for target in self.devices if target.flavour == "tensorrt"]
        return {
            "name": name,
            "family": self.run.config["family"],
            "sample_shape": list(family.sample_shape),
            "output_shape": list(family.output_shape),
            "output_range": [-1, 1],
            "classes": {"count": family.num_classes, "names": list(data["class_names"])} if family.num_classes else None,
            "schedule": family.schedule,
            "components": self.components,
            "default_format": next(iter(self.formats)),
            "default_program": self.default_program,
            "programs": {key: program.to_json() for key, program in self.programs.items()},
            "targets": [target.name for target in self.devices],
            "notes": [
                f"{target}: its engine is built on the device, from the ONNX file, when first used there" for target in on_device
            ],
            "judge": self.judge,
            "quality": self.quality,
            "tools": tools(),
            "provenance": provenance(self.run.config, self.command),
            "created": created(),
        }


def _for_engine(format: Format, engine: str) -> Format:
    choices = {field.name for field in dataclasses.fields(format)}
    return dataclasses.replace(format, engine=engine) if "engine" in choices else format  # type: ignore[call-arg]
