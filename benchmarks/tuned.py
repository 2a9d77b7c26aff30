"""How far tuned programs are ahead of every standard solver, at equal evaluations: a JSON of raw figures and a curve.

    aigc-edge tune digits.aigc --nfe 4,5,6,8,10
    python benchmarks/tuned.py digits.aigc -o benchmarks/results/tuned-digits

The noise is neither that of the fit nor that of the figures in the bundle, the many-step reference is made by another solver than
the fit's, and the standard solvers are given every spacing that the schedule knows. The best of them are chosen on the first
samples and measured on all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_edge.bench.machine import fingerprint
from aigc_edge.diffusion import Program, build
from aigc_edge.files import atomic_file, write_json
from aigc_edge.metrics.frechet import FeatureStatistics, bootstrap_interval, frechet_distance
from aigc_edge.metrics.judge import Judge
from aigc_edge.pages.svg import Scale, element, label, tick_text
from aigc_edge.tuning.conversion import to_program
from aigc_edge.tuning.initial_tables import initial_tables
from aigc_edge.tuning.standard import standard_programs
from aigc_edge.tuning.task import Task
from aigc_edge.tuning.tune import BundleTuner
from aigc_edge.tuning.tuner import NoiseSamples, Tuner, decibels

STREAM = 7  # of the noise; the fit takes 0 and 1
REFERENCE = ("heun", 100)
BATCHES = 8  # whose PSNR shows the spread
Images = NDArray[np.float32]


class Bench:
    """A bundle's network, fresh noise, and the many-step samples from it."""

    def __init__(self, bundle: Path, samples: int, threads: int, seed: int) -> None:
        self.work = BundleTuner(bundle, None, None, "onnxruntime", threads, seed)
        self.noise = self.work.noise(samples, STREAM)
        self.schedule = self.work.schedule
        few = NoiseSamples(self.noise.latents[:8], None if self.noise.classes is None else self.noise.classes[:8])
        scale, null = self.work.guidance, self.work.classes or None
        network = self.work.network
        self.tuner = Tuner(network, self.schedule, few, few, guidance_scale=scale, null_class=null, reference_steps=4)
        self.reference = self.draw(self._build(*REFERENCE), samples)
        below = self.work.opened.below("judge")
        with self.work.opened.extract(below) as folder:
            self.judge = Judge.load(folder / "judge", threads=threads) if below else None

    def _build(self, solver: str, steps: int) -> Program:
        return build(self.schedule, solver, steps, guidance_scale=self.work.guidance)

    def draw(self, program: Program, count: int) -> Images:
        """Pictures of the first `count` noises."""
        latents, classes = self.noise.latents[:count], self.noise.classes
        task = Task(self.work.network, self.tuner.path, latents, latents, None if classes is None else classes[:count])
        return np.clip(np.concatenate([self.tuner.sample(program, batch) for batch in task.batches()]), -1, 1)

    def error(self, program: Program, count: int) -> float:
        """Mean squared error of the first `count` pictures."""
        error = float(self.errors(self.draw(program, count)).mean())
        return error if np.isfinite(error) else 4.0  # the worst that clamped pictures can be

    def errors(self, images: Images) -> NDArray[np.float64]:
        """Mean squared error of each picture."""
        off = images - self.reference[: len(images)]
        return np.square(off, dtype=np.float64).reshape(len(images), -1).mean(axis=1)

    def figures(self, program: Program) -> tuple[dict[str, Any], Images]:
        """PSNR over all noises, of each batch of them, and the Fréchet distance with its interval; and the pictures."""
        images = self.draw(program, len(self.noise))
        errors = self.errors(images)
        each = [round(psnr(part.mean()), 3) for part in np.array_split(errors, BATCHES)]
        found = {"psnr": round(psnr(errors.mean()), 3), "psnr_median_sample": round(psnr(np.median(errors)), 3), "batches": each}
        return found | self.distance(images), images

    def distance(self, images: Images) -> dict[str, float]:
        """The Fréchet distance to real images and its 95 % interval, where the bundle has a judge."""
        if self.judge is None:
            return {}
        features = self.judge.look(images)[1]
        low, high = bootstrap_interval(features, self.judge.real, 100)
        value = frechet_distance(FeatureStatistics.of(features), FeatureStatistics.of(self.judge.real))
        return {"frechet": round(value, 4), "frechet_low": round(low, 4), "frechet_high": round(high, 4)}

    def ranged(self, nfe: int, few: int) -> dict[str, Any]:
        """The best of the solvers on narrower noise ranges, which `tune` starts from: no spacing that a user could name."""
        tables = initial_tables(self.tuner.path, nfe)
        programs = [to_program(table, self.tuner.path, "ranged", self.work.guidance) for table in tables]
        best = min(programs, key=lambda program: self.error(program, few))
        ends = [round(row.sigma, 4) for row in (best.rows[0], best.rows[-1])]
        return self.figures(best)[0] | {"sigma_range": ends}

    def level(self, nfe: int, few: int, finalists: int) -> dict[str, Any]:
        """Everything that makes `nfe` evaluations."""
        every = standard_programs(self.schedule, nfe, self.work.guidance)
        quick = sorted(((psnr(self.error(one.program, few)), place) for place, one in enumerate(every)), reverse=True)
        chosen = [every[place] for _, place in quick[:finalists]]
        chosen += [one for one in every if one.spacing == "" and one.solver in SHOWN and one not in chosen]
        measured: dict[str, Any] = {}
        pictures: dict[str, Images] = {}
        for one in chosen:
            measured[one.name], pictures[one.name] = self.figures(one.program)
        best = max(measured, key=lambda name: measured[name]["psnr"])
        program = self.work.manifest.programs[self.work.name(nfe)]
        tuned, own = self.figures(program)
        low, high = gain_interval(self.errors(pictures[best]), self.errors(own))
        gain = {"gain": round(tuned["psnr"] - measured[best]["psnr"], 3), "gain_low": round(low, 3), "gain_high": round(high, 3)}
        plain = {one.solver: one.name for one in every if one.spacing == "" and one.solver in SHOWN}
        ranking = {every[place].name: round(value, 3) for value, place in quick}
        if self.judge is not None:
            gain |= distance_gap(own, pictures[best], self.judge)
        found = {"tuned": tuned, "best": best, **gain, "standard": measured, "ranged": self.ranged(nfe, few // 2)}
        return found | {"plain": plain, "first_samples": ranking}

    def more_steps(self, solver: str, steps: int) -> dict[str, Any]:
        """A standard solver of more steps."""
        return self.figures(self._build(solver, steps))[0]


SHOWN = {"dpmpp_2m": "DPM-Solver++ 2M, the bundle's schedule", "ddim": "DDIM, the bundle's schedule"}


def distance_gap(one: Images, other: Images, judge: Judge, draws: int = 200) -> dict[str, float]:
    """Fréchet distance of `one` less that of `other`, with its 95 % interval; both started from the same noises."""
    features = [judge.look(images)[1] for images in (one, other)]
    rng, gaps = np.random.default_rng(0), []
    for _ in range(draws):
        drawn, real = rng.integers(0, len(one), len(one)), judge.real[rng.integers(0, len(judge.real), len(judge.real))]
        target = FeatureStatistics.of(real)
        a, b = (frechet_distance(FeatureStatistics.of(part[drawn]), target) for part in features)
        gaps.append(a - b)
    low, high = np.quantile(gaps, [0.025, 0.975])
    return {"frechet_gap_low": round(float(low), 4), "frechet_gap_high": round(float(high), 4)}


def psnr(error: float | np.floating[Any]) -> float:
    return decibels(float(error), (-1.0, 1.0))


def gain_interval(one: NDArray[np.float64], other: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the gain in dB, resampling noises; both programs started from the same ones."""
    picked = np.random.default_rng(0).integers(0, len(one), (draws, len(one)))
    gains = 10 * np.log10(one[picked].mean(axis=1) / other[picked].mean(axis=1))
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def picture(result: dict[str, Any]) -> str:
    """PSNR against evaluations as an SVG document."""
    levels = {int(nfe): found for nfe, found in result["nfe"].items()}
    lines = {"tuned": ("#0b6e4f", {nfe: found["tuned"] for nfe, found in levels.items()})}
    lines["best solver on a searched noise range"] = ("#7a4aa0", {n: found["ranged"] for n, found in levels.items()})
    lines["best standard solver and spacing"] = ("#1f5fa8", {n: found["standard"][found["best"]] for n, found in levels.items()})
    for solver, colour in zip(SHOWN, ("#8a8f98", "#c0501f"), strict=True):
        points = {nfe: found["standard"][found["plain"][solver]] for nfe, found in levels.items() if solver in found["plain"]}
        lines[SHOWN[solver]] = (colour, points)
    values = [v for _, points in lines.values() for found in points.values() for v in (found["psnr"], *found["batches"])]
    values.append(result["more_steps"]["ddim-20"]["psnr"])
    width, height, left, top, right, bottom = 980, 440, 64, 64, 320, 52
    across = Scale(min(levels) - 0.5, max(levels) + 0.5, left, width - right)
    up = Scale(min(values) - 1, max(values) + 1, height - bottom, top)
    style = "text{font:13px sans-serif;fill:#333}.title{font-size:16px;font-weight:600}.tick{fill:#666;font-size:12px}"
    style += ".grid{stroke:#e3e5e8;stroke-width:1}.few{stroke:#c0501f;stroke-width:1.5;stroke-dasharray:5 4}"
    parts = [element("style", style), element("rect", width=width, height=height, fill="white")]
    each = result["n"] // BATCHES
    guided = "" if result["guidance_scale"] == 1 else f", guidance {result['guidance_scale']:g}"
    about = f"{result['bundle']}{guided}; {result['n']} noises that no fit has seen, bars: batches of {each}"
    parts += [label(left, 26, "PSNR to many-step samples of the same network", "title"), label(left, 46, about, "tick")]
    for tick in up.ticks(7):
        parts.append(element("line", x1=float(left), x2=float(width - right), y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(label(left - 8, up(tick) + 4, f"{tick_text(tick)} dB", "tick", "end"))
    parts += [label(across(nfe), height - bottom + 20, str(nfe), "tick", "middle") for nfe in levels]
    parts.append(label((left + width - right) / 2, height - 12, "network evaluations", "tick", "middle"))
    legend = float(width - right + 16)
    for place, (name, (colour, points)) in enumerate(lines.items()):
        aside = 4.0 * (place - (len(lines) - 1) / 2)  # bars beside each other, not on top
        places = {nfe: (across(nfe) + aside, up(found["psnr"])) for nfe, found in points.items()}
        for nfe, found in points.items():
            x, ends = places[nfe][0], (up(min(found["batches"])), up(max(found["batches"])))
            parts.append(element("line", x1=x, x2=x, y1=ends[0], y2=ends[1], stroke=colour, stroke_width=3, opacity=0.35))
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())
        parts.append(element("polyline", points=path, fill="none", stroke=colour, stroke_width=2))
        parts += [element("circle", cx=x, cy=y, r=3.5, fill=colour) for x, y in places.values()]
        y = top + 12.0 + 24 * place
        parts.append(element("line", x1=legend, x2=legend + 22, y1=y - 4, y2=y - 4, stroke=colour, stroke_width=3))
        parts.append(label(legend + 30, y, name))
    few, y = up(result["more_steps"]["ddim-20"]["psnr"]), top + 12.0 + 24 * len(lines)
    parts.append(element("line", x1=float(left), x2=float(width - right), y1=few, y2=few, class_="few"))
    parts.append(element("line", x1=legend, x2=legend + 22, y1=y - 4, y2=y - 4, class_="few"))
    parts.append(label(legend + 30, y, "DDIM of 20 evaluations"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    return head + "\n".join(parts) + "</svg>\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the place of the .json and .svg files, without an ending"
    )
    parser.add_argument("--nfe", default="4,5,6,8,10")
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--first", type=int, default=64, help="samples on which the standard solvers are ranked")
    parser.add_argument("--finalists", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bench = Bench(given.bundle, given.samples, given.threads, given.seed)
    result: dict[str, Any] = {
        "version": 1,
        "bundle": bench.work.manifest.name,
        "machine": fingerprint(),
        "n": given.samples,
        "ranked_on": given.first,
        "guidance_scale": bench.work.guidance,
        "reference": "-".join(map(str, REFERENCE)) + f", {2 * REFERENCE[1] - 1} evaluations",
        "reference_distance": bench.distance(bench.reference),
        "more_steps": {f"{s}-{n}": bench.more_steps(s, n) for s, n in (("ddim", 20), ("dpmpp_2m", 20))},
        "nfe": {},
    }
    for nfe in map(int, given.nfe.split(",")):
        found = result["nfe"][str(nfe)] = bench.level(nfe, given.first, given.finalists)
        best = found["standard"][found["best"]]
        gain = f"gain {found['gain']:.2f} ({found['gain_low']:.2f} … {found['gain_high']:.2f})"
        distances = f"Fréchet {found['tuned'].get('frechet')} and {best.get('frechet')}"
        line = f"{nfe:3d}: tuned {found['tuned']['psnr']:.2f} dB, {found['best']} {best['psnr']:.2f} dB, {gain}; {distances}"
        print(line, file=sys.stderr, flush=True)
    write_json(given.output.with_suffix(".json"), result)
    with atomic_file(given.output.with_suffix(".svg")) as part:
        part.write_text(picture(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
