"""A sample is the same, bit for bit, whatever batch it is computed in: onnxruntime on the CPU, one thread or two.

Linear layers are exported as Gemm, with constant weights that onnxruntime packs beforehand: the packed product takes the same
path for one row as for many (an unpacked one does not have to).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc_edge.export.onnx import export_component
from aigc_edge.models.base import FAMILIES

onnxruntime = pytest.importorskip("onnxruntime")

SMALL: dict[str, dict[str, Any]] = {"diffusion": {"widths": (16, 32), "blocks": (1, 2)}, "gan": {"width": 8}}
CASES = [
    *((name, SMALL.get(name, {}) | {"num_classes": classes}) for name in FAMILIES.names() for classes in (4, 0)),
    ("diffusion", {"num_classes": 4, "widths": (8, 16), "blocks": (1, 1), "attention": (1,), "patch": 1}),
]


@pytest.mark.parametrize(("name", "model"), CASES)
def test_a_sample_does_not_depend_on_its_batch(name: str, model: dict[str, Any], tmp_path: Path) -> None:
    family = FAMILIES[name].from_config({"size": 16, "channels": 1} | model).eval()
    with torch.no_grad():
        for parameter in family.parameters():  # nothing at its neutral start
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for component in family.components():
        path = tmp_path / f"{component.spec.name}.onnx"
        export_component(component, path)
        values = component.example(16, torch.Generator().manual_seed(1))
        inputs = {spec.name: value.numpy() for spec, value in zip(component.spec.inputs, values, strict=True)}
        wholes = []
        for threads in (1, 2):
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            (whole,) = session.run(None, inputs)
            wholes.append(whole)
            for batch in (1, 2, 3, 5, 8):
                for start in range(0, 17 - batch, batch):
                    part = slice(start, start + batch)
                    (made,) = session.run(None, {key: value[part] for key, value in inputs.items()})
                    assert np.array_equal(made, whole[part]), (component.spec.name, threads, batch, start)
        assert np.array_equal(*wholes)
