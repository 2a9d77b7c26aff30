"""ONNX files as they are published: every oddity compiles to the network with the values that the file itself gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions, open_source

F, I64 = TensorProto.FLOAT, TensorProto.INT64
VP = {"betas": "linear"}
DENOISER = SourceOptions(role="denoiser", prediction="epsilon", schedule=VP)
DECODER = SourceOptions(role="decoder")
IMAGE = ["N", 3, 8, 8]


def write(
    path: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, tuple[int, list[Any]]],
    constants: dict[str, np.ndarray],
    **options: Any,
) -> Path:
    """A file of these nodes."""
    values = [[helper.make_tensor_value_info(k, *v) for k, v in each.items()] for each in (inputs, outputs)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", *values, tensors)
    options = {"opset_imports": [helper.make_opsetid("", 20)]} | options
    onnx.save(helper.make_model(graph, ir_version=10, **options), path)
    return path


def node(op: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], **attributes)


def run(file: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {value.name: inputs[value.name] for value in session.get_inputs()})[0])


def converted(file: Path, options: SourceOptions, **inputs: np.ndarray) -> np.ndarray:
    """What the component of the file returns."""
    (part,) = open_source(str(file), options).components()
    part.write(file.with_name("out.onnx"))
    return run(file.with_name("out.onnx"), **inputs)


def timed(path: Path, kind: int, taken: str = "t", inner: list[Any] | None = None) -> Path:
    """y = x · w · t."""
    nodes = [*(inner or []), node("Cast", [taken], "tf", to=F), node("Reshape", ["tf", "four"], "t4")]
    nodes += [node("Mul", ["x", "t4"], "scaled"), node("Mul", ["scaled", "w"], "y")]
    constants = {"w": np.full((1, 3, 1, 1), 0.5, np.float32), "four": np.array([-1, 1, 1, 1])}
    return write(path, nodes, {"x": (F, IMAGE), "t": (kind, ["N"])}, {"y": (F, IMAGE)}, constants)


@pytest.mark.parametrize("kind", [I64, TensorProto.INT32, TensorProto.UINT8])
@pytest.mark.parametrize(("time", "expected"), [(90.74, 91.0), (90.26, 90.0), (0.51, 1.0)])
def test_integer_timesteps_are_rounded(tmp_path: Path, rng: np.random.Generator, kind: int, time: float, expected: float) -> None:
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    y = converted(timed(tmp_path / "n.onnx", kind), DENOISER, x=x, t=np.full(2, time, np.float32))
    np.testing.assert_allclose(y, x * 0.5 * expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["t_cast", "t_round", "t_one"])
def test_tensors_of_the_file_keep_their_names(tmp_path: Path, rng: np.random.Generator, name: str) -> None:
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    file = timed(tmp_path / "n.onnx", I64, name, [node("Identity", ["t"], name)])
    np.testing.assert_allclose(converted(file, DENOISER, x=x, t=np.full(2, 6.6, np.float32)), x * 3.5, rtol=1e-6)


def branching(path: Path, kind: int = I64) -> Path:
    """y = x · 2 · t if t[0] > 5, else x · t: both branches read the timestep and a weight of the graph around them."""

    def branch(name: str, factor: str) -> Any:
        nodes = [node("Cast", ["t"], f"{name}_f", to=F), node("Mul", [f"{name}_f", factor], f"{name}_m")]
        nodes += [node("Reshape", [f"{name}_m", "four"], f"{name}_4"), node("Mul", ["x", f"{name}_4"], f"{name}_y")]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", F, None)])

    nodes = [node("Gather", ["t", "zero"], "t0"), node("Cast", ["t0"], "t0f", to=F), node("Greater", ["t0f", "five"], "late")]
    nodes.append(node("If", ["late"], "y", then_branch=branch("then", "two"), else_branch=branch("else", "one")))
    constants = {"zero": np.array(0), "five": np.array(5, np.float32), "four": np.array([-1, 1, 1, 1])}
    constants |= {"two": np.array(2, np.float32), "one": np.array(1, np.float32)}
    return write(path, nodes, {"x": (F, IMAGE), "t": (kind, ["N"])}, {"y": (F, IMAGE)}, constants)


@pytest.mark.parametrize(("time", "factor"), [(2.6, 3.0), (7.4, 14.0)])
def test_branches_read_the_adapted_timestep(tmp_path: Path, rng: np.random.Generator, time: float, factor: float) -> None:
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    y = converted(branching(tmp_path / "n.onnx"), DENOISER, x=x, t=np.full(2, time, np.float32))
    np.testing.assert_allclose(y, x * factor, rtol=1e-6)


def channels_last(path: Path, sample: list[Any], output: list[Any], op: str = "Tanh") -> Path:
    return write(path, [node(op, ["x"], "y")], {"x": (F, sample)}, {"y": (F, output)}, {})


def test_images_with_channels_last_are_transposed(tmp_path: Path, rng: np.random.Generator) -> None:
    file = channels_last(tmp_path / "n.onnx", ["N", 8, 16, 3], ["N", 8, 16, 3])
    source = open_source(str(file), DECODER)
    assert (source.sample_shape, source.output_shape) == ((3, 8, 16), (3, 8, 16))
    x = rng.standard_normal((2, 3, 8, 16), dtype=np.float32)
    np.testing.assert_allclose(converted(file, DECODER, x=x), np.tanh(x), rtol=1e-6)


def test_latents_become_an_image_with_channels_last(tmp_path: Path, rng: np.random.Generator) -> None:
    weight = rng.standard_normal((6, 192), dtype=np.float32)
    nodes = [node("MatMul", ["z", "w"], "flat"), node("Reshape", ["flat", "shape"], "y")]
    constants = {"w": weight, "shape": np.array([-1, 8, 8, 3])}
    file = write(tmp_path / "n.onnx", nodes, {"z": (F, ["N", 6])}, {"y": (F, ["N", 8, 8, 3])}, constants)
    assert open_source(str(file), DECODER).output_shape == (3, 8, 8)
    z = rng.standard_normal((2, 6), dtype=np.float32)
    expected = (z @ weight).reshape(2, 8, 8, 3).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(converted(file, DECODER, z=z), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "layout", "expected"),
    [
        (["N", 4, 4, 3], None, (4, 4, 3)),  # not evident: as the runtime takes it
        (["N", 4, 4, 3], "nhwc", (3, 4, 4)),
        (["N", 8, 8, 3], "nchw", (8, 8, 3)),
        (["N", 3, 8, 3], None, (3, 8, 3)),
        (["N", 8, 8, 1], None, (1, 8, 8)),
        (["N", 12, 8, 3], None, (3, 12, 8)),
        (["N", 12, 8, 1], None, (12, 8, 1)),  # a signal or spectrogram as well as an image
        (["N", 12, 8, 1], "nhwc", (1, 12, 8)),
        (["N", 80, 200, 1], None, (80, 200, 1)),
    ],
)
def test_the_layout_is_evident_or_declared(tmp_path: Path, shape: list[Any], layout: Any, expected: tuple[int, ...]) -> None:
    file = channels_last(tmp_path / "n.onnx", shape, shape)
    assert open_source(str(file), SourceOptions(role="decoder", layout=layout)).output_shape == expected


def folded_of(path: Path, sample: list[int], output: list[int]) -> Path:
    """The sample in another shape."""
    return write(
        path,
        [node("Reshape", ["x", "s"], "y")],
        {"x": (F, ["N", *sample])},
        {"y": (F, ["N", *output])},
        {"s": np.array([-1, *output])},
    )


@pytest.mark.parametrize(
    ("sample", "output", "expected"),
    [
        ((16, 8, 4), (2, 16, 16), ((16, 8, 4), (2, 16, 16))),  # the output has its channels first
        ((16, 8, 3), (3, 16, 8), ((16, 8, 3), (3, 16, 8))),
        ((4, 8, 8), (16, 16, 1), ((4, 8, 8), (1, 16, 16))),  # a square image shows it by itself
        ((16, 8, 1), (8, 8, 2), ((1, 16, 8), (2, 8, 8))),
    ],
)
def test_the_layout_of_a_pair(tmp_path: Path, sample: Any, output: Any, expected: Any) -> None:
    source = open_source(str(folded_of(tmp_path / "n.onnx", list(sample), list(output))), DECODER)
    assert (source.sample_shape, source.output_shape) == expected


def test_channels_last_of_any_size(tmp_path: Path, rng: np.random.Generator) -> None:
    file = channels_last(tmp_path / "n.onnx", ["N", "h", "w", 3], ["N", "h", "w", 3])
    options = SourceOptions(role="decoder", size=(8, 8), further_sizes=((16, 8),))
    x = rng.standard_normal((2, 3, 16, 8), dtype=np.float32)
    np.testing.assert_allclose(converted(file, options, x=x), np.tanh(x), rtol=1e-6)


def generator(path: Path, kinds: dict[str, int], outputs: tuple[str, ...] = ("y",)) -> Path:
    """y = x · scale · sigma + label and z = -x, of a published form: scalars beside the sample."""
    nodes, inputs, last = [], {"x": (F, IMAGE)}, "x"
    for name, kind in kinds.items():
        inputs[name] = (kind, ["N"])
        nodes += [node("Cast", [name], f"{name}_f", to=F), node("Reshape", [f"{name}_f", "four"], f"{name}_4")]
        nodes.append(node("Add" if name == "label" else "Mul", [last, f"{name}_4"], f"{name}_y"))
        last = f"{name}_y"
    nodes += [node("Identity", [last], "y"), node("Neg", ["x"], "z")]
    return write(path, nodes, inputs, {name: (F, IMAGE) for name in outputs}, {"four": np.array([-1, 1, 1, 1])})


def test_scalar_inputs_become_constants(tmp_path: Path, rng: np.random.Generator) -> None:
    file = generator(tmp_path / "n.onnx", {"sigma": F, "scale": F})
    options = SourceOptions(role="decoder", inputs={"sigma": "80", "scale": "0.5"})
    x = rng.standard_normal((3, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(converted(file, options, x=x), x * 40, rtol=1e-6)


def test_a_class_of_a_decoder_is_fed(tmp_path: Path, rng: np.random.Generator) -> None:
    file = generator(tmp_path / "n.onnx", {"label": I64})
    x, labels = rng.standard_normal((3, 3, 8, 8), dtype=np.float32), np.array([0, 2, 1])
    y = converted(file, SourceOptions(role="decoder", classes=3), x=x, label=labels)
    np.testing.assert_allclose(y, x + labels[:, None, None, None], rtol=1e-6)


def test_a_condition_of_a_denoiser_has_examples(tmp_path: Path, rng: np.random.Generator) -> None:
    file = generator(tmp_path / "n.onnx", {"scale": F, "sigma": F})
    examples = tmp_path / "scales.npy"
    np.save(examples, rng.uniform(0, 1, 7).astype(np.float32))
    options = SourceOptions(role="denoiser", prediction="denoised", schedule={"time": "sigma"}, inputs={"scale": str(examples)})
    source = open_source(str(file), options)
    (part,) = source.components()
    assert [(tensor.name, tensor.role, tensor.shape) for tensor in part.spec.inputs][1:] == [
        ("scale", "condition", ("N",)),
        ("sigma", "timestep", ("N",)),
    ]
    np.testing.assert_array_equal(source.conditions["scale"], np.load(examples))
    x, scale, sigma = rng.standard_normal((2, 3, 8, 8), dtype=np.float32), np.float32([0.1, 0.9]), np.float32([80, 80])
    y = converted(file, options, x=x, scale=scale, sigma=sigma)
    np.testing.assert_allclose(y, x * (scale * sigma)[:, None, None, None], rtol=1e-6)
    before = source.identity("denoiser")
    np.save(examples, np.ones(7, np.float32))
    assert open_source(str(file), options).identity("denoiser") != before


def test_one_of_several_outputs_is_chosen(tmp_path: Path, rng: np.random.Generator) -> None:
    file = generator(tmp_path / "n.onnx", {}, ("y", "z"))
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    for name, expected in (("y", x), ("z", -x)):
        np.testing.assert_array_equal(converted(file, SourceOptions(role="decoder", result=name), x=x), expected)


@pytest.mark.parametrize(
    ("kinds", "options", "sentence"),
    [
        ({"sigma": F}, DECODER, r"role of the input 'sigma'.*--input sigma=1.0"),
        ({"scale": F, "shift": F}, DENOISER, r"role of the input 'scale'.*cannot be inferred"),
        ({"sigma": F}, SourceOptions(role="decoder", inputs={"sigma": "x.npy"}), r"x.npy cannot be read as an array"),
        ({"sigma": F}, SourceOptions(role="decoder", inputs={"omega": "1"}), r"has no input 'omega': it has x, sigma"),
        ({}, SourceOptions(role="decoder", classes=3), r"--classes was given, but n.onnx takes no class"),
        ({"label": I64}, DECODER, r"takes a class: set the number of classes with --classes"),
        ({}, SourceOptions(role="decoder", result="q"), r"has no output 'q': it returns y, z"),
        ({}, DECODER, r"returns y, z: choose one of them with --result NAME"),
    ],
)
def test_what_a_file_leaves_open_is_asked_for(tmp_path: Path, kinds: Any, options: SourceOptions, sentence: str) -> None:
    outputs = ("y",) if kinds else ("y", "z")
    if options.classes and not kinds:
        outputs = ("y",)
    file = generator(tmp_path / "n.onnx", kinds, outputs)
    with pytest.raises(AigcEdgeError, match=sentence):
        open_source(str(file), options)


def convolving(path: Path, weight: np.ndarray, kind: int, batch: Any = "N", extra: tuple[Any, ...] = ()) -> Path:
    inputs, outputs = {"x": (kind, [batch, 3, 8, 8])}, {"y": (kind, [batch, 3, 8, 8])}
    nodes = [node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]), *extra]
    nodes += [] if extra else [node("Tanh", ["c"], "y")]
    return write(path, nodes, inputs, outputs, {"w": weight})


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions_become_float32(tmp_path: Path, rng: np.random.Generator, kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weight = rng.normal(0, 0.2, (3, 3, 3, 3)).astype(dtype)
    file = convolving(tmp_path / "n.onnx", weight, kind)
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    same = convolving(tmp_path / "same.onnx", weight.astype(np.float32), F)
    np.testing.assert_allclose(converted(file, DECODER, x=x), run(same, x=x), rtol=1e-5, atol=1e-6)
    assert all(t.data_type in (F, I64) for t in onnx.load(tmp_path / "out.onnx").graph.initializer)


def test_a_weight_beyond_float32_is_refused(tmp_path: Path) -> None:
    file = convolving(tmp_path / "n.onnx", np.full((3, 3, 3, 3), 1e300), TensorProto.DOUBLE)
    with pytest.raises(AigcEdgeError, match=r"the weight 'w' of n.onnx contains NaN or infinity"):
        open_source(str(file), DECODER)


def test_local_functions_are_inlined(tmp_path: Path, rng: np.random.Generator) -> None:
    swish = helper.make_function(
        "mine", "Swish", ["v"], ["r"], [node("Sigmoid", ["v"], "s"), node("Mul", ["v", "s"], "r")], [helper.make_opsetid("", 20)]
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    nodes = [helper.make_node("Swish", ["x"], ["y"], domain="mine")]
    file = write(tmp_path / "n.onnx", nodes, {"x": (F, IMAGE)}, {"y": (F, IMAGE)}, {}, functions=[swish], opset_imports=opsets)
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    np.testing.assert_allclose(converted(file, DECODER, x=x), x / (1 + np.exp(-x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("entries", [[("ai.onnx", 20)], [("ai.onnx", 17)], [("", 20), ("ai.onnx", 20)]])
def test_the_alias_of_the_standard_domain(tmp_path: Path, rng: np.random.Generator, entries: list[tuple[str, int]]) -> None:
    """In the opset, nodes, bodies and functions; the weight is computed from a constant, which import does once and for all."""
    alias = {"domain": "ai.onnx"}
    body = [node("Add", ["p", "one"], "s", **alias), node("Cast", ["true"], "more", to=TensorProto.BOOL, **alias)]
    values = {"i": (I64, []), "c": (TensorProto.BOOL, []), "p": (F, None), "more": (TensorProto.BOOL, []), "s": (F, None)}
    infos = {name: helper.make_tensor_value_info(name, *value) for name, value in values.items()}
    loop = helper.make_graph(body, "b", [infos["i"], infos["c"], infos["p"]], [infos["more"], infos["s"]])
    inner = [node("Sigmoid", ["v"], "g", **alias), node("Mul", ["v", "g"], "r", **alias)]
    swish = helper.make_function("mine", "Swish", ["v"], ["r"], inner, [helper.make_opsetid(*entry) for entry in entries])
    nodes = [node("Transpose", ["w"], "wt", perm=[1, 0, 2, 3], **alias), node("Conv", ["x", "wt"], "c0", **alias)]
    nodes += [node("Loop", ["three", "true", "c0"], "l", body=loop, **alias), node("Swish", ["l"], "y", domain="mine")]
    weight = rng.standard_normal((3, 3, 1, 1), dtype=np.float32)
    constants = {"w": weight, "one": np.array(1, np.float32), "three": np.array(3), "true": np.array(True)}
    opsets = [helper.make_opsetid(*entry) for entry in [*entries, ("mine", 1)]]
    tensors = {"x": (F, IMAGE)}, {"y": (F, IMAGE)}
    file = write(tmp_path / "n.onnx", nodes, *tensors, constants, functions=[swish], opset_imports=opsets)
    x = rng.standard_normal((2, 3, 8, 8), dtype=np.float32)
    sums = np.einsum("io,nihw->nohw", weight[:, :, 0, 0], x) + 3
    np.testing.assert_allclose(converted(file, DECODER, x=x), sums / (1 + np.exp(-sums)), rtol=1e-4, atol=1e-4)


def declared(path: Path) -> Path:
    """Only the declared shapes say 1."""
    return convolving(path, np.ones((3, 3, 3, 3), np.float32), F, 1)


def reshaped(path: Path) -> Path:
    """Shapes of intermediate tensors hold the 1, as group norms and attention write it."""
    weight = np.linspace(-0.3, 0.3, 81, dtype=np.float32).reshape(3, 3, 3, 3)
    nodes = [node("Conv", ["x", "w"], "c", pads=[1, 1, 1, 1]), node("Reshape", ["c", "flat"], "f")]
    nodes += [node("Softmax", ["f"], "s", axis=-1), node("Reshape", ["s", "image"], "y")]
    constants = {"w": weight, "flat": np.array([1, 3, 64]), "image": np.array([1, 3, 8, 8])}
    return write(path, nodes, {"x": (F, [1, 3, 8, 8])}, {"y": (F, [1, 3, 8, 8])}, constants)


def merged(path: Path) -> Path:
    """The batch is merged with the channels, so that only one sample at a time comes out right."""
    nodes = [node("Reshape", ["x", "flat"], "f"), node("ReduceMean", ["f", "axis"], "m"), node("Sub", ["f", "m"], "d")]
    nodes.append(node("Reshape", ["d", "image"], "y"))
    constants = {"flat": np.array([3, -1]), "axis": np.array([1]), "image": np.array([1, 3, 8, 8])}
    return write(path, nodes, {"x": (F, [1, 3, 8, 8])}, {"y": (F, [1, 3, 8, 8])}, constants)


@pytest.mark.parametrize("file", [declared, reshaped, merged])
def test_files_for_one_sample_take_batches(tmp_path: Path, rng: np.random.Generator, file: Callable[[Path], Path]) -> None:
    path = file(tmp_path / "n.onnx")
    x = rng.standard_normal((5, 3, 8, 8), dtype=np.float32)
    expected = np.concatenate([run(path, x=x[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(converted(path, DECODER, x=x), expected, rtol=1e-5, atol=1e-5)


def test_another_fixed_batch_is_refused_at_once(tmp_path: Path) -> None:
    file = convolving(tmp_path / "n.onnx", np.ones((3, 3, 3, 3), np.float32), F, 4)
    with pytest.raises(AigcEdgeError, match=r"n.onnx takes batches of 4 only: export it with a dynamic batch, or"):
        open_source(str(file), DECODER)


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [("edm", {"sigma_max": 80.0}), ("epsilon", VP), ("flow", {}), ("denoised", {"time": "sigma", "sigma_max": 3.0})],
)
def test_a_denoiser_is_checked_at_its_own_timesteps(tmp_path: Path, prediction: str, schedule: dict[str, Any]) -> None:
    """exp(4 t) of an EDM network is not finite at the timesteps of another schedule."""
    file = timed(tmp_path / "n.onnx", F)
    source = open_source(str(file), SourceOptions(role="denoiser", prediction=prediction, schedule=schedule))
    rows = {row.timestep for program in source.programs(None, None, None) for row in program.rows}
    (part,) = source.components()
    drawn: list[float] = []
    part.write(tmp_path / "out.onnx")
    part.compare(
        tmp_path / "out.onnx", lambda feeds: (drawn.extend(feeds["t"]), [run(tmp_path / "out.onnx", **feeds)])[1], "twice"
    )
    assert drawn
    assert set(np.float32(drawn)) <= {np.float32(row) for row in rows}


def test_an_edm_network_that_inverts_its_timestep(tmp_path: Path) -> None:
    inner = [node("Mul", ["t", "k"], "kt"), node("Exp", ["kt"], "sigma")]
    nodes = [*inner, node("Reshape", ["sigma", "four"], "s4"), node("Mul", ["x", "s4"], "y")]
    constants = {"k": np.array(4, np.float32), "four": np.array([-1, 1, 1, 1])}
    file = write(tmp_path / "n.onnx", nodes, {"x": (F, IMAGE), "t": (F, ["N"])}, {"y": (F, IMAGE)}, constants)
    (part,) = open_source(str(file), SourceOptions(role="denoiser", prediction="edm")).components()
    part.write(tmp_path / "out.onnx")
    (wrong,) = open_source(str(file), DENOISER).components()
    with pytest.raises(AigcEdgeError, match=r"n.onnx returns values that are not finite .*--schedule"):
        wrong.write(tmp_path / "out.onnx")


@pytest.mark.parametrize("inputs", ["uniform:0:1", "arrays"])
@pytest.mark.parametrize("shape", [IMAGE, ["N", 3, "h", "w"]])
def test_a_network_is_checked_on_its_own_inputs(tmp_path: Path, rng: np.random.Generator, inputs: str, shape: list[Any]) -> None:
    file = channels_last(tmp_path / "n.onnx", shape, shape, "Sqrt")
    np.savez(tmp_path / "own.npz", x=rng.uniform(0, 1, (3, 3, 8, 8)).astype(np.float32))
    given = str(tmp_path / "own.npz") if inputs == "arrays" else inputs
    sizes: dict[str, Any] = {"size": (8, 8), "further_sizes": ((16, 8),)} if shape != IMAGE else {}
    (part,) = open_source(str(file), SourceOptions(role="decoder", calibration=given, **sizes)).components()
    part.write(tmp_path / "out.onnx")
    part.compare(tmp_path / "out.onnx", lambda feeds: [run(file, **feeds)], "again")
    (part,) = open_source(str(file), SourceOptions(role="decoder", **sizes)).components()
    with pytest.raises(AigcEdgeError, match="returns values that are not finite"):
        part.write(tmp_path / "out.onnx")
