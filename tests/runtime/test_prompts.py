"""Prompts from text to samples: the bundle's tokenizer and encoders against the same arithmetic without them."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

from aigc_edge.bundle.bundle import Bundle
from aigc_edge.errors import AigcEdgeError, BundleError
from aigc_edge.runtime import pipeline
from aigc_edge.runtime import text_encoders as encoders


@pytest.fixture
def text(engine, toy, open_toy):
    """text(**changes) opens a bundle with one encoder."""
    engine.networks |= {"denoiser": toy.text_denoiser, "text_encoder": toy.text_encoder}
    return lambda classes=0, **options: open_toy("text", classes, **options)


def encoded(toy, *prompts):
    """What the bundle's encoder makes of prompts, tokenized by hand."""
    return toy.text_encoder(np.array([toy.ids_of(prompt) for prompt in prompts]))


def section(negative="encode", **entry):
    whole = {"tokenizer": "tokenizer/text.json", "length": 6, "pad": 1} | entry
    return {"encoders": {"text_encoder": whole}, "negative": negative}


@pytest.mark.parametrize("negative", ["encode", "zeros"])
def test_a_prompt_is_the_conditions_of_its_tokens(text, toy, negative):
    opened = text(text=section(negative))
    own, nothing = encoded(toy, "A red cat on the moon, on the moon"), encoded(toy, "")
    if negative == "zeros":
        nothing = {name: np.zeros_like(value) for name, value in nothing.items()}
    found = opened.sample(3, prompt="A red cat on the moon, on the moon", output="float32")
    wanted = opened.sample(3, conditions=own, negative_conditions=nothing, output="float32")
    np.testing.assert_array_equal(found, wanted)
    assert np.abs(found - opened.sample(3, prompt="a cat", output="float32")).max() > 1e-3
    np.testing.assert_array_equal(opened.sample(3, conditions=own, output="float32"), wanted)  # of a text encoder: its nothing


def test_each_sample_may_have_its_own_prompt(text, toy):
    opened, prompts = text(), ["a cat", "the moon", "a cat"]
    away = ["red", "", "the red moon on a red moon"]
    found = opened.sample(3, seed=5, prompt=prompts, negative_prompt=away, output="float32")
    for index, (prompt, other) in enumerate(zip(prompts, away, strict=True)):
        alone = opened.sample(1, seed=5 + index, prompt=prompt, negative_prompt=other, output="float32")
        np.testing.assert_array_equal(found[index : index + 1], alone)
    wanted = opened.sample(
        3, seed=5, conditions=encoded(toy, *prompts), negative_conditions=encoded(toy, *away), output="float32"
    )
    np.testing.assert_array_equal(found, wanted)


def test_a_long_prompt_is_cut_and_an_unknown_word_is_unknown(toy, text):
    found = text().encode(["a red cat on the moon", "a dog"])
    for name, value in encoded(toy, "a red cat on", "a dog").items():
        np.testing.assert_array_equal(found[name], value)
    assert toy.ids_of("a red cat on the moon")[-1] == 3  # the end survives the cut
    assert found["text"].shape == (2, 4, 3)


def test_encoders_are_loaded_when_they_are_needed_and_prompts_are_kept(text, engine):
    opened = text()
    opened.sample(2, conditions=opened.encode("a cat"), guidance_scale=1.0)
    opened.sample(2, prompt="a cat", guidance_scale=1.0)
    calls = [name for name, _ in engine.calls].count("text_encoder")
    assert calls == 1
    opened.close_encoders()
    assert opened._encoders.loaded == []
    opened.sample(2, prompt="a cat", guidance_scale=1.0)
    assert opened._encoders.loaded == []  # nothing was loaded again for what is known
    opened.sample(1, prompt=["the moon"], negative_prompt="a cat")
    assert opened._encoders.loaded == ["text_encoder"]
    assert [name for name, _ in engine.calls].count("text_encoder") == 2
    assert {batch for name, batch in engine.calls if name == "text_encoder"} == {1}


def test_no_more_prompts_are_kept_than_is_said(text, engine):
    opened = text()
    prompts = [f"{'a ' * i}" for i in range(3)] + [f"cat {i}" for i in range(encoders.CACHED_PROMPTS)]
    found = opened.encode(prompts)
    assert found["pooled"].shape == (len(prompts), 2)
    assert len(opened._encoders._cache) == encoders.CACHED_PROMPTS
    engine.calls.clear()
    np.testing.assert_array_equal(opened.encode(prompts[-1])["text"][0], found["text"][-1])
    assert engine.calls == []
    np.testing.assert_array_equal(opened.encode(prompts[0])["text"][0], found["text"][0])
    assert engine.calls == [("text_encoder", 1)]


