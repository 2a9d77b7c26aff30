"""Manifests with conditions and text encoders that cannot be right are refused at opening, in a sentence."""

from __future__ import annotations

import copy
import json

import pytest

from aigc_edge.errors import AigcEdgeError
from aigc_edge.runtime import pipeline

TEXT, DENOISER, ENTRY = ("components", "text_encoder"), ("components", "denoiser"), ("text", "encoders", "text_encoder")
INPUT, FIRST, SECOND = (*TEXT, "inputs", 0), (*TEXT, "outputs", 0), (*TEXT, "outputs", 1)
PROMPT, SCALE = (*DENOISER, "inputs", 2), {"name": "scale", "role": "guidance", "dtype": "float32", "shape": ["N"]}


def put(*path_and_value):
    *path, value = path_and_value

    def change(manifest):
        place = manifest
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        elif path[-1] == "+":
            place.extend(value)
        else:
            place[path[-1]] = value

    return change


def twice(manifest):
    """A second encoder that gives the same conditions."""
    manifest["components"]["text_encoder_2"] = copy.deepcopy(manifest["components"]["text_encoder"])
    manifest["text"]["encoders"]["text_encoder_2"] = dict(manifest["text"]["encoders"]["text_encoder"])


def generator(manifest):
    """A decoder alone beside the encoder."""
    denoiser = manifest["components"].pop("denoiser")
    sample = [tensor for tensor in denoiser["inputs"] if tensor["role"] == "sample"]
    manifest["components"]["decoder"] = denoiser | {"inputs": sample}
    row = {"version": 1, "name": "one", "slots": 1, "init_scale": 1.0, "guidance_scale": 1.0, "rows": []}
    manifest |= {"programs": {"one": row}, "default_program": "one"}


def of_a_decoder(role):
    """A decoder that takes what only the denoiser gets."""

    def change(manifest):
        sample = {"name": "sample", "role": "sample", "dtype": "float32", "shape": ["N", *manifest["sample_shape"]]}
        more = {"name": "more", "role": role, "dtype": "float32", "shape": ["N"]}
        manifest["components"]["decoder"] = {
            "inputs": [sample, more], "outputs": [sample | {"name": "image"}], "formats": {"fp32": {"file": "net.onnx"}}
        }  # fmt: skip

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("components", "text_encoder_4", {"inputs": [], "outputs": [], "formats": {}}), "text_encoder_4 is unknown"),
        (put(*TEXT, "inputs", []), "text_encoder must have one input, tokens int64 of the shape"),
        (put(*INPUT, "role", "class"), "must have one input, tokens int64"),
        (put(*INPUT, "dtype", "float32"), "must have one input, tokens int64"),
        (put(*INPUT, "shape", ["N"]), "must have one input, tokens int64"),
        (put(*INPUT, "shape", ["N", 6, 1]), "must have one input, tokens int64"),
        (put(*TEXT, "outputs", []), "must have outputs, conditions"),
        (put(*FIRST, "role", "sample"), "the output text must be a condition, float32"),
        (put(*FIRST, "dtype", "int64"), "the output text must be a condition, float32"),
        (put(*FIRST, "shape", ["N", 3, 4]), "the input text must be a condition of the shape that components.text_encoder gives"),
        (put(*FIRST, "name", "timestep"), "the input timestep must be a condition of the shape"),
        (put(*SECOND, "name", "text"), "two outputs of text encoders have the name text"),
        (twice, "two outputs of text encoders have the name text"),
        (put("text", None), "components.text_encoder needs manifest.text, which is missing"),
        (put(*TEXT, None), "manifest.text describes text encoders, but components has none"),
        (put("text", "encoders", {}), "encoders.*text_encoder"),
        (put("text", "encoders", "text_encoder_2", {}), "text.encoders.text_encoder_2 is not among the components"),
        (put("text", "negative", "none"), 'text.negative is "none", known are encode and zeros'),
        (put("text", "negative", None), "negative"),
        (put(*ENTRY, "tokenizer", "../vocabulary"), "names ../vocabulary, which is not among manifest.files"),
        (put(*ENTRY, "tokenizer", 3), "tokenizer must be"),
        (put(*ENTRY, "length", 7), "length is 7, components.text_encoder takes 6 tokens"),
        (put(*ENTRY, "length", 0), "length must be a whole number from 1"),
        (put(*ENTRY, "pad", 0.5), "pad must be a whole number"),
        (put(*ENTRY, "pad", None), "pad"),
        (put(*TEXT, "formats", {"int8": {"file": "text.onnx"}}), "no format fp32 of text_encoder: choose one of int8"),
        (put(*TEXT, "formats", "fp32", "file", "ghost"), "names ghost, which is not among manifest.files"),
        (generator, "text_encoder gives conditions, but there is no denoiser to take them"),
        (put(*PROMPT, "dtype", "int64"), "the condition text must be float32"),
        (put(*PROMPT, "role", "tokens"), "the input text takes tokens, which only text encoders do"),
        (put(*PROMPT, "name", "pooled"), "components.denoiser has two inputs with the name pooled"),
        (put(*DENOISER, "inputs", "+", [SCALE, SCALE | {"name": "again"}]), "at most one input of the role guidance"),
        (put(*DENOISER, "inputs", "+", [SCALE | {"shape": ["N", 1]}]), "the input scale must have the shape"),
        (put(*DENOISER, "inputs", "+", [SCALE | {"dtype": "int64"}]), "guidance scale are float32.*not so scale"),
        (of_a_decoder("condition"), "the input more is a condition, which only the denoiser takes"),
        (of_a_decoder("guidance"), "the input more is a guidance scale, which only the denoiser takes"),
    ],
)
def test_what_cannot_be_right_is_refused(engine, toy, make_bundle, change, message):
    value = toy.manifest("text", 0)
    value["components"] = json.loads(json.dumps(value["components"]))  # no list stands in two places
    del value["classes"]
    change(value)
    value.setdefault("text", None)
    bundle = make_bundle("text", 0, **value)
    with pytest.raises(AigcEdgeError, match=message):
        pipeline.open(bundle, engine="analytic")


def test_conditions_without_an_encoder_are_the_caller_s(engine, toy, make_bundle):
    value = toy.manifest("text", 0)
    del value["classes"]
    del value["components"]["text_encoder"]
    assert pipeline.open(make_bundle("text", 0, **value | {"text": None}), engine="analytic").manifest.text is None
