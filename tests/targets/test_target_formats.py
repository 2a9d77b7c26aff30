"""The formats of a target follow from its capability, from what its engine declares and from what a format requires."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from aigc_edge import targets
from aigc_edge.compress.format import FORMATS, Format
from aigc_edge.engines.base import ENGINES
from aigc_edge.engines.formats import formats_of, least_capability, runs_on
from aigc_edge.engines.plans.support import LIMITS

FEATURE_NAMES = {"fp32", "fp16", "bf16", "int8", "int8w", "fp8", "fp8w", "int4", "nvfp4", "w4a4", "w4a8"}


@dataclass(frozen=True)
class Foreign(Format):
    """As another distribution may have it: a name that no list here holds."""

    name: ClassVar[str] = "foreign"
    requires: ClassVar[tuple[str, ...]] = ("int8w", "int4")


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_requires_what_some_engine_has(name: str) -> None:
    assert FORMATS[name].requires
    assert set(FORMATS[name].requires) <= FEATURE_NAMES
    assert any(least_capability(FORMATS[name], ENGINES[engine]) is not None for engine in ENGINES)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_declares_features_by_capability(name: str) -> None:
    engine = ENGINES[name]
    assert set(engine.features) <= FEATURE_NAMES
    assert "cuda" in engine.devices or not any(engine.features.values())
    assert not engine.auto or "cpu" in engine.devices


def test_a_format_that_nobody_listed_runs_where_its_parts_do() -> None:
    runs = {name for name, target in targets.all_targets().items() if runs_on(Foreign, target)}
    assert runs == set(targets.all_targets()) - {"rtx", "rtx-20"}


def test_a_device_may_need_more_than_its_kernels() -> None:
    sparse = FORMATS["sparse24"]
    assert least_capability(sparse, ENGINES["tensorrt"]) == 80 > ENGINES["tensorrt"].features["fp16"]
    assert least_capability(sparse, ENGINES["onnxruntime"]) == 0
    assert least_capability(FORMATS["bf16"], ENGINES["onnxruntime"]) is None


def test_an_engine_that_is_not_installed_runs_nothing() -> None:
    target = replace(targets.get("x86-cpu"), engine="of another distribution")
    assert formats_of(target) == ()
    assert not runs_on(FORMATS["fp32"], target)


def test_what_begins_with_a_capability_is_impossible_below_it() -> None:
    begins = {limit.format: limit.below for limit in LIMITS if limit.operator == "*" and limit.runs is None}
    assert begins == {name: ENGINES["tensorrt"].features[name] for name in begins}
