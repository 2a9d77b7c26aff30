"""Tunes programs for a bundle: tables fitted to many-step samples of its own network, added to its programs."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aigc_edge.bundle.bundle import Bundle, existing
from aigc_edge.bundle.component import DENOISER
from aigc_edge.clock import Clock, Progress
from aigc_edge.diffusion import Program
from aigc_edge.engines.base import EngineSource, physical_cores, require
from aigc_edge.engines.constants import Constants
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import check_output
from aigc_edge.hardware import free_memory
from aigc_edge.metrics.frechet import FeatureStatistics, frechet_distance
from aigc_edge.metrics.judge import Judge
from aigc_edge.ops import randn
from aigc_edge.tuning.checkpoint import Checkpoint, checkpoint_file
from aigc_edge.tuning.conversion import MAX_NFE
from aigc_edge.tuning.denoiser import denoiser_function
from aigc_edge.tuning.table import CoefficientTable
from aigc_edge.tuning.tuner import NoiseSamples, TunedProgram, Tuner, tuning_evaluations

SAMPLES, HELD_OUT = 384, 256
ROLES = ("sample", "timestep", "class")
FORMAT = "fp32"  # tuned where the bundle has it: the other formats are derived from it and use the same table
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
    """Tune a program for each number of evaluations (1 … 15) in `nfe`, add them to `bundle`, and return them by name.

    They are called "tuned-8", or "tuned-8-guidance-4" for a `guidance_scale` other than that of the default program. The fit
    uses `samples` samples; `held_out` other ones give the figures in each program's `meta`: PSNR to many-step samples of the same
    network from the same noise, that of the best standard solver, and Fréchet distances where the bundle has a judge.
    `time_limit`, in seconds, ends the fits (not the measurement) with the best tables so far. The best tables are saved in
    BUNDLE.tuning.json until the bundle is written, and an interrupted call that is repeated resumes from them. Raises
    AigcEdgeError for invalid arguments and bundles that cannot be tuned; the bundle is then unchanged.
    """
    check_output(existing(bundle), overwrite=True)
    work = BundleTuner(Path(bundle), guidance_scale, format, engine, threads or physical_cores(), seed)
    numbers = work.validate(nfe, default, overwrite)
    if time_limit is not None and not time_limit > 0:
        raise AigcEdgeError(f"the time limit is {time_limit} s: give a positive number of seconds, or none")
    tuned = work.run(numbers, samples, held_out, time_limit, progress)
    work.clock.start(_WRITING)
    Bundle.open(bundle, verify=True).add_programs(tuned, default=next(iter(tuned)) if default else None)
    work.checkpoint.remove()
    work.clock.finish()
    return tuned


class BundleTuner:
    """One call of `tune_bundle`: the bundle's network and noise, and the checkpoint of its tables."""

    def __init__(
        self, bundle: Path, guidance_scale: float | None, format: str | None, engine: str, threads: int, seed: int
    ) -> None:
        self.bundle, self.threads, self.seed = bundle, threads, seed
        self.opened = Bundle.open(bundle).at()  # a program is valid for every size
        self.manifest = manifest = self.opened.manifest
        if manifest.schedule is None:
            raise AigcEdgeError(f"{bundle} generates in one evaluation: it has no sampling program that could be tuned")
        denoiser = manifest.denoiser
        if denoiser is None or not {tensor.role for tensor in denoiser.spec.inputs} <= {*ROLES, "constant"}:
            raise AigcEdgeError(f"{bundle} has no {DENOISER} that takes {', '.join(ROLES)} alone: tune such bundles only")
        self.schedule, self.classes = manifest.schedule, manifest.num_classes
        default_scale = manifest.programs[manifest.default_program].guidance_scale if self.classes else 1.0
        self.guidance = default_scale if guidance_scale is None else float(guidance_scale)
        if not self.classes and self.guidance != 1.0:
            raise AigcEdgeError(f"{bundle} is unconditional: leave the guidance scale out")
        if not math.isfinite(self.guidance):
            raise AigcEdgeError(f"the guidance scale is {self.guidance}: it must be a finite number; 1 means no guidance")
        self.suffix = "" if self.guidance == default_scale else f"-guidance-{self.guidance:g}"
        self.format = format or (FORMAT if FORMAT in denoiser.formats else manifest.default_format)
        source = EngineSource.of(self.opened, DENOISER, self.format)
        self.network = denoiser_function(require(engine).load(source, threads=threads), Constants.of(self.opened))
        self.limits = None if manifest.decoder else manifest.output_range  # images are clamped; latents of a decoder are not
        network = manifest.files[denoiser.file(self.format)].sha256
        identity = {"network": network, "schedule": self.schedule, "guidance_scale": self.guidance}
        self.checkpoint = Checkpoint(checkpoint_file(bundle), identity)
        self.clock = Clock({})

    def name(self, nfe: int) -> str:
        """The name of the tuned program of `nfe` evaluations."""
        return f"tuned-{nfe}{self.suffix}"

    def validate(self, nfe: Sequence[int], default: bool, overwrite: bool) -> list[int]:
        """The numbers of evaluations, each once; raises AigcEdgeError for what would fail at the end."""
        numbers = list(dict.fromkeys(nfe))
        wrong = [number for number in numbers if not isinstance(number, int) or not 1 <= number <= MAX_NFE]
        if wrong or not numbers:
            raise AigcEdgeError(f"{wrong[0] if wrong else 'nothing'} was given as nfe: give 1 to {MAX_NFE} evaluations")
        if default and len(numbers) > 1:
            raise AigcEdgeError(f"{len(numbers)} programs are tuned, only one can be the default: give one nfe, or no default")
        taken = [self.name(number) for number in numbers if self.name(number) in self.manifest.programs]
        if taken and not overwrite:
            raise AigcEdgeError(f"{self.bundle} has a program {taken[0]!r} already: ask to overwrite it, or give another nfe")
        if not os.access(self.bundle.absolute().parent, os.W_OK):
            raise AigcEdgeError(f"{self.bundle} cannot be written, its folder is read-only: copy it to one that is not")
        return numbers

    def noise(self, count: int, stream: int) -> NoiseSamples:
        """Latents of `count` samples as the runtime draws them; distinct streams, and a user's seeds, share none."""
        words = np.random.SeedSequence([self.seed, stream]).generate_state(count, np.uint64)
        shape = tuple(int(size) for size in self.manifest.sample_shape)
        latents = np.empty((count, math.prod(shape)), np.float32)
        randn.reference(words, 0, latents)
        classes = np.random.default_rng([self.seed, stream]).integers(0, self.classes, count) if self.classes else None
        return NoiseSamples(latents.reshape(count, *shape), classes)

    def run(
        self, numbers: list[int], samples: int, held_out: int, time_limit: float | None, progress: Progress | None
    ) -> dict[str, Program]:
        """The tuned programs by name."""
        self._check_memory(max(numbers), samples, held_out)
        schedule = self.schedule
        tables = self.checkpoint.load()
        note = ""

        def report(stage: str, done: float, left: float) -> None:
            assert progress is not None
            progress(stage + note, done, left)

        of_reference, costs = 0, {}
        for number in numbers:
            of_reference, costs[number] = tuning_evaluations(schedule, number, samples, held_out)
        stages = {_REFERENCE: of_reference} | {_stage(number): cost for number, cost in costs.items()}
        self.clock = Clock(stages | {_WRITING: of_reference // 100}, None if progress is None else report)
        counter = _StageCounter(self.clock)
        counter.start(_REFERENCE, of_reference)
        tuner = Tuner(
            self.network,
            schedule,
            self.noise(samples, 0),
            self.noise(held_out, 1),
            guidance_scale=self.guidance,
            null_class=self.classes if self.classes else None,
            limits=self.limits,
            seed=self.seed,
            on_evaluated=counter,
        )
        end = math.inf if time_limit is None else time.monotonic() + time_limit
        programs: dict[str, Program] = {}
        for index, number in enumerate(numbers):
            counter.start(_stage(number), costs[number])
            share = costs[number] / sum(costs[other] for other in numbers[index:])
            now = time.monotonic()
            stop_at = now + share * max(end - now, 0.0)

            def save(table: CoefficientTable, psnr: float, number: int = number) -> None:
                nonlocal note
                note = f" ({psnr:.1f} dB)"
                tables[number] = table
                self.checkpoint.save(tables)

            def is_late(stop_at: float = stop_at) -> bool:
                return time.monotonic() > stop_at

            resume_from = tables.get(number)
            tuned = tuner.tune(number, name=self.name(number), resume_from=resume_from, on_improved=save, should_stop=is_late)
            note = ""
            programs[self.name(number)] = self._with_frechet(tuner, tuned)
        return programs

    def _with_frechet(self, tuner: Tuner, tuned: TunedProgram) -> Program:
        """The program with its Fréchet distance, and that of the best standard program, in its meta if the bundle has a judge."""
        meta = dict(tuned.program.meta) | {"format": self.format}
        below = self.opened.below("judge")
        if below and self.limits is not None:
            with self.opened.extract(below, beside=True) as folder:
                judge = Judge.load(folder / "judge", threads=self.threads)
            real = FeatureStatistics.of(judge.real)
            for key, program in (("frechet", tuned.program), ("best_standard_frechet", tuned.best.program)):
                images = np.concatenate([tuner.sample(program, batch) for batch in tuner.held_out.batches()])
                features = judge.look(np.clip(images, *self.limits))[1]
                meta[key] = round(frechet_distance(FeatureStatistics.of(features), real), 4)
        return replace(tuned.program, meta=meta)

    def _check_memory(self, nfe: int, samples: int, held_out: int) -> None:
        elements = math.prod(int(size) for size in self.manifest.sample_shape)
        parameters = nfe + (nfe + 1) * (nfe + 2) // 2
        need = 4 * elements * (3 * (samples + held_out) + 16 * (2 * parameters + 4 * nfe))
        free = free_memory()
        if free is not None and need > free:
            raise AigcEdgeError(
                f"tuning {nfe} evaluations on {samples} samples needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB "
                "are free: take fewer samples or evaluations"
            )


class _StageCounter:
    """Counts the evaluated samples of a stage and advances the clock by them."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._cost, self._done = clock, 1, 0

    def start(self, stage: str, cost: int) -> None:
        self._cost, self._done = max(cost, 1), 0
        self._clock.start(stage)

    def __call__(self, count: int) -> None:
        self._done += count
        self._clock.advance(min(1.0, self._done / self._cost))


def _stage(nfe: int) -> str:
    return f"tuning {nfe} evaluation{'' if nfe == 1 else 's'}"
