"""Imports point one way: a module may import its own package and packages of lower layers, never a sibling or a higher one."""

from __future__ import annotations

import re

import pytest

from tests.rules.source import imports, layers, native_sources, parsed, python_sources

RANK = layers()

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
# engines/plans/network.py, runtime/device.py, runtime/networks.py: on a GPU torch owns memory, where it is installed.
TORCH_IN_FUNCTIONS = [
    *TORCH,
    "bench/runners/",
    "commands/train.py",
    "ops/",
    "compile/",
    "diffusion/",
    "verify/peers/",
    "engines/plans/network.py",
    "runtime/device.py",
    "runtime/networks.py",
]
ONLY_IN = {
    "tensorrt": ["engines/plans/module.py"],
    "tensorrt_rtx": ["engines/plans/module.py"],
    "onnx": ["export/", "compress/", "sources/", "engines/plans/graph.py", "metrics/classifier.py", "preflight/"],
    "openvino": ["engines/openvino.py"],
    "diffusers": ["bench/runners/diffusers_loop.py", "verify/peers/diffusers.py", "sources/", "diffusion/"],
    "transformers": ["sources/"],
    "sklearn": ["data/"],
    "tokenizers": ["runtime/tokenizer.py", "sources/"],
    "tensorboard": ["train/"],
    "tqdm": ["train/", "commands/"],
}


def part_of(path: str) -> str:
    """bench/cells.py → bench, cli.py → cli."""
    return path.split("/")[0].removesuffix(".py")


def inner_part(module: str, rank: dict[str, int]) -> str | None:
    """The longest dotted name of the list that `module` is or lies in."""
    names = [name for name in rank if "." in name and f"{module}.".startswith(f"aigc_edge.{name}.")]
    return max(names, key=len, default=None)


def wrong_imports(path: str, source: str, rank: dict[str, int] = RANK) -> list[str]:
    """What the file at `path` (relative to the package) imports against the rules."""
    own, own_module = part_of(path), "aigc_edge." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    found = []
    for item in imports(parsed(source)):
        module = f"{item.module}.{item.name}" if item.module == "aigc_edge" and item.name else item.module
        top = module.split(".")[0]
        where = f"aigc_edge/{path}:{item.line} imports {module}"
        if top == "aigc_edge" and "." in module:
            other = module.split(".")[1]
            if other in ("__version__", "open", "Pipeline", "AigcEdgeError") or path == "__init__.py":
                continue
            if own == other:
                ours, theirs = (inner_part(name, rank) for name in (own_module, f"{module}.{item.name}"))
                if ours and theirs and ours != theirs and rank[theirs] >= rank[ours]:
                    found.append(f"{where}: {ours} may import lower layers only, and {theirs} is none")
            elif other not in rank:
                found.append(f"{where}: {other} has no layer: add it to docs/design.md")
            elif rank[other] >= rank[own]:
                found.append(f"{where}: {own} may import lower layers only")
        elif top in ("torch", "torchvision"):
            places = TORCH_IN_FUNCTIONS if item.in_function else TORCH
            if not path.startswith(tuple(places)):
                found.append(f"{where}: the runtime path does without torch")
        elif top in ONLY_IN and not path.startswith(tuple(ONLY_IN[top])):
            found.append(f"{where}: only {', '.join(ONLY_IN[top])} may")
    return found


def test_the_list_of_layers_is_complete_and_names_nothing_else() -> None:
    files = set(python_sources()) | {"_core.py"}
    parts = {part_of(path) for path in files} - {"__init__"}
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    packages = {name.rpartition(".")[0] for name in modules}
    assert {name for name in RANK if "." not in name} == parts, "the layers block of docs/design.md"
    assert {name for name in RANK if "." in name} <= modules | packages, "the layers block of docs/design.md"


@pytest.mark.parametrize("text", ["", "```layers\n```\n", "```layers\na\n```\n```layers\nb\n```\n", "```layers\na b\na\n```\n"])
def test_a_list_that_is_missing_twice_there_or_ambiguous_is_refused(text: str) -> None:
    with pytest.raises(AssertionError, match=r"(layers block|blocks of layers)"):
        layers(text)


