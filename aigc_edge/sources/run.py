"""A training run of aigc-edge as a source."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge.bundle.provenance import of_run
from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import sha256_of
from aigc_edge.sources.base import RESULT, SOURCES, Source, SourceComponent, SourceOptions

if TYPE_CHECKING:
    from aigc_edge.data.image_set import ImageSet


@SOURCES.register("run")
class RunSource(Source):
    """The folder that `aigc-edge train` wrote: the EMA weights, and the data that they were trained on."""

    samples = 1000
    guidance_scale = 2.0

    def __init__(self, path: Path) -> None:
        from aigc_edge.models.base import load_run  # imports torch

        self._run = load_run(path)
        self.folder, self.name = path, path.resolve().name
        self._config, family = self._run.config, self._run.family
        self.family = self._config["family"]
        self.sample_shape, self.output_shape = family.sample_shape, family.output_shape
        self.num_classes, self.class_names = family.num_classes, tuple(self._config["data"]["class_names"])
        self.schedule, self.images = family.schedule, self._config["data"]["source"]
        if not self.num_classes:
            self.guidance_scale = 1.0

    @classmethod
    def claims(cls, text: str) -> bool:
        file = Path(text) / "config.json"
        with contextlib.suppress(OSError):
            return b"_class_name" not in file.read_bytes()  # which components of a diffusers folder have
        return False

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> RunSource:
        options.refuse(
            "a training run",
            *("role", "prediction", "schedule", "size", "prompts", "classes", "inputs", "calibration", "data", "output_range"),
            *RESULT,
        )
        return cls(Path(text))

    def components(self) -> list[SourceComponent]:
        return [SourceComponent(c.spec, lambda c=c: c.module, c.example) for c in self._run.family.components()]  # type: ignore[misc]

    def identity(self, part: str) -> str:
        return " ".join([part, *(sha256_of(self._run.path / name) for name in ("config.json", "model.safetensors"))])

    def data(self) -> ImageSet:
        from aigc_edge import data

        data_config = self._config["data"]
        images = data.load(data_config["source"], data_config["size"])
        if images.fingerprint != data_config["fingerprint"]:
            raise AigcEdgeError(
                f"the data in {data_config['source']} differ from those that {self._run.path} was trained on: restore them so "
                "that a judge can be trained, or copy the judge folder of another run on the same data"
            )
        return images

    def model_config(self) -> dict[str, Any]:
        return self._run.family.model_config()

    def provenance(self) -> dict[str, Any]:
        return of_run(self._config)
