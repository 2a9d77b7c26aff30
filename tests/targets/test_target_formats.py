"""The formats that targets list are those that the formats themselves say they run on."""

from __future__ import annotations

import pytest

from aigc_edge import targets
from aigc_edge.compress.format import FORMATS
from aigc_edge.compress.recipes.mixed_precision import MixedPrecision


@pytest.mark.parametrize("target", [t for t in targets.all_targets().values() if t.kind != "group"], ids=lambda t: t.name)
def test_precisions_follow_from_formats(target: targets.Target) -> None:
    assert set(target.precisions) <= set(FORMATS)
    for name in FORMATS:
        format = FORMATS[name]
        if issubclass(format, MixedPrecision):
            runs = "onnxruntime" in format.engines if target.sm is None else target.sm >= format.least_sm
            assert (name in target.precisions) == runs, name
