"""The embedded default: packed bundles, inconsistent manifests, and samples that do not depend on batch or threads."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.component import Component
from aigc_edge.bundle.manifest import Manifest
from aigc_edge.bundle.spec import BATCH, ComponentSpec, TensorSpec
from aigc_edge.bundle.storage import Files
from aigc_edge.bundle.write import write_bundle
from aigc_edge.engines.base import EngineSource, physical_cores
from aigc_edge.engines.onnxruntime import OnnxRuntimeEngine
from aigc_edge.errors import AigcEdgeError, BundleError


def test_a_packed_bundle_gives_the_same_bits(network, tmp_path):
    file = tmp_path / "packed.aigc"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(network.folder / "net.onnx", "net.onnx")
    source = network.source()
    packed = OnnxRuntimeEngine.load(source._replace(files=Files(file)), threads=1)
    folder = OnnxRuntimeEngine.load(source, threads=1)
    inputs = network.inputs(3, seed=0)
    np.testing.assert_array_equal(packed.evaluate(inputs)["output"], folder.evaluate(inputs)["output"])
    with pytest.raises(BundleError, match=r"lacks gone\.onnx"):
        OnnxRuntimeEngine.load(network.source("gone")._replace(files=Files(file)), threads=1)


@pytest.mark.parametrize("packed", [False, True])
def test_what_an_engine_reads_is_checked_against_the_manifest(network, tmp_path, packed):
    bundle = tmp_path / "checked.aigc"
    written = write_bundle(bundle, Manifest(name="x"), {"net.onnx": network.folder / "net.onnx", "extra": b"1"})
    (bundle / "net.onnx").write_bytes((network.folder / "net.onnx").read_bytes() + b" ")
    (bundle / "unlisted").write_bytes(b"1")
    if packed:
        file = tmp_path / "packed.aigc"
        with zipfile.ZipFile(file, "w") as archive:
            for path in bundle.iterdir():
                archive.write(path, path.name)
        bundle = file
    files = Bundle(bundle, written)
    assert files.read("extra") == b"1"
    for name, words in (("net.onnx", "does not match its hash"), ("unlisted", "is not listed in the manifest")):
        with pytest.raises(BundleError, match=words):
            files.read(name)


@pytest.mark.parametrize("change", ["name", "dtype", "rank", "fewer"])
def test_a_manifest_of_another_network_is_refused(network, change):
    source = network.source()
    first, *others = source.spec.inputs
    wrong = {
        "name": (first._replace(name="x"), *others),
        "dtype": (first._replace(dtype="float64"), *others),
        "rank": (first._replace(shape=(BATCH, 3)), *others),
        "fewer": (first,),
    }[change]
    spec = ComponentSpec("denoiser", wrong, source.spec.outputs)
    with pytest.raises(BundleError, match="inconsistent"):
        OnnxRuntimeEngine.load(source._replace(component=source.component._replace(spec=spec)), threads=1)


def test_threads_must_be_a_whole_number_from_one(network):
    with pytest.raises(AigcEdgeError, match="at least 1"):
        OnnxRuntimeEngine.load(network.source(), threads=0)
    assert 1 <= physical_cores() <= 4096


def test_a_failing_evaluation_is_a_sentence(network):
    engine = OnnxRuntimeEngine.load(network.source(), threads=1)
    inputs = network.inputs(1, seed=0)
    inputs["class_labels"][:] = 99  # outside the embedding
    with pytest.raises(AigcEdgeError, match="onnxruntime failed while evaluating 'denoiser'"):
        engine.evaluate(inputs)
    inputs["class_labels"][:] = 1
    assert np.isfinite(engine.evaluate(inputs)["output"]).all()  # usable again


def test_the_module_is_light():
    code = "import sys, aigc_edge.engines.onnxruntime; print([m for m in ('torch', 'onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _unet_like(path, random, channels, width, size):
    """Convolutions, group norm, SiLU, a time embedding, attention and a nearest upsampling: what a denoiser is made of."""
    onnx = pytest.importorskip("onnx")
    helper, nodes, constants = onnx.helper, [], []

    def constant(value):
        constants.append(onnx.numpy_helper.from_array(np.asarray(value), f"c{len(constants)}"))
        return constants[-1].name

    def weight(*shape):
        return constant((random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def node(kind, *inputs, out=None, **attributes):
        nodes.append(helper.make_node(kind, list(inputs), [out or f"t{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def silu(x):
        return node("Mul", x, node("Sigmoid", x))

    def norm(x, wide, side):
        groups = constant(np.array([0, 4, -1]))
        flat = node("InstanceNormalization", node("Reshape", x, groups), weight(4), weight(4))
        scaled = node("Mul", node("Reshape", flat, constant(np.array([0, wide, side, side]))), weight(1, wide, 1, 1))
        return silu(node("Add", scaled, weight(1, wide, 1, 1)))

    def conv(x, wide, to, kernel=3, stride=1, out=None):
        extra = {"out": out} if out else {}
        pads = [kernel // 2] * 4
        return node("Conv", x, weight(to, wide, kernel, kernel), weight(to), pads=pads, strides=[stride] * 2, **extra)

    angle = node("MatMul", node("Unsqueeze", "timestep", constant(np.array([1]))), weight(1, width))
    wave = node("Concat", node("Cos", angle), node("Sin", angle), axis=1)
    emb = node("Gemm", wave, weight(width, 2 * width), weight(width), transB=1)
    emb = node("Gemm", silu(node("Add", emb, node("Gather", weight(11, width), "class_labels"))), weight(width, width), transB=1)
    high = conv("sample", channels, width)
    x = node("Add", norm(high, width, size), node("Unsqueeze", emb, constant(np.array([2, 3]))))
    x = conv(x, width, width, stride=2)
    half = size // 2
    q, k, v = (node("Reshape", conv(x, width, width, 1), constant(np.array([0, 2, width // 2, -1]))) for _ in range(3))
    scores = node("Softmax", node("MatMul", node("Transpose", q, perm=[0, 1, 3, 2]), k), axis=-1)
    mixed = node("MatMul", v, node("Transpose", scores, perm=[0, 1, 3, 2]))
    x = norm(node("Add", x, node("Reshape", mixed, constant(np.array([0, width, half, half])))), width, half)
    scales = constant(np.array([1, 1, 2, 2], np.float32))
    x = node("Resize", x, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    x = node("Concat", x, high, axis=1)
    conv(norm(x, 2 * width, size), 2 * width, channels, out="output")
    shape = (BATCH, channels, size, size)
    inputs = (
        TensorSpec("sample", "sample", "float32", shape),
        TensorSpec("timestep", "timestep", "float32", (BATCH,)),
        TensorSpec("class_labels", "class", "int64", (BATCH,)),
    )
    spec = ComponentSpec("denoiser", inputs, (TensorSpec("output", "sample", "float32", shape),))
    graph = helper.make_graph(
        nodes,
        "unet",
        [helper.make_tensor_value_info(t.name, 7 if t.dtype == "int64" else 1, list(t.shape)) for t in inputs],
        [helper.make_tensor_value_info("output", 1, list(shape))],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return EngineSource(Files(path.parent), Component(spec, {"fp32": {"file": path.name}}), "fp32")


@pytest.mark.parametrize(("channels", "width", "size"), [(1, 16, 16), (3, 20, 10)])
def test_a_unet_gives_the_same_bits_for_every_batch_and_thread_count(tmp_path, rng, channels, width, size):
    source = _unet_like(tmp_path / "unet.onnx", rng, channels, width, size)
    inputs = {
        "sample": rng.normal(size=(16, channels, size, size)).astype(np.float32),
        "timestep": rng.normal(size=16).astype(np.float32),
        "class_labels": rng.integers(0, 11, 16),
    }
    wanted = None
    for threads in (1, 2):
        engine = OnnxRuntimeEngine.load(source, threads=threads)
        for size_ in (16, 1, 2, 3, 5, 8):
            parts = [engine.evaluate({k: v[i : i + size_] for k, v in inputs.items()})["output"] for i in range(0, 16, size_)]
            found = np.concatenate(parts)
            wanted = found if wanted is None else wanted
            assert np.abs(wanted).max() > 0
            np.testing.assert_array_equal(found, wanted, err_msg=f"{threads} threads, batch {size_}")
