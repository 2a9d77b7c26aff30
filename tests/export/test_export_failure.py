"""A network that torch cannot export is refused in one sentence, without the exporter's graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.generator import Generator


class Of(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, sample: Tensor) -> Tensor:
        return self.function(sample)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x * 2 if x.sum() > 0 else x, r"its code branches on values of tensors, or makes Python numbers of them"),
        (lambda x: x + torch.linalg.svd(x)[1].mean(), r"ONNX has no counterpart of its operation aten\._linalg_svd"),
        (torch.special.bessel_j0, r"ONNX has no counterpart of its operation prims\.bessel_j0"),
    ],
    ids=["branch", "svd", "bessel"],
)
def test_an_export_that_fails_is_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], function: Callable[[Tensor], Tensor], sentence: str
) -> None:
    (part,) = Generator(sample=torch.randn(1, 3, 4, 4), decoder=Of(function)).components()
    with pytest.raises(AigcEdgeError, match=f"component 'decoder' cannot be exported to ONNX: {sentence}") as caught:
        part.write(tmp_path / "a.onnx")
    assert "\n" not in str(caught.value)
    assert "call_function" not in str(caught.value)
    out, err = capfd.readouterr()
    assert "GraphModule" not in out + err
    assert "def forward" not in out + err
    assert not list(tmp_path.iterdir())
