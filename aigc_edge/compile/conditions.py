"""Conditions of the samples that a compilation generates: classes, prompts or example condition tensors, in turn."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import aigc_edge
from aigc_edge.bundle.inputs import SampleInputs
from aigc_edge.bundle.sizes import Size
from aigc_edge.compile.evaluator import ConditionsOf
from aigc_edge.compile.request import REFERENCE
from aigc_edge.compile.state import CompileState
from aigc_edge.engines.base import EXACT
from aigc_edge.runtime import tokenizer

Arrays = dict[str, npt.NDArray[Any]]
KINDS = ("conditions", "negative_conditions")  # keyword arguments of Pipeline.sample
INPUTS = "inputs"  # arrays that a program without rows starts from
MOST_SAMPLES, MOST_BYTES = 64, 64 << 20  # of the stored inputs


def store(state: CompileState, conditions: Mapping[str, Any], negative: Mapping[str, Any]) -> None:
    """Store examples [k, ...] of inputs and conditions in the bundle, for calibrating further formats."""
    examples: dict[str, dict[str, str]] = {}
    inputs = {name: array[: _most(state.inputs.arrays)] for name, array in state.inputs.arrays.items()}
    for kind, arrays in zip((INPUTS, *KINDS), (inputs, conditions, negative), strict=True):
        for name, array in arrays.items():
            stream = io.BytesIO()
            labels = np.ndim(array) == 1 and np.asarray(array).dtype.kind in "iub"  # one for each sample
            np.save(stream, np.asarray(array, np.int64 if labels else np.float32), allow_pickle=False)
            file = f"examples/{kind}.{name}.npy"
            state.files[file] = stream.getvalue()
            examples.setdefault(kind, {})[name] = file
    if examples:
        state.manifest = state.manifest._replace(examples=examples)


def conditions_of(state: CompileState, size: Size | None = None) -> ConditionsOf:
    """A function from sample indices to the keyword arguments of `Pipeline.sample` for them.

    `size` is the image size (None: the default, which is that of arrays). Arrays that a program without rows starts from are
    those that were held out of calibration and training.
    """
    stored = {kind: _load(state, kind) for kind in KINDS}
    classes, prompts, inputs = state.num_classes, state.prompts, state.inputs.part(held_out=True)
    one_shot = inputs.kind != "normal" and not state.programs[state.default_program].rows

    def of(index: npt.NDArray[np.int64]) -> dict[str, Any]:
        options: dict[str, Any] = {"classes": index % classes} if classes else {}
        if one_shot:
            spec = state.components[state.main].onnx.at(size or state.manifest.default_size)
            by_role = {tensor.role: tensor for tensor in spec.inputs}
            sample, labels = by_role["sample"], by_role.get("class")
            shape = [int(size) for size in sample.shape[1:]]
            options["latents"] = inputs.take(sample.name, shape, index, state.request.seed)
            if labels is not None and labels.name in inputs.arrays:
                stored_labels = np.asarray(inputs.arrays[labels.name], np.int64)  # bundles once stored them as float32
                options["classes"] = stored_labels[index % len(stored_labels)]
        if prompts:
            options["prompt"] = [prompts[i % len(prompts)] for i in index]
        for kind, arrays in stored.items():
            if arrays:
                options[kind] = {name: array[index % len(array)] for name, array in arrays.items()}
        return options

    return of


def arrays(state: CompileState) -> tuple[Arrays | None, Arrays | None]:
    """Conditions and negative conditions [k, ...] for calibration; prompts are encoded by the bundle's own text encoders."""
    if not state.prompts:
        own, other = (_load(state, kind) or None for kind in KINDS)
        return own, other
    if state.encoded is None:
        with aigc_edge.open(state.draft([REFERENCE]), threads=state.request.threads, verify="none", precision=EXACT) as pipeline:
            encoded = pipeline.encode(list(state.prompts))
            if state.manifest.text and state.manifest.text.negative == "zeros":
                negative = {name: np.zeros_like(array[:1]) for name, array in encoded.items()}
            else:
                negative = pipeline.encode([""])
        state.encoded = encoded, negative
    return state.encoded


def tokens(state: CompileState, part: str) -> npt.NDArray[np.int64]:
    """The token ids [k, L] of the calibration prompts for a text encoder, each once, and of the empty prompt; [0, 0] without."""
    entry = state.manifest.text.encoders.get(part) if state.manifest.text else None
    if entry is None or not state.prompts or tokenizer.unavailable():
        return np.zeros((0, 0), np.int64)
    file = state.files[entry.tokenizer]
    data = file if isinstance(file, bytes) else file.read_bytes()
    tokenize = tokenizer.tokenizer(data, entry.length, entry.pad, entry.tokenizer)
    return np.stack([tokenize(prompt) for prompt in dict.fromkeys([*state.prompts, ""])])


def load_inputs(state: CompileState) -> SampleInputs:
    """What a program without rows starts from, as the bundle's manifest records it."""
    entry = state.manifest.calibration
    arrays = _load(state, INPUTS)
    return SampleInputs("arrays", arrays=arrays) if arrays else SampleInputs.parse(entry.inputs if entry else None)


def _most(arrays: Mapping[str, npt.NDArray[Any]]) -> int:
    """The number of samples that are stored."""
    each = sum(4 * array[0].size for array in arrays.values()) or 1
    return max(1, min(MOST_SAMPLES, MOST_BYTES // each))


def _load(state: CompileState, kind: str) -> Arrays:
    files = state.manifest.examples.get(kind, {})
    return {name: np.load(_stream(state.files[file]), allow_pickle=False) for name, file in files.items()}


def _stream(file: Path | bytes) -> Any:
    return io.BytesIO(file) if isinstance(file, bytes) else file
