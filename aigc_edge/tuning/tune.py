"""Tuned solvers for a bundle: fits tables to many-step samples of its own network and puts them beside its programs."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import DENOISER
from aigc_edge.clock import Clock, Progress
from aigc_edge.diffusion import Program
from aigc_edge.diffusion.reference import NetworkFunction
from aigc_edge.engines.base import Engine, EngineSource, physical_cores, require, shape_of
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import write_json
from aigc_edge.hardware import free_memory
from aigc_edge.metrics.frechet import FeatureStatistics, frechet_distance
from aigc_edge.metrics.judge import Judge
from aigc_edge.ops import randn
from aigc_edge.tuning.roll import MAX_NFE
from aigc_edge.tuning.table import Table
from aigc_edge.tuning.tuner import Noise, Tuned, Tuner, cost

SAMPLES, HELD_OUT = 384, 256
ROLES = ("sample", "timestep", "class")
FORMAT = "fp32"  # what is tuned where the bundle has it: the other formats are made from it, and take the same table
_REFERENCE, _WRITING = "sampling with many steps", "writing the bundle"


def tune_bundle(
    bundle: str | os.PathLike[str],
    nfe: Sequence[int] = (8,),
    *,
    guidance_scale: float | None = None,
    samples: int = SAMPLES,
    held_out: int = HELD_OUT,
    seed: int = 0,
    threads: int | None = None,
    format: str | None = None,
    engine: str = "onnxruntime",
    default: bool = False,
    overwrite: bool = False,
    time_limit: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Program]:
    """Tune a program for each number of evaluations (1 … 15) in `nfe`, put them into `bundle`, and return them by name.

    They are called "tuned-8", or "tuned-8-guidance-4" for another `guidance_scale` than that of the default program. `samples`
    noises are fitted, `held_out` others give the figures in each program's `meta`: PSNR to many-step samples of the same network
    from the same noise, that of the best standard solver, and Fréchet distances where the bundle has a judge. `time_limit`, in
    seconds, ends the search (not the measuring) with the best tables so far. Whatever was found is kept in BUNDLE.tuning.json
    until the bundle is written; an interrupted call that is repeated goes on from it. Raises AigcEdgeError for whatever a user
    can mend; the bundle is then as it was.
    """
    work = Tuning(Path(bundle), guidance_scale, format, engine, threads or physical_cores(), seed)
    wanted = work.check(nfe, default, overwrite)
    if time_limit is not None and not time_limit > 0:
        raise AigcEdgeError(f"the time limit is {time_limit} s: give a positive number of seconds, or none")
    tuned = work.run(wanted, samples, held_out, time_limit, progress)
    work.clock.start(_WRITING)
    Bundle.open(bundle, verify=True).add_programs(tuned, default=next(iter(tuned)) if default else None)
    work.state.unlink(missing_ok=True)
    work.clock.finish()
    return tuned


def state_file(bundle: Path) -> Path:
    """Where what was found is kept until the bundle is written."""
    return bundle.absolute().with_name(f"{bundle.name}.tuning.json")


class EngineNetwork:
    """A loaded denoiser as `network(sample, timestep, classes)`; buffers are bound once for each batch size."""

    def __init__(self, engine: Engine, constants: Constants | None = None) -> None:
        self.engine, self.constants = engine, constants
        self._bound: dict[int, tuple[dict[str, NDArray[Any]], NDArray[Any], Callable[[], None]]] = {}

    def __call__(self, sample: NDArray[Any], timestep: NDArray[Any], classes: NDArray[Any] | None) -> NDArray[Any]:
        count, spec = len(sample), self.engine.spec
        if count not in self._bound:
            inputs: dict[str, NDArray[Any]] = {t.name: np.zeros(shape_of(t, count), t.dtype) for t in spec.inputs}
            output = np.zeros(shape_of(spec.outputs[0], count), spec.outputs[0].dtype)
            call = self.engine.bind(inputs, {spec.outputs[0].name: output})
            self._bound[count] = inputs, output, call
        inputs, output, call = self._bound[count]
        values = {"sample": sample, "timestep": timestep, "class": classes}
        for tensor in spec.inputs:
            if tensor.role == "constant":
                assert self.constants is not None
                inputs[tensor.name][...] = self.constants(float(timestep[0]))[tensor.name]  # a row has one timestep
            else:
                inputs[tensor.name][...] = values[tensor.role]
        call()
        return output.copy()


class Tuning:
    """One call of `tune_bundle`: the bundle's network, the noise, and what was found."""

    def __init__(
        self, bundle: Path, guidance_scale: float | None, format: str | None, engine: str, threads: int, seed: int
    ) -> None:
        self.bundle, self.threads, self.seed = bundle, threads, seed
        self.opened = Bundle.open(bundle).at()  # a program serves every size
        self.manifest = manifest = self.opened.manifest
        if manifest.schedule is None:
            raise AigcEdgeError(f"{bundle} generates in one evaluation: it has no sampling program that could be tuned")
        denoiser = manifest.denoiser
        if denoiser is None or not {tensor.role for tensor in denoiser.spec.inputs} <= {*ROLES, "constant"}:
            raise AigcEdgeError(f"{bundle} has no {DENOISER} that takes {', '.join(ROLES)} alone: tune such bundles only")
        self.schedule, self.classes = manifest.schedule, manifest.num_classes
        usual = manifest.programs[manifest.default_program].guidance_scale if self.classes else 1.0
        self.guidance = usual if guidance_scale is None else float(guidance_scale)
        if not self.classes and self.guidance != 1.0:
            raise AigcEdgeError(f"{bundle} is unconditional: leave the guidance scale out")
        if not math.isfinite(self.guidance):
            raise AigcEdgeError(f"the guidance scale is {self.guidance}: it must be a finite number; 1 means no guidance")
        self.suffix = "" if self.guidance == usual else f"-guidance-{self.guidance:g}"
        self.format = format or (FORMAT if FORMAT in denoiser.formats else manifest.default_format)
        source = EngineSource.of(self.opened, DENOISER, self.format)
        self.network: NetworkFunction = EngineNetwork(require(engine).load(source, threads=threads), Constants.of(self.opened))
        self.limits = None if manifest.decoder else manifest.output_range  # images are clamped; latents of a decoder are not
        self.state = state_file(bundle)
        self.clock = Clock({})

    def name(self, nfe: int) -> str:
        """What the tuned program of `nfe` evaluations is called."""
        return f"tuned-{nfe}{self.suffix}"

    def check(self, nfe: Sequence[int], default: bool, overwrite: bool) -> list[int]:
        """The numbers of evaluations to tune for; refuses what cannot succeed before anything long is done."""
        wanted = list(dict.fromkeys(nfe))
        wrong = [number for number in wanted if not isinstance(number, int) or not 1 <= number <= MAX_NFE]
        if wrong or not wanted:
            raise AigcEdgeError(f"{wrong[0] if wrong else 'nothing'} was given as nfe: give 1 to {MAX_NFE} evaluations")
        if default and len(wanted) > 1:
            raise AigcEdgeError(f"{len(wanted)} programs are tuned, only one can be the default: give one nfe, or no default")
        there = [self.name(number) for number in wanted if self.name(number) in self.manifest.programs]
        if there and not overwrite:
            raise AigcEdgeError(f"{self.bundle} has a program {there[0]!r} already: ask to overwrite it, or give another nfe")
        if not os.access(self.bundle.absolute().parent, os.W_OK):
            raise AigcEdgeError(f"{self.bundle} cannot be written, its folder is read-only: copy it to one that is not")
        return wanted

    def noise(self, count: int, stream: int) -> Noise:
        """`count` samples as the runtime would start them; no two streams, and no seeds of a user, share one."""
        words = np.random.SeedSequence([self.seed, stream]).generate_state(count, np.uint64)
        shape = tuple(int(size) for size in self.manifest.sample_shape)
        latents = np.empty((count, math.prod(shape)), np.float32)
        randn.reference(words, 0, latents)
        drawn = np.random.default_rng([self.seed, stream]).integers(0, self.classes, count) if self.classes else None
        return Noise(latents.reshape(count, *shape), drawn)

    def run(
        self, wanted: list[int], samples: int, held_out: int, time_limit: float | None, progress: Progress | None
    ) -> dict[str, Program]:
        """The tuned programs by name."""
        self._refuse_too_much(max(wanted), samples, held_out)
        self.found = self.resumed()
        counted = _Counter()
        note = [""]
        report = None if progress is None else lambda what, done, left: progress(what + note[0], done, left)
        many, costs = 0, {}
        for number in wanted:
            many, costs[number] = cost(self.schedule, number, samples, held_out)
        stages = {_REFERENCE: many} | {_stage(number): most for number, most in costs.items()} | {_WRITING: many // 100}
        self.clock = Clock(stages, report)
        counted.stage(self.clock, _REFERENCE, many)
        tuner = Tuner(
            self.network,
            self.schedule,
            self.noise(samples, 0),
            self.noise(held_out, 1),
            guidance_scale=self.guidance,
            null_class=self.classes if self.classes else None,
            limits=self.limits,
            seed=self.seed,
            spent=counted,
        )
        end = None if time_limit is None else time.monotonic() + time_limit
        made: dict[str, Program] = {}
        for place, number in enumerate(wanted):
            counted.stage(self.clock, _stage(number), costs[number])
            share = costs[number] / sum(costs[other] for other in wanted[place:])
            until = math.inf if end is None else time.monotonic() + share * max(end - time.monotonic(), 0.0)

            def keep(table: Table, psnr: float, number: int = number) -> None:
                note[0] = f" ({psnr:.1f} dB)"
                self._keep(number, table)

            tuned = tuner.tune(
                number,
                name=self.name(number),
                before=self.found.get(number),
                keep=keep,
                enough=_after(until),
            )
            note[0] = ""
            made[self.name(number)] = self._judged(tuner, tuned)
        return made

    def _judged(self, tuner: Tuner, tuned: Tuned) -> Program:
        """The program with Fréchet distances in its meta, its own and that of the best standard, where the bundle has a judge."""
        meta = dict(tuned.program.meta) | {"format": self.format}
        below = self.opened.below("judge")
        if below and self.limits is not None:
            with self.opened.extract(below, beside=True) as folder:
                judge = Judge.load(folder / "judge", threads=self.threads)
            real = FeatureStatistics.of(judge.real)
            for key, program in (("frechet", tuned.program), ("best_standard_frechet", tuned.best.program)):
                images = np.concatenate([tuner.sample(program, part) for part in tuner.held_out.parts()])
                features = judge.look(np.clip(images, *self.limits))[1]
                meta[key] = round(frechet_distance(FeatureStatistics.of(features), real), 4)
        return replace(tuned.program, meta=meta)

    def _key(self) -> dict[str, Any]:
        """What a table that is gone on with must have been fitted to."""
        network = self.manifest.files[self.manifest.components[DENOISER].file(self.format)].sha256
        return {"network": network, "schedule": self.schedule, "guidance_scale": self.guidance}

    def resumed(self) -> dict[int, Table]:
        """The tables that an interrupted call for the same network, schedule and guidance scale left."""
        try:
            stored = json.loads(self.state.read_text(encoding="utf-8"))
            if stored["key"] != json.loads(json.dumps(self._key())):
                return {}
            return {int(k): Table(np.array(v["levels"]), np.array(v["weights"])) for k, v in stored["tables"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AigcEdgeError):  # nothing there, or nothing of use
            return {}

    def _keep(self, nfe: int, table: Table) -> None:
        self.found[nfe] = table
        tables = {str(k): {"levels": t.levels.tolist(), "weights": t.weights.tolist()} for k, t in self.found.items()}
        write_json(self.state, {"key": self._key(), "tables": tables})

    def _refuse_too_much(self, nfe: int, samples: int, held_out: int) -> None:
        elements = math.prod(int(size) for size in self.manifest.sample_shape)
        parameters = nfe + (nfe + 1) * (nfe + 2) // 2
        need = 4 * elements * (3 * (samples + held_out) + 16 * (2 * parameters + 4 * nfe))
        free = free_memory()
        if free is not None and need > free:
            raise AigcEdgeError(
                f"tuning {nfe} evaluations on {samples} samples needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB "
                "are free: take fewer samples or evaluations"
            )


class _Counter:
    """Counts the evaluated samples of a stage and tells a clock which share of it is done."""

    def stage(self, clock: Clock, name: str, cost: int) -> None:
        self._clock, self._cost, self._done = clock, max(cost, 1), 0
        clock.start(name)

    def __call__(self, count: int) -> None:
        self._done += count
        self._clock.advance(min(1.0, self._done / self._cost))


def _after(moment: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > moment


def _stage(nfe: int) -> str:
    return f"tuning {nfe} evaluation{'' if nfe == 1 else 's'}"