def test_nothing_is_encoded_that_guidance_does_not_need(text, engine):
    opened = text()
    opened.sample(1, prompt="a cat", guidance_scale=1.0)
    assert [name for name, _ in engine.calls].count("text_encoder") == 1
    opened.sample(1, prompt="a cat", negative_prompt="the moon", guidance_scale=1.0)
    assert [name for name, _ in engine.calls].count("text_encoder") == 1


def test_several_encoders_and_a_condition_of_the_caller(engine, toy, make_bundle):
    """One encoder gives "text", another "pooled" with other tokens; "size" is the caller's."""
    components = toy.manifest("text", 0)["components"]
    first = components["text_encoder"]
    second = first | {
        "inputs": [first["inputs"][0] | {"shape": ["N", 4], "name": "ids"}],
        "outputs": [first["outputs"][1]],
    }
    components |= {"text_encoder": first | {"outputs": [first["outputs"][0]]}, "text_encoder_2": second}
    components["denoiser"]["inputs"].append({"name": "size", "role": "condition", "dtype": "float32", "shape": ["N"]})
    entries = section()
    entries["encoders"]["text_encoder_2"] = {"tokenizer": "tokenizer/text.json", "length": 4, "pad": 0}

    def network(sample, timestep, text, pooled, size):
        return (toy.text_denoiser(sample, timestep, text, pooled) * size[:, None, None, None]).astype(np.float32)

    engine.networks |= {
        "denoiser": network,
        "text_encoder": lambda input_ids: {"text": toy.text_encoder(input_ids)["text"]},
        "text_encoder_2": lambda ids: {"pooled": (ids[:, 1:3] * 0.1 + ids[:, 3:]).astype(np.float32)},
    }
    opened = pipeline.open(make_bundle("text", 0, components=components, text=entries), engine="analytic")
    size = {"size": np.array([0.5, 0.7], np.float32)}
    found = opened.sample(2, prompt="a cat", conditions=size, negative_conditions=size, output="float32")
    ids = [np.array([[0 if i == 1 else i for i in toy.ids_of(prompt, 4)]]) for prompt in ("a cat", "")]
    pooled = [(tokens[:, 1:3] * 0.1 + tokens[:, 3:]).astype(np.float32) for tokens in ids]
    given = [
        size | {"text": np.repeat(encoded(toy, prompt)["text"], 2, 0), "pooled": np.repeat(value, 2, 0)}
        for prompt, value in zip(("a cat", ""), pooled, strict=True)
    ]
    np.testing.assert_allclose(
        found, opened.sample(2, conditions=given[0], negative_conditions=given[1], output="float32"), atol=1e-6
    )
    with pytest.raises(AigcEdgeError, match=r"generates by conditions: give conditions=\{'size': float32 \[2\]\}"):
        opened.sample(2, prompt="a cat")
    with pytest.raises(AigcEdgeError, match=r"leads away from: give negative_conditions=\{'size': float32 \[2\]\}"):
        opened.sample(2, prompt="a cat", conditions=size)


def test_threads_may_share_a_pipeline_with_prompts(text):
    opened, prompts = text(), ["a cat", "the moon", "red", "on"]
    fresh = text()
    expected = {prompt: fresh.sample(1, prompt=prompt) for prompt in prompts}
    got = {}
    workers = [threading.Thread(target=lambda p=p: got.update({p: opened.sample(1, prompt=p)})) for p in prompts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for prompt, images in expected.items():
        np.testing.assert_array_equal(got[prompt], images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"give a prompt, or give conditions=\{'text': float32 \[2, 4, 3\], 'pooled': float32 \[2, 2\]\}"),
        ({"prompt": 7}, "prompt is 7: it must be a text, or a list with one for each of the 2 samples"),
        ({"prompt": ["a", 3]}, r"prompt is \['a', 3\]: it must be a text"),
        ({"prompt": ["a"]}, "prompt holds 1 texts: it must hold one for each of the 2 samples"),
        ({"prompt": []}, "prompt holds 0 texts"),
        ({"prompt": "a", "negative_prompt": ["a"] * 3}, "negative_prompt holds 3 texts"),
        ({"prompt": "\udcff"}, r"prompt '\\udcff' cannot be tokenized"),
        ({"prompt": "a", "conditions": {"text": np.zeros((2, 4, 3))}}, "conditions has 'text' beside a prompt"),
        ({"conditions": {"text": np.zeros((2, 4, 3))}}, r"give a prompt, or give conditions=\{'pooled': float32 \[2, 2\]\}"),
        ({"conditions": {"txt": np.zeros((2, 4, 3))}}, "conditions has 'txt', which .* does not take: it takes text, pooled"),
        (
            {"conditions": {"text": np.zeros((2, 3, 4))}},
            r"conditions 'text' has the shape \[2, 3, 4\]: it must have \[2, 4, 3\], or",
        ),
        ({"conditions": {"text": "a cat"}}, r"conditions 'text' is str: give an array, float32 \[2, 4, 3\]"),
        ({"prompt": "a", "negative_conditions": {"text": np.zeros((5, 4, 3))}}, r"negative_conditions 'text' has the shape \[5,"),
    ],
)
def test_what_is_not_allowed_is_said(text, arguments, message):
    with pytest.raises(AigcEdgeError, match=message):
        text().sample(2, **arguments)


