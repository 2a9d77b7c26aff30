"""Make a Python environment that holds what a make target needs; a second run finds it finished and does nothing.

    python3 tools/setup.py dev       .venv          the project, editable, with everything: make setup, demo, lint, bench
    python3 tools/setup.py test      .venv-test     the built wheel with everything: make test
    python3 tools/setup.py runtime   .venv-runtime  the built wheel and what it needs to sample, no torch: make test

Only the standard library is used here. pip's own settings (files, variables) apply. TORCH_INDEX may name a package index that
has torch's CPU build; TORCH may name another version of it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / "build" / "wheel"
TORCH = os.environ.get("TORCH", "2.13.0")
EXTRAS = {"dev": "dev,docs,train,diffusers,text", "test": "dev,docs,train,diffusers,text", "runtime": ""}
# Large, or not made for every platform: nice to have.
OPTIONAL = {"dev": ("tensorrt", "openvino"), "test": ("tensorrt", "openvino"), "runtime": ()}
# Compared with in tests, by one module that needs little: what the whole package depends on would be gigabytes for nothing.
BARE = ("k-diffusion>=0.1.1,<0.2",)  # 0.1.1: dpmpp_3m_sde; 0.2 is not out
SOURCES = ("CMakeLists.txt", "cmake", "csrc")
MIN_PYTHON = (3, 10)
INSTALL = ("-m", "pip", "install", "-q", "--no-compile")  # what is imported compiles itself: half a minute saved


class SetupError(Exception):
    """The machine lacks something; the message says what and how to get it."""


def missing(version: str) -> list[str]:
    """What this machine lacks, one sentence each, with the Debian package that brings it."""
    found: list[str] = []
    if sys.version_info < MIN_PYTHON:
        found.append(f"Python {version} is too old, 3.10 or later is needed: call make with PYTHON=python3.12 (or what you have)")
    if not importlib.util.find_spec("venv") or not importlib.util.find_spec("ensurepip"):
        found.append(f"Python's venv module is incomplete: sudo apt-get install python{version}-venv")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        found.append(f"Python.h is missing, the native core needs it to compile: sudo apt-get install python{version}-dev")
    compilers = [os.environ.get("CXX", "").split(" ")[0], "c++", "g++", "clang++"]
    if not any(name and shutil.which(name) for name in compilers):
        found.append("there is no C++ compiler: sudo apt-get install g++")
    return found


def has_nvidia_gpu() -> bool:
    """Whether an NVIDIA GPU with a driver is there (a device node or a driver, not merely the toolkit)."""
    nodes = ("/dev/nvidia0", "/dev/nvhost-gpu", "/dev/nvgpu", "/proc/driver/nvidia/version")
    return any(Path(node).exists() for node in nodes)


def torch_attempts(python: str, gpu: bool, index: str) -> list[tuple[list[list[str]], str]]:
    """Ways to install torch, best first: each the commands that do it and a warning to print when it is the one that worked."""
    pip = [python, *INSTALL]
    if gpu or sys.platform == "darwin":
        return [([[*pip, f"torch=={TORCH}"]], "")]
    ways: list[tuple[list[list[str]], str]] = [([[*pip, f"torch=={TORCH}+cpu"]], "")]
    if index:
        ways.append(([[*pip, "--index-url", index, f"torch=={TORCH}"]], ""))
    uv = [python, "-m", "uv", "pip", "install", "-q", "--python", python, "--torch-backend=cpu", f"torch=={TORCH}"]
    ways.append(([[*pip, "uv"], uv], ""))
    warning = "torch's CPU build was not found, its plain build was taken: it may hold gigabytes of CUDA; TORCH_INDEX avoids it"
    ways.append(([[*pip, f"torch=={TORCH}"]], warning))
    return ways


def run(command: Sequence[str], *, quiet: bool = False) -> bool:
    """Run a command in the repository and say whether it succeeded."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, cwd=ROOT, stdout=sink, stderr=sink, check=False).returncode == 0


def install_torch(python: str) -> None:
    """Install torch, its CPU build unless a GPU is here."""
    ways = torch_attempts(python, has_nvidia_gpu(), os.environ.get("TORCH_INDEX", ""))
    for place, (commands, warning) in enumerate(ways):
        last = place == len(ways) - 1
        if all(run(command, quiet=not last) for command in commands):
            if warning:
                print(f"warning: {warning}", file=sys.stderr)
            return
    raise SetupError(f"torch {TORCH} could not be installed; pip's message stands above (TORCH=<version> asks for another one)")


