"""What an ONNX file's message shows to be wrong is refused before anything that takes long to import is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
helper = onnx.helper

HEAVY = (
    "torch",
    "onnx.helper",
    "ml_dtypes",
    "onnx_ir",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "scipy",
    "PIL",
    "aigc_edge.compile",
)
RUN = """
import json, sys
from aigc_edge.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""
IMAGE: list[Any] = ["N", 3, 8, 8]


def _save(path: Path, nodes: list[Any], shape: list[Any] = IMAGE, outputs: str = "y", **more: Any) -> None:
    inputs = [helper.make_tensor_value_info(name, 1, shape) for name in more.get("inputs", "x")]
    results = [helper.make_tensor_value_info(name, 1, shape) for name in outputs]
    constants = [onnx.numpy_helper.from_array(value, name) for name, value in more.get("constants", {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, results, constants)
    opsets = [helper.make_opsetid(domain, version) for domain, version in (("", 20), *more.get("domains", ()))]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def _truncated(path: Path) -> None:
    constants = {"w": np.ones(500, np.float32), "s": np.ones(1, np.float32)}
    _save(path, [helper.make_node("Mul", ["x", "s"], ["y"])], constants=constants)
    path.write_bytes(path.read_bytes()[:1500])


def _foreign(path: Path) -> None:
    _save(path, [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], domains=[("com.microsoft", 1)])


def _two_results(path: Path) -> None:
    _save(path, [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["z"])], outputs="yz")


def _unknown_condition(path: Path) -> None:
    _save(path, [helper.make_node("Add", ["x", "c"], ["y"])], inputs="xc")


def _drawing(path: Path) -> None:
    _save(path, [helper.make_node("RandomNormalLike", ["x"], ["r"]), helper.make_node("Add", ["x", "r"], ["y"])])


def _drawing_in_a_branch(path: Path) -> None:
    value = helper.make_tensor_value_info("r", 1, None)
    bodies = {
        name: helper.make_graph([helper.make_node(op, ["x"], ["r"])], name, [], [value])
        for name, op in (("then_branch", "RandomUniformLike"), ("else_branch", "Neg"))
    }
    flag = [helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0), helper.make_node("Cast", ["m"], ["b"], to=9)]
    _save(path, [*flag, helper.make_node("If", ["b"], ["y"], **bodies)])


def _quantised(path: Path) -> None:
    nodes = [helper.make_node("QuantizeLinear", ["x", "s"], ["q"]), helper.make_node("DequantizeLinear", ["q", "s"], ["y"])]
    _save(path, nodes, constants={"s": np.float32(0.1).reshape(())})


def _fixed_batch(path: Path) -> None:
    _save(path, [helper.make_node("Neg", ["x"], ["y"])], shape=[5, 3, 8, 8])


CASES: list[tuple[Callable[[Path], None], str]] = [
    (_truncated, "is not a readable ONNX file"),
    (_foreign, "uses com.microsoft::Gelu"),
    (_two_results, "returns y, z: choose one of them with --result NAME"),
    (_unknown_condition, "takes c beside the sample"),
    (_drawing, "draws random numbers (RandomNormalLike)"),
    (_drawing_in_a_branch, "draws random numbers (RandomUniformLike)"),
    (_quantised, "is quantised already (DequantizeLinear, QuantizeLinear)"),
    (_fixed_batch, "takes batches of 5 only"),
]


@pytest.mark.parametrize(("write", "words"), CASES)
def test_a_file_is_refused_before_heavy_imports(write: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    write(tmp_path / "bad.onnx")
    command = [sys.executable, "-c", RUN, "compile", "bad.onnx", "--role", "decoder", "-o", "out.aigc"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 2
    assert words in done.stderr
    assert [name for name in HEAVY if name in modules] == []
    assert not (tmp_path / "out.aigc").exists()


def test_weights_quantised_alone_are_not_refused(tmp_path: Path) -> None:
    from aigc_edge.sources.base import SourceOptions
    from aigc_edge.sources.onnx.signature import signature_of

    constants = {"q": np.arange(-4, 5, dtype=np.int8).reshape(3, 3, 1, 1), "s": np.float32(0.1).reshape(())}
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("Conv", ["x", "w"], ["y"])]
    _save(tmp_path / "a.onnx", nodes, constants=constants)
    assert signature_of(tmp_path / "a.onnx", SourceOptions(role="decoder")).adaptation.output == "y"


def test_messages_are_those_of_onnx(tmp_path: Path) -> None:
    """Whether onnx is imported before or after its messages."""
    _two_results(tmp_path / "a.onnx")
    code = (
        "import sys; from pathlib import Path; from aigc_edge.sources.onnx.tensors import read_graph; "
        "model = read_graph(Path('a.onnx')); assert 'onnx' not in sys.modules; import onnx; "
        "assert type(model) is onnx.ModelProto; assert model == onnx.load('a.onnx'); onnx.checker.check_model(model)"
    )
    for first in ("", "import onnx; "):
        text = first + (code.replace("assert 'onnx' not in sys.modules; ", "") if first else code)
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
