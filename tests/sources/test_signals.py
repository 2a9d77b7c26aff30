"""Decoders of signals [N, C, L]: compiled like those of images, sampled as floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aigc_edge
from aigc_edge.cli import main
from aigc_edge.errors import AigcEdgeError

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")


def signal_decoder(channels: int) -> Any:
    """Latents [N, 6] to signals [N, channels, 24]."""
    nn = torch.nn
    layers = [nn.Linear(6, 4 * 12), nn.Unflatten(1, (4, 12)), nn.Upsample(scale_factor=2)]
    return nn.Sequential(*layers, nn.Conv1d(4, channels, 5, padding=2), nn.Tanh())


def compiled(decoder: Any, path: Path) -> Path:
    from aigc_edge.compile import compile_source
    from aigc_edge.sources.generator import Generator

    compile_source(Generator(sample=torch.randn(1, 6), decoder=decoder), path, formats=["fp32"], samples=8)
    return path


@pytest.mark.parametrize("channels", [1, 8])
def test_signals_are_those_of_the_module(channels: int, tmp_path: Path, rng: np.random.Generator) -> None:
    decoder = signal_decoder(channels)
    bundle = compiled(decoder, tmp_path / "signal.aigc")
    latents = rng.standard_normal((5, 6)).astype(np.float32)
    with aigc_edge.open(bundle, threads=1) as pipe:
        found = pipe.sample(5, latents=latents, output="float32")
    with torch.no_grad():
        expected = decoder(torch.from_numpy(latents)).numpy()
    np.testing.assert_allclose(found[:, :, 0], expected, atol=1e-5)


def test_the_command_writes_an_array(tmp_path: Path, rng: np.random.Generator, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    bundle, seed = compiled(signal_decoder(2), tmp_path / "signal.aigc"), int(rng.integers(2**40))
    command = ["sample", str(bundle), "-n", "3", "--seed", str(seed), "--threads", "1"]
    assert main([*command, "-o", "x.npy"]) == 0
    with aigc_edge.open(bundle, threads=1) as pipe:
        expected = pipe.sample(3, seed=seed, output="float32")
    np.testing.assert_array_equal(np.load("x.npy"), expected[:, :, 0])
    assert main(command) == 0
    np.testing.assert_array_equal(np.load("samples.npy"), np.load("x.npy"))
    refused = {"-o x.png": "2 channels", "-o x.npy --npz x.npz": "floats", "-o x.wav": "unknown file type"}
    for options, words in refused.items():
        assert main([*command, *options.split()]) == 2
        assert words in capsys.readouterr().err
    assert not Path("x.png").exists()


def test_images_are_written_as_arrays_too(own_bundle: Path, tmp_path: Path) -> None:
    assert main(["sample", str(own_bundle), "-n", "2", "--steps", "1", "--threads", "1", "-o", str(tmp_path / "x.npy")]) == 0
    values = np.load(tmp_path / "x.npy")
    assert (values.shape, values.dtype) == ((2, 1, 16, 16), np.float32)


def test_other_shapes_are_refused() -> None:
    from aigc_edge.sources.generator import Generator

    with pytest.raises(AigcEdgeError, match=r"\[N, C, L\]"):
        Generator(sample=torch.randn(1, 6), decoder=torch.nn.Linear(6, 9))