def digest(paths: Iterable[Path], *extra: str) -> str:
    """sha256 over names and contents of files (folders: all that is in them) and over `extra`."""
    state = hashlib.sha256("\n".join(extra).encode())
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                state.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return state.hexdigest()


def build_wheel(python: str) -> Path:
    """Build the wheel when a source changed since it was last built; returns its path."""
    sources = [ROOT / name for name in (*SOURCES, "pyproject.toml", "README.md", "LICENSE", "aigc_edge")]
    stamp, now = WHEELS / "stamp", digest(sources, platform.python_version())
    wheels = list(WHEELS.glob("*.whl"))
    if len(wheels) == 1 and stamp.is_file() and stamp.read_text() == now:
        return wheels[0]
    shutil.rmtree(WHEELS, ignore_errors=True)
    print("building the wheel", flush=True)
    if not run([python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(WHEELS), str(ROOT)]):
        raise SetupError("the wheel could not be built; the compiler's or pip's message stands above")
    stamp.write_text(now)
    return next(WHEELS.glob("*.whl"))


def install_extra(python: str, target: str, extra: str) -> None:
    """Install one optional extra; without it the project works, less what the extra brings."""
    if not run([python, *INSTALL, *target_with(target, extra)]):
        print(f"warning: the extra '{extra}' could not be installed: what needs it is left out", file=sys.stderr)


def install_bare(python: str) -> None:
    """Install what tests compare with, without its dependencies; where it is missing those tests are skipped."""
    for package in BARE:
        if not run([python, *INSTALL, "--no-deps", package]):
            print(f"warning: {package} could not be installed: the tests that compare with it are skipped", file=sys.stderr)


def target_with(target: str, extras: str) -> list[str]:
    """pip's arguments for the project with extras: the checkout, editable, or a wheel's path."""
    named = f"{target}[{extras}]" if extras else target
    return ["-e", named] if target == "." else [named]


def make(kind: str) -> Path:
    """Make or complete the environment `kind`; returns its Python."""
    started = time.monotonic()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    venv = ROOT / (".venv" if kind == "dev" else f".venv-{kind}")
    python = venv / "bin" / "python"
    stamp = venv / "aigc-edge-setup.json"
    done = json.loads(stamp.read_text()) if stamp.is_file() else {}
    known = {"packages": digest([ROOT / "pyproject.toml", Path(__file__)], sys.version, TORCH, str(venv))}
    if kind == "dev":
        known["code"] = digest([ROOT / name for name in SOURCES])
        if done == known:
            return python
    lacks = missing(version)
    if lacks:
        raise SetupError("; ".join(lacks))
    if done.get("packages") != known["packages"]:
        print(f"setting up {venv.name} (a few minutes, once)", flush=True)
        if kind != "dev" or not python.exists():
            shutil.rmtree(venv, ignore_errors=True)
            if not run([sys.executable, "-m", "venv", str(venv)]):
                raise SetupError(f"the environment {venv} could not be made: sudo apt-get install python{version}-venv")
        if EXTRAS[kind]:
            install_torch(str(python))
    target = "." if kind == "dev" else str(build_wheel(str(python)))
    if kind != "dev":
        known["code"] = digest([Path(target)])
        if done == known:
            return python
        run([str(python), "-m", "pip", "uninstall", "-q", "-y", "aigc-edge"], quiet=True)
    stamp.unlink(missing_ok=True)
    if not run([str(python), *INSTALL, *target_with(target, EXTRAS[kind])]):
        raise SetupError("the project could not be installed; the compiler's or pip's message stands above")
    for extra in OPTIONAL[kind]:
        install_extra(str(python), target, extra)
    if EXTRAS[kind]:
        install_bare(str(python))
    stamp.write_text(json.dumps(known))
    print(f"{venv.name} is ready after {time.monotonic() - started:.0f} s", flush=True)
    return python


def main(arguments: Sequence[str]) -> int:
    kinds = arguments or ["dev"]
    unknown = [kind for kind in kinds if kind not in EXTRAS]
    if unknown:
        print(f"setup: unknown environment {unknown[0]!r}: choose of {', '.join(EXTRAS)}", file=sys.stderr)
        return 2
    try:
        for kind in kinds:
            make(kind)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
