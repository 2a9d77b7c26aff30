"""Options that describe a source: lists, inputs by role, number or file, and the command line that a bundle records."""

from __future__ import annotations

from typing import Any

import pytest

from aigc_edge.commands import values
from aigc_edge.compile.command import command_line, command_of
from aigc_edge.diffusion import PREDICTIONS
from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.base import SourceOptions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("sigmas=80,24,5.8,0", [80, 24, 5.8, 0]),
        ("timesteps=999,", [999]),
        ("sigmas=1e2, 5", [100.0, 5]),
        ("betas=linear,cosine", "linear,cosine"),
        ("time=sigma", "sigma"),
        ("resample=true", True),
    ],
)
def test_numbers_separated_by_commas_are_a_list(text: str, value: Any) -> None:
    assert values.with_lists(values.pairs([text], "--schedule")) == {text.partition("=")[0]: value}


def test_an_input_is_a_role_a_number_or_a_file() -> None:
    texts = ["x=sample", "sigma=80", "psi=0.7", "shift=-1e-3", "text=folder/examples.npy"]
    assert values.inputs(texts) == {"x": "sample", "sigma": "80", "psi": "0.7", "shift": "-0.001", "text": "folder/examples.npy"}
    for text in ("x=picture", "x=true", "x=examples.npz"):
        with pytest.raises(AigcEdgeError, match=r"it is a role \(sample, timestep, class\), a number, or a .npy file"):
            values.inputs([text])


def test_the_recorded_command_has_every_option() -> None:
    class Opened:
        name, opened = (
            "net",
            (
                "net.onnx",
                SourceOptions(
                    role="denoiser",
                    prediction="denoised",
                    schedule={"kind": "table", "sigmas": [80, 0.5, 0]},
                    inputs={"text": "folder/examples.npy", "sigma": "80"},
                    result="y",
                    layout="nhwc",
                ),
            ),
        )

    line = command_of(Opened(), {"format": ["fp32"]})  # type: ignore[arg-type]
    assert line == command_line(
        "compile",
        "net.onnx",
        {
            "format": ["fp32"],
            "role": "denoiser",
            "prediction": "denoised",
            "schedule": ["kind=table", "sigmas=80,0.5,0"],
            "input": ["text=examples.npy", "sigma=80"],
            "result": "y",
            "layout": "nhwc",
        },
    )


def test_the_help_lists_every_prediction() -> None:
    from aigc_edge.commands.compile import PREDICTIONS as SHOWN

    assert set(SHOWN.replace(" or ", ", ").split(", ")) == set(PREDICTIONS)
