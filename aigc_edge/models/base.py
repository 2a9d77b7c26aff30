"""Base classes of model families: components to export, a training objective, and loading of runs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aigc_edge import config
from aigc_edge.bundle.spec import ComponentSpec
from aigc_edge.errors import AigcEdgeError
from aigc_edge.models.settings import TrainSettings
from aigc_edge.registry import Registry

RUN_VERSION = 1
Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class ModuleComponent:
    """A network to export: its spec, the module, and a function that returns example inputs for a batch size."""

    spec: ComponentSpec
    module: nn.Module
    example: Callable[[int, torch.Generator], tuple[Tensor, ...]]


class Objective(ABC):
    """The training objective of a family.

    `networks` are the modules with parameters to train, each with an optimiser of its own; `losses` yields (network, loss) in
    turn, and the training loop updates each network before requesting the next loss, which sees the updated one.
    """

    networks: dict[str, nn.Module]

    @abstractmethod
    def losses(self, images: Tensor, labels: Tensor, step: int, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
        """Losses of one step for images float32 [N, C, H, W] in [-1, 1] and labels int64 [N]; all randomness from `generator`."""

    @abstractmethod
    def validation(self, family: Any, images: Tensor, labels: Tensor, generator: torch.Generator) -> float:
        """The validation loss of `family`, which has the averaged weights, on held-out images."""


class Family(nn.Module, ABC):
    """A kind of generative model; register with `@FAMILIES.register(name)`."""

    name: ClassVar[str]
    Model: ClassVar[type]  # frozen dataclass of the constructor's arguments
    Training: ClassVar[type[TrainSettings]]  # frozen dataclass of the training settings, with this family's defaults

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_config(cls, model: dict[str, Any]) -> Family:
        """Build the family, untrained, from the "model" entry of a config; raises AigcEdgeError for unknown or wrong values."""
        return cls(config.from_dict(cls.Model, model, f"{cls.name} model settings"))

    @classmethod
    def for_data(cls, images: npt.NDArray[np.uint8], num_classes: int) -> dict[str, Any]:
        """The model settings that the data determine: images uint8 [N, C, H, W], num_classes 0 for unconditional."""
        return {"size": images.shape[2], "channels": images.shape[1], "num_classes": num_classes}

    def model_config(self) -> dict[str, Any]:
        """The "model" entry of a config: what `from_config` takes."""
        return config.to_dict(self.model)

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 means unconditional."""
        return int(self.model.num_classes)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the generated image, in [-1, 1]."""
        return (self.model.channels, self.model.size, self.model.size)

    @property
    @abstractmethod
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of the state (or latents) of one sample, without the batch."""

    @property
    @abstractmethod
    def schedule(self) -> dict[str, Any] | None:
        """The arguments of `diffusion.build` for this model; None for a one-step generator."""

    @abstractmethod
    def components(self) -> list[ModuleComponent]:
        """The networks to export."""

    @abstractmethod
    def objective(self, settings: Any, augment: Augment) -> Objective:
        """The objective with `settings` of type `Training`; may create networks that only training needs.

        Real images are already augmented; `augment` is for generated images that are compared with them.
        """


FAMILIES: Registry[type[Family]] = Registry("family", "aigc_edge.models", "aigc_edge.families", Family)


@dataclass(frozen=True)
class Run:
    """A loaded training run: its folder, its config.json, and the family with the EMA weights, in eval mode on the CPU."""

    path: Path
    config: dict[str, Any]
    family: Family


def load_run(path: str | Path) -> Run:
    """Load a finished (or interrupted, once a model was written) training run.

    Raises AigcEdgeError when the folder is not a run, was written by a newer version, is damaged, or has no model yet.
    """
    from safetensors.torch import load_file

    path = Path(path)
    run_config = read_config(path)
    family = FAMILIES[run_config["family"]].from_config(run_config["model"])
    weights = path / "model.safetensors"
    if not weights.exists():
        raise AigcEdgeError(f"{path} has no model.safetensors yet: let its training finish (the same train command resumes it)")
    try:
        family.load_state_dict(load_file(weights))
    except Exception as error:  # safetensors, torch and the file system each raise their own
        raise AigcEdgeError(f"{weights} is damaged or belongs to another model: {_first_line(error)}") from error
    return Run(path, run_config, family.eval().requires_grad_(False))


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of the run folder `path`; raises AigcEdgeError when there is none or it cannot be used."""
    file = path / "config.json"
    if not file.exists():
        raise AigcEdgeError(f"{path} is not a training run (it has no config.json): give a folder that aigc-edge train wrote")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        version, _, _, _ = value["version"], value["family"], value["model"], value["data"]
    except (ValueError, KeyError, TypeError) as error:
        raise AigcEdgeError(f"{file} is damaged ({_first_line(error)}): restore it or train again") from error
    if version != RUN_VERSION:
        raise AigcEdgeError(f"{file} has version {version}, this aigc-edge reads {RUN_VERSION}: update aigc-edge or train again")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
