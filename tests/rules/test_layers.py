"""Imports point one way: a module may import its own package and packages of lower layers, never a sibling or a higher one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "aigc_edge"
CSRC = ROOT / "csrc"

# Lowest first. Names of one line are siblings and do not import each other.
LAYERS = [
    ["errors"],
    ["_core", "text", "clock", "hardware"],
    ["registry", "files", "config", "pages"],
    ["images"],
    ["ops"],
    ["nn", "diffusion"],
    ["bundle"],
    ["models", "data"],
    ["train", "metrics", "compress", "export", "targets"],
    ["sources"],
    ["engines"],
    ["runtime"],
    ["bench", "report", "verify"],
    ["compile", "tuning"],
    ["preflight"],
    ["commands"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Base helpers that may use each other.
BASE = {"errors", "registry", "files", "config", "images", "text", "clock", "hardware"}

TORCH = [
    "nn/",
    "models/",
    "train/",
    "export/",
    "compress/",
    "data/",
    "metrics/classifier.py",
    "sources/",
    "preflight/torch_survey.py",
    "engines/torch.py",
]
# diffusion/: importing a diffusers scheduler runs it, and it computes with torch.
# engines/tensorrt_network.py, runtime/device_loop.py: on a GPU torch owns memory and streams, where it is installed.
TORCH_IN_FUNCTIONS = [
    *TORCH,
    "bench/ways/",
    "commands/train.py",
    "ops/",
    "compile/",
    "diffusion/",
    "verify/peers/",
    "engines/tensorrt_network.py",
    "runtime/device_loop.py",
]
ONLY_IN = {
    "tensorrt": ["engines/tensorrt"],
    "tensorrt_rtx": ["engines/tensorrt"],
    "onnx": ["export/", "compress/", "sources/", "engines/tensorrt", "metrics/classifier.py", "preflight/"],
    "openvino": ["engines/openvino.py"],
    "diffusers": ["bench/ways/diffusers_loop.py", "verify/peers/diffusers.py", "sources/", "diffusion/"],
    "transformers": ["sources/"],
    "sklearn": ["data/"],
    "tokenizers": ["runtime/tokenizer.py", "sources/"],
    "tensorboard": ["train/"],
    "tqdm": ["train/", "commands/"],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(module: str) -> str:
    """aigc_edge.bench.way → bench."""
    return module.split(".")[1]


def imports(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[str, int, bool]]:
    """(module, line, within a function) of every import that runs; imports under TYPE_CHECKING do not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other, inside=inside)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer: write the full name"
            if node.module == "aigc_edge":
                yield from ((f"aigc_edge.{alias.name}", node.lineno, inside) for alias in node.names)
            else:
                yield str(node.module), node.lineno, inside
        yield from imports(node, inside=inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def wrong_imports(path: str, source: str) -> list[str]:
    """What the file at `path` (relative to the package) imports against the rules."""
    own = path.split("/")[0].removesuffix(".py")
    found = []
    for module, line, inside in imports(ast.parse(source)):
        top = module.split(".")[0]
        where = f"aigc_edge/{path}:{line} imports {module}"
        if top == "aigc_edge" and "." in module:
            other = part_of(module)
            if other in ("__version__", "open", "Pipeline", "AigcEdgeError") or own == other or path == "__init__.py":
                continue
            if other not in RANK:
                found.append(f"{where}: {other} has no layer: add it to LAYERS")
            elif RANK[other] >= RANK[own] and not {own, other} <= BASE:
                found.append(f"{where}: {own} may import lower layers only")
        elif top in ("torch", "torchvision"):
            places = TORCH_IN_FUNCTIONS if inside else TORCH
            if not path.startswith(tuple(places)):
                found.append(f"{where}: the runtime path does without torch")
        elif top in ONLY_IN and not path.startswith(tuple(ONLY_IN[top])):
            found.append(f"{where}: only {', '.join(ONLY_IN[top])} may")
    return found


def test_every_part_has_a_layer() -> None:
    parts = {short(path).split("/")[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert parts <= set(RANK), "add the part to LAYERS and to DESIGN"


@pytest.mark.parametrize("path", modules(), ids=short)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(short(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/x.py", "from aigc_edge.nn import blocks"),
        ("ops/x.py", "def f():\n    import aigc_edge.engines.base"),
        ("models/x.py", "from aigc_edge.data import load"),
        ("diffusion/x.py", "import torch"),
        ("runtime/pipeline.py", "def f():\n    import torch"),
        ("bench/x.py", "import torch"),
        ("bench/ways/x.py", "import torch"),
        ("engines/onnxruntime.py", "import tensorrt_rtx"),
        ("commands/x.py", "from aigc_edge import cli"),
        ("report/summary.py", "from aigc_edge import bench"),
    ],
)
def test_the_rule_finds_what_breaks_it(path: str, source: str) -> None:
    assert len(wrong_imports(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nn/x.py", "import torch\nfrom aigc_edge.errors import AigcEdgeError"),
        ("bench/ways/x.py", "def f():\n    import torch"),
        ("runtime/pipeline.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("files.py", "from aigc_edge.errors import AigcEdgeError"),
    ],
)
def test_the_rule_lets_pass_what_is_allowed(path: str, source: str) -> None:
    assert wrong_imports(path, source) == []


# C++: a folder may include its own headers and those of the folders named here. "include" is the public C API.
NATIVE = {
    "include": set(),
    "core": set(),
    "ops": {"core"},
    "engine": {"core", "include"},
    "runtime": {"core", "ops", "engine", "include"},
    "bindings": {"core", "ops", "runtime", "include"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
FOREIGN = {
    "torch/": [],
    "ATen/": [],
    "c10/": [],
    "Python.h": ["bindings"],
    "pybind11/": ["bindings"],
    "NvInfer": ["engine"],
    "onnxruntime_c": ["engine"],
}


def native_files() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in {".cpp", ".hpp", ".h", ".cu", ".cuh"})


@pytest.mark.parametrize("path", native_files(), ids=lambda p: p.relative_to(CSRC).as_posix())
def test_includes_point_one_way(path: Path) -> None:
    own = path.relative_to(CSRC).parts[0]
    wrong = []
    for header in INCLUDE.findall(path.read_text(encoding="utf-8")):
        first = header.split("/")[0]
        other = "include" if first == "aigc_edge" else first
        if "/" in header and other in NATIVE and other != own and other not in NATIVE[own]:
            wrong.append(f"{own} may not include {header}")
        wrong += [
            f"{own} may not include {header}" for name, places in FOREIGN.items() if header.startswith(name) and own not in places
        ]
    assert wrong == []