def test_the_lowest_layer_comes_first() -> None:
    assert layers("text\n```layers\na\nb c\nc.d\n```\n") == {"a": 0, "b": 1, "c": 1, "c.d": 2}


def test_permissions_are_for_places_that_exist() -> None:
    places = {*TORCH, *TORCH_IN_FUNCTIONS, *(place for allowed in ONLY_IN.values() for place in allowed)}
    assert {place for place in places if not any(path.startswith(place) for path in python_sources())} == set()


@pytest.mark.parametrize("path", python_sources())
def test_imports_point_one_way(path: str) -> None:
    assert wrong_imports(path, python_sources()[path]) == []


INSIDE = {"bench": 0, "bench.cells": 1, "bench.peers": 2, "bench.peers.torch": 3}


@pytest.mark.parametrize(
    ("path", "source", "right"),
    [
        ("bench/cells.py", "from aigc_edge.bench.peers import x", False),
        ("bench/cells.py", "def f():\n    from aigc_edge.bench.peers.numpy import x", False),
        ("bench/cells.py", "from aigc_edge.bench import peers", False),
        ("bench/peers/numpy.py", "from aigc_edge.bench.peers.torch import x", False),
        ("bench/peers/__init__.py", "import aigc_edge.bench.peers.torch", False),
        ("bench/peers/numpy.py", "from aigc_edge.bench.cells import x", True),
        ("bench/peers/torch.py", "from aigc_edge.bench.peers import x", True),
        ("bench/peers/numpy.py", "from aigc_edge.bench.peers.jax import x", True),
        ("bench/page.py", "from aigc_edge.bench.peers import x", True),
    ],
)
def test_the_order_inside_a_package_counts_where_it_is_declared(path: str, source: str, right: bool) -> None:
    assert (wrong_imports(path, source, INSIDE) == []) is right


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ops/x.py", "from aigc_edge.nn import blocks"),
        ("ops/x.py", "def f():\n    import aigc_edge.engines.base"),
        ("ops/x.py", "from aigc_edge.nowhere import x"),
        ("models/x.py", "from aigc_edge.data import load"),
        ("diffusion/x.py", "import torch"),
        ("runtime/pipeline.py", "def f():\n    import torch"),
        ("bench/x.py", "import torch"),
        ("bench/runners/x.py", "import torch"),
        ("engines/onnxruntime.py", "import tensorrt_rtx"),
        ("commands/x.py", "from aigc_edge import cli"),
        ("report/summary.py", "from aigc_edge import bench"),
        ("errors.py", "def f():\n    from aigc_edge import files"),
    ],
)
def test_the_rule_finds_what_breaks_it(path: str, source: str) -> None:
    assert len(wrong_imports(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("nn/x.py", "import torch\nfrom aigc_edge.errors import AigcEdgeError"),
        ("bench/runners/x.py", "def f():\n    import torch"),
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


def wrong_includes(path: str, source: str) -> list[str]:
    """What the file at `path` (relative to csrc) includes against the rules."""
    own, found = path.split("/")[0], []
    for header in INCLUDE.findall(source):
        first = header.split("/")[0]
        other = "include" if first == "aigc_edge" else first
        if "/" in header and other in NATIVE and other != own and other not in NATIVE[own]:
            found.append(f"{own} may not include {header}")
        found += [
            f"{own} may not include {header}" for name, places in FOREIGN.items() if header.startswith(name) and own not in places
        ]
    return found


@pytest.mark.parametrize("path", native_sources())
def test_includes_point_one_way(path: str) -> None:
    assert wrong_includes(path, native_sources()[path]) == []


@pytest.mark.parametrize(
    ("path", "source", "right"),
    [
        ("core/x.cpp", '#include "ops/op.hpp"', False),
        ("ops/x/cpu.cpp", "#include <aigc_edge/aigc_edge.h>", False),
        ("runtime/x.hpp", "  # include <pybind11/pybind11.h>", False),
        ("engine/x.cpp", "#include <torch/torch.h>", False),
        ("runtime/x.cpp", '#include "ops/op.hpp"\n#include <vector>', True),
        ("bindings/x.cpp", "#include <pybind11/pybind11.h>", True),
    ],
)
def test_the_rule_finds_includes_that_break_it(path: str, source: str, right: bool) -> None:
    assert (wrong_includes(path, source) == []) is right
