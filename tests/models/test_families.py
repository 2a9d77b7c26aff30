"""Conformance: what every registered family must do, found without a list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_edge.config import to_dict
from aigc_edge.data import ImageSet
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.base import FAMILIES, Family
from aigc_edge.train.preview import preview
from aigc_edge.train.trainer import Trainer

NAMES = FAMILIES.names()
CLASSES = [3, 0]


def image_set(rng: np.random.Generator, classes: int, channels: int = 1, size: int = 16, count: int = 12) -> ImageSet:
    images = rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
    labels = np.arange(count) % max(classes, 1)
    return ImageSet(images, labels, tuple("abcdefgh"[:classes]), "noise", "none")


def make(name: str, classes: int, channels: int = 1, size: int = 16) -> Family:
    images = np.zeros((2, channels, size, size), np.uint8)
    return FAMILIES[name].from_config(FAMILIES[name].for_data(images, classes))


def test_the_families_of_the_project_are_found() -> None:
    assert {"diffusion", "gan"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("channels", [1, 3])
def test_components_take_and_give_what_their_specs_say(name: str, classes: int, channels: int) -> None:
    family = make(name, classes, channels).eval()
    assert family.num_classes == classes
    assert family.output_shape == (channels, 16, 16)
    for component in family.components():
        for batch in (1, 3):
            inputs = component.example(batch, torch.Generator().manual_seed(1))
            outputs = component.module(*inputs)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            for specs, values in ((component.spec.inputs, inputs), (component.spec.outputs, outputs)):
                assert [str(v.dtype) for v in values] == [f"torch.{s.dtype}" for s in specs]
                assert [tuple(v.shape) for v in values] == [(batch, *s.shape[1:]) for s in specs]
        roles = {spec.role: spec for spec in component.spec.inputs}
        assert ("class" in roles) == bool(classes)
        assert roles["sample"].shape[1:] == family.sample_shape
        assert component.spec.outputs[0].shape[1:] == family.output_shape


@pytest.mark.parametrize("name", NAMES)
def test_example_inputs_are_fresh_and_repeatable(name: str) -> None:
    for component in make(name, 3).components():
        first, again = (component.example(4, torch.Generator().manual_seed(5)) for _ in range(2))
        other = component.example(4, torch.Generator().manual_seed(6))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", NAMES)
def test_schedule_and_config_are_json_and_come_back(name: str) -> None:
    family = make(name, 3)
    config = json.loads(json.dumps(family.model_config()))
    assert FAMILIES[name].from_config(config).model == family.model
    assert json.loads(json.dumps(family.schedule)) == family.schedule
    assert (family.schedule is None) == ([c.spec.name for c in family.components()] == ["decoder"])
    with pytest.raises(AigcEdgeError, match=r"unknown .* nonsense.*choose from"):
        FAMILIES[name].from_config(config | {"nonsense": 1})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
def test_one_step_changes_every_weight_and_the_average(name: str, classes: int, rng: np.random.Generator) -> None:
    family = make(name, classes)
    with torch.no_grad():  # from a point where nothing is at its neutral start, or some gradients are zero
        for parameter in family.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    settings = FAMILIES[name].Training(batch=8, warmup=0)
    trainer = Trainer(family, settings, image_set(rng, classes), image_set(rng, classes, count=3))
    networks = dict(trainer.objective.networks)
    assert set(networks) >= {component.spec.name for component in family.components()}
    before = {key: {n: p.clone() for n, p in net.named_parameters()} for key, net in networks.items()}
    average = {n: p.clone() for n, p in trainer.ema.family.named_parameters()}
    values = trainer.advance()
    assert set(values) == set(networks)
    for key, net in networks.items():
        for n, p in net.named_parameters():
            assert torch.isfinite(p).all()
            assert not torch.equal(p, before[key][n]), (key, n)
    for n, p in trainer.ema.family.named_parameters():
        assert not torch.equal(p, average[n]), n
    assert np.isfinite(trainer.validation_loss())


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_file(name: str, tmp_path: Path) -> None:
    family, other = make(name, 3).eval(), make(name, 3).eval()
    save_file(family.state_dict(), tmp_path / "weights.safetensors")
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    for mine, theirs in zip(family.components(), other.components(), strict=True):
        inputs = mine.example(2, torch.Generator().manual_seed(2))
        assert torch.equal(mine.module(*inputs), theirs.module(*inputs))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", CLASSES)
def test_preview_is_a_row_a_class(name: str, classes: int) -> None:
    family = make(name, classes, 3).eval()
    images = preview(family, seed=1)
    assert images.shape == (8 * (classes or 8), 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, preview(family, seed=1))
    assert not np.array_equal(images, preview(family, seed=2))


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_what_it_is(name: str) -> None:
    for settings in (FAMILIES[name].Model, FAMILIES[name].Training):
        for field in settings.__dataclass_fields__.values():
            assert field.metadata.get("help"), field.name
    defaults: Any = FAMILIES[name].Training()
    from aigc_edge.config import from_dict

    assert from_dict(type(defaults), to_dict(defaults)) == defaults  # the defaults are within their own bounds


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_steps_learn_in_float32_weights(name: str, rng: np.random.Generator) -> None:
    settings = FAMILIES[name].Training(batch=4, precision="bfloat16")
    trainer = Trainer(make(name, 3), settings, image_set(rng, 3), image_set(rng, 3, count=3))
    for _ in range(2):
        assert all(np.isfinite(value) for value in trainer.advance().values())
    assert {p.dtype for p in trainer.family.parameters()} == {torch.float32}