def test_what_takes_no_prompt_says_so(open_toy, toy):
    with pytest.raises(AigcEdgeError, match=r"takes no conditions: leave prompt and negative_prompt out"):
        open_toy().sample(1, prompt="a cat", negative_prompt="a dog")
    with pytest.raises(AigcEdgeError, match=r"has no text encoder: it cannot encode a prompt"):
        open_toy().encode("a cat")
    with pytest.raises(AigcEdgeError, match=r"takes no conditions: leave conditions out"):
        open_toy("gan").sample(1, conditions={"text": np.zeros((1, 4, 3))})
    components = {k: v for k, v in toy.manifest("text")["components"].items() if k != "text_encoder"}
    with pytest.raises(
        AigcEdgeError, match=r"has no text encoder, so that it takes no prompt: give conditions=\{'text': float32"
    ):
        open_toy("text", components=components, text=None).sample(1, prompt="a cat")


def test_a_closed_pipeline_encodes_nothing(text):
    opened = text()
    opened.encode("a cat")
    opened.close()
    with pytest.raises(AigcEdgeError, match="closed"):
        opened.sample(1, prompt="the moon")
    with pytest.raises(AigcEdgeError, match="closed"):
        opened.sample(1, prompt="a cat", guidance_scale=1.0)


def test_without_tokenizers_conditions_still_work(text, toy, monkeypatch):
    opened, found = text(), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "tokenizers" else found(name, *rest))
    with pytest.raises(AigcEdgeError, match=r"needs the package tokenizers.*pip install 'aigc-edge\[text\]', or give conditions"):
        opened.sample(1, prompt="a cat")
    own = encoded(toy, "a cat")
    assert opened.sample(1, conditions=own, negative_conditions=own).shape[0] == 1


def test_an_encoder_that_is_not_finite_is_named(text, engine, toy):
    engine.networks["text_encoder"] = lambda input_ids: {k: v + np.nan for k, v in toy.text_encoder(input_ids).items()}
    with pytest.raises(AigcEdgeError, match=r"text_encoder returned a value that is not finite in 'text' for the prompt 'a cat'"):
        text().sample(1, prompt="a cat")


@pytest.mark.parametrize("verify", ["used", "none"])
def test_changed_files_are_refused_when_they_are_needed(engine, toy, make_bundle, verify):
    engine.networks |= {"denoiser": toy.text_denoiser, "text_encoder": toy.text_encoder}
    bundle = make_bundle("text", 0)
    opened = pipeline.open(bundle, engine="analytic", verify=verify)
    file = bundle / "text.onnx"
    file.write_bytes(file.read_bytes()[::-1])
    if verify == "none":
        assert opened.sample(1, prompt="a cat").shape[0] == 1
    else:
        with pytest.raises(BundleError, match=r"text.onnx does not match its hash"):
            opened.sample(1, prompt="a cat")
    broken = make_bundle("text", 0)
    tokens = broken / "tokenizer" / "text.json"
    tokens.write_bytes(tokens.read_bytes()[:-1] + b" ")
    wanted = "does not match its hash" if verify == "used" else "tokenizers .* cannot read tokenizer/text.json"
    with pytest.raises(BundleError, match=wanted):
        pipeline.open(broken, engine="analytic", verify=verify).sample(1, prompt="a cat")


def test_a_tokenizer_that_leaves_no_room_is_said(text):
    with pytest.raises(AigcEdgeError, match=r"length is 4, components.text_encoder takes 6 tokens"):
        text(text=section(length=4))
    with pytest.raises(AigcEdgeError, match=r"pad must be a whole number from 0"):
        text(text=section(pad=-1))


def test_a_packed_bundle_takes_prompts(engine, toy, make_bundle, tmp_path):
    engine.networks |= {"denoiser": toy.text_denoiser, "text_encoder": toy.text_encoder}
    bundle = make_bundle("text", 0)
    Bundle.open(bundle, verify=True).pack(tmp_path / "packed.aigc")
    expected = pipeline.open(bundle, engine="analytic").sample(2, prompt="a cat")
    packed = pipeline.open(tmp_path / "packed.aigc", engine="analytic", verify="all")
    np.testing.assert_array_equal(packed.sample(2, prompt="a cat"), expected)
