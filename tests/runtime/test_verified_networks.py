"""Networks that are made for one engine are held to the manifest's hashes too, before they are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aigc_edge
from aigc_edge.bundle.bundle import Bundle
from aigc_edge.bundle.write import write_bundle
from aigc_edge.errors import BundleError
from tests.compile import text_to_image

ENGINE = "openvino"


def bundle(folder: Path, rng: np.random.Generator) -> Path:
    """A bundle whose components have a network for the engine, with the same content."""
    source = text_to_image.write(folder / "source.aigc", rng)
    manifest = Bundle.open(source).manifest
    files: dict[str, Path | bytes] = {name: source / name for name in manifest.files}
    components = dict(manifest.components)
    for name, component in components.items():
        own = f"{name}.fp32.{ENGINE}.onnx"
        files[own] = (source / f"{name}.fp32.onnx").read_bytes()
        components[name] = component._replace(formats={"fp32": {**component.formats["fp32"], ENGINE: own}})
    write_bundle(folder / "own.aigc", manifest._replace(components=components), files)
    return folder / "own.aigc"


@pytest.mark.parametrize("part", ["text_encoder", "denoiser", "decoder"])
def test_a_changed_network_of_one_engine_is_refused(part: str, rng: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("openvino")
    path = bundle(tmp_path, rng)
    file = path / f"{part}.fp32.{ENGINE}.onnx"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    def sample(engine: str, **options: str) -> None:
        with aigc_edge.open(path, engine=engine, threads=1, **options) as pipeline:  # type: ignore[arg-type]
            pipeline.sample(1, seed=1, prompt="a red cat")

    sample("onnxruntime")  # does not load it
    with pytest.raises(BundleError, match=rf"{part}\.fp32\.{ENGINE}\.onnx does not match its hash"):
        sample(ENGINE)
