"""End-to-end demo on real digits: train, compile, sample, inspect, benchmark. Finished steps are skipped, training resumes.

python tools/demo.py           everything, into out/demo/
python tools/demo.py bench     the last step only, again
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("out") / "demo"
DONE = ROOT / OUT / ".done.json"
BUNDLE = OUT / "digits.aigc"
COMMAND = str(Path(sys.executable).with_name("aigc-edge"))


@dataclass(frozen=True)
class Step:
    """One command line of aigc-edge; `outputs` must exist for it to count as done."""

    name: str
    title: str
    arguments: tuple[str, ...]
    outputs: tuple[Path, ...]


def steps() -> list[Step]:
    """The steps of the demo, in order."""
    run, grid, report, figures = OUT / "run", OUT / "grid.png", OUT / "report.html", OUT / "bench.json"
    why = OUT / "why.html"
    targets = ("--target", "x86-cpu", "--target", "rtx")
    compile_to = ("-o", str(BUNDLE), "--format", "fp32", "--format", "int8", *targets, "--overwrite")
    return [
        Step(
            "train",
            "train a diffusion model and its judge on 1,797 real handwritten digits",
            ("train", "diffusion", "--data", "digits", "--out", str(run)),
            (run / "model.safetensors", run / "judge"),
        ),
        Step(
            "compile",
            "export, quantise to int8, evaluate its quality, build engines, bundle",
            ("compile", str(run), *compile_to),
            (BUNDLE / "manifest.json",),
        ),
        Step(
            "quantise",
            "add 4-bit weights within a quality budget, with a per-layer report",
            ("quantise", str(BUNDLE), "--format", "int4", "--budget", "psnr=25", "--report", str(why), "--overwrite"),
            (why,),
        ),
        Step(
            "sample",
            "sample an image grid with one row per class",
            ("sample", str(BUNDLE), "-n", "120", "--class", "all", "--seed", "0", "-o", str(grid)),
            (grid,),
        ),
        Step("inspect", "show the contents of the bundle", ("inspect", str(BUNDLE)), ()),
        Step(
            "bench",
            "measure speed, memory and quality against other implementations that run the same network",
            ("bench", str(BUNDLE), "--json", str(figures), "--html", str(report)),
            (figures, report),
        ),
    ]


def is_done(step: Step, done: dict[str, list[str]]) -> bool:
    """Whether the step ran with these arguments and its outputs still exist."""
    exist = bool(step.outputs) and all((ROOT / path).exists() for path in step.outputs)
    return exist and done.get(step.name) == list(step.arguments)


def main(arguments: list[str]) -> int:
    only = set(arguments)
    (ROOT / OUT).mkdir(parents=True, exist_ok=True)
    done: dict[str, list[str]] = json.loads(DONE.read_text()) if DONE.is_file() else {}
    started, rerun = time.monotonic(), False
    for step in steps():
        if only and step.name not in only:
            continue
        if not only and not rerun and is_done(step, done):
            print(f"\n== {step.title}: done before, skipped", flush=True)
            continue
        rerun = rerun or bool(step.outputs)  # later steps depend on it
        print(f"\n== {step.title}\n$ aigc-edge {shlex.join(step.arguments)}", flush=True)
        step_start = time.monotonic()
        status = subprocess.run([COMMAND, *step.arguments], cwd=ROOT, check=False).returncode
        if status:
            print(f"demo: the step '{step.name}' failed (exit code {status}); fix the problem and run make demo again")
            return status
        print(f"   took {time.monotonic() - step_start:.0f} s", flush=True)
        done[step.name] = list(step.arguments)
        DONE.write_text(json.dumps(done, indent=1))
    print(f"\nThe demo took {time.monotonic() - started:.0f} s. Look at:")
    for path in (BUNDLE, OUT / "grid.png", OUT / "why.html", OUT / "report.html", OUT / "bench.json"):
        print(f"  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
