"""What every registered engine must do alike; an engine that cannot run here says why and is skipped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aigc_edge.engines.base import ENGINES, Engine, require
from aigc_edge.errors import AigcEdgeError, BundleError, EngineUnavailable


@pytest.fixture(params=ENGINES.names())
def engine(request, network) -> Iterator[Engine]:
    kind = ENGINES[request.param]
    reason = kind.unavailable()
    if reason is not None:
        pytest.skip(reason)
    loaded = kind.load(network.source(), threads=1)
    yield loaded
    loaded.close()


def test_all_engines_are_found():
    assert ENGINES["onnxruntime"].batch_invariant  # the default must be
    assert {"onnxruntime", "tensorrt", "torch"} <= set(ENGINES.names())
    assert all(ENGINES[name].name == name for name in ENGINES)


@pytest.mark.parametrize("name", ENGINES.names())
def test_an_engine_that_cannot_run_says_so(name, network, refusal):
    reason = ENGINES[name].unavailable()
    if reason is None:
        assert require(name) is ENGINES[name]
        return
    for act in (lambda: require(name), lambda: ENGINES[name].load(network.source(), threads=1)):
        with pytest.raises(EngineUnavailable) as error:
            act()
        assert refusal(error.value) == reason


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_values_are_right(engine, network, batch):
    inputs = network.inputs(batch, seed=batch)
    found = engine.evaluate(inputs)
    assert set(found) == {"output"}
    assert found["output"].dtype == np.float32
    assert np.abs(found["output"] - network.answer(inputs)).max() <= network.allowed(inputs)


def test_a_binding_reads_its_buffers_anew_and_writes_only_its_outputs(engine, network):
    first, second = network.inputs(3, seed=1), network.inputs(3, seed=2)
    wanted = [engine.evaluate(x)["output"] for x in (first, second)]
    assert not np.array_equal(*wanted)
    frame = np.full((5, *wanted[0].shape[1:]), 77, np.float32)
    buffers = {name: value.copy() for name, value in first.items()}
    call = engine.bind(buffers, {"output": frame[1:4]})
    for values, answer in ((first, wanted[0]), (second, wanted[1]), (first, wanted[0])):
        for name, value in values.items():
            buffers[name][:] = value
        call()
        np.testing.assert_array_equal(frame[1:4], answer)
        np.testing.assert_array_equal(frame[[0, 4]], 77)
        for name, value in values.items():
            np.testing.assert_array_equal(buffers[name], value)


def test_bindings_of_several_sizes_live_side_by_side(engine, network):
    bound = []
    for batch in (4, 1, 2):
        inputs, output = network.inputs(batch, seed=batch), np.zeros((batch, 3, 8, 8), np.float32)
        bound.append((engine.bind(inputs, {"output": output}), inputs, output))
    for call, inputs, output in [*bound, *reversed(bound)]:
        output[:] = np.nan
        call()
        np.testing.assert_array_equal(output, engine.evaluate(inputs)["output"])


def test_a_sample_does_not_depend_on_its_batch(engine, network):
    inputs = network.inputs(16, seed=3)
    whole = engine.evaluate(inputs)["output"]
    for size in (1, 2, 3, 5, 8):
        parts = [engine.evaluate({k: v[i : i + size] for k, v in inputs.items()}) for i in range(0, 16, size)]
        found = np.concatenate([part["output"] for part in parts])
        if engine.batch_invariant:
            np.testing.assert_array_equal(found, whole)
        assert np.abs(found - whole).max() <= network.allowed(inputs)


def _changed(buffers, **values):
    return {name: value for name, value in (buffers | values).items() if value is not None}


def test_buffers_that_do_not_fit_are_refused(engine, network, refusal):
    inputs, output = network.inputs(2, seed=0), np.zeros((2, 3, 8, 8), np.float32)
    sample = inputs["sample"]
    frozen = output.copy()
    frozen.flags.writeable = False
    cases = [
        (_changed(inputs, timestep=None), {"output": output}, "exactly sample, timestep, class_labels"),
        (_changed(inputs, extra=sample), {"output": output}, "exactly"),
        (inputs, {"out": output}, "exactly output"),
        (_changed(inputs, sample=sample.astype(np.float64)), {"output": output}, "float64"),
        (_changed(inputs, class_labels=inputs["class_labels"].astype(np.int32)), {"output": output}, "int64"),
        (_changed(inputs, sample=sample[:, :2]), {"output": output}, "[N, 3, 8, 8]"),
        (_changed(inputs, timestep=inputs["timestep"][:1]), {"output": output}, "one batch size"),
        (inputs, {"output": np.zeros((3, 3, 8, 8), np.float32)}, "one batch size"),
        ({name: value[:0] for name, value in inputs.items()}, {"output": output[:0]}, "N >= 1"),
        (_changed(inputs, sample=np.asfortranarray(sample)), {"output": output}, "non-contiguous"),
        (inputs, {"output": frozen}, "read-only"),
    ]
    for given, outputs, words in cases:
        with pytest.raises(AigcEdgeError) as error:
            engine.bind(given, outputs)
        assert words in refusal(error.value)
    with pytest.raises(AigcEdgeError, match="exactly"):
        engine.evaluate({"sample": sample})


@pytest.mark.parametrize(("format", "words"), [("int3", "no format 'int3'"), ("gone", "gone.onnx"), ("broken", "broken.onnx")])
def test_what_is_not_there_or_damaged_is_a_bundle_error(network, refusal, format, words):
    kind = ENGINES["onnxruntime"]
    if kind.unavailable():
        pytest.skip(kind.unavailable())
    with pytest.raises(BundleError) as error:
        kind.load(network.source(format), threads=1)
    assert words in refusal(error.value)


def test_on_torch_tensors_it_gives_the_same_or_says_why_not(engine, network, refusal):
    torch = pytest.importorskip("torch")
    inputs = network.inputs(3, seed=5)
    sample, timestep, labels = (torch.from_numpy(inputs[name]) for name in ("sample", "timestep", "class_labels"))
    if type(engine).on_device is Engine.on_device:
        with pytest.raises(EngineUnavailable) as error:
            engine.on_device("cpu")
        assert "not on torch tensors" in refusal(error.value)
        return
    if "cpu" not in engine.devices:
        with pytest.raises(EngineUnavailable, match="GPU"):
            engine.on_device("cpu")
        return
    found = engine.on_device("cpu")
    assert found.dtype == "float32"
    difference = found(sample, timestep, class_labels=labels).numpy() - network.answer(inputs)
    assert np.abs(difference).max() <= network.allowed(inputs)
    with pytest.raises(AigcEdgeError, match="'class_labels'"):
        found(sample, timestep)
