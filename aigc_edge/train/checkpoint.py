"""Checkpoints: safetensors and JSON, written atomically, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.files import atomic_file, write_json
from aigc_edge.train.trainer import Trainer

TENSORS, SUMMARY, MODEL = "checkpoint.safetensors", "checkpoint.json", "model.safetensors"


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically; raises AigcEdgeError on a full disk."""
    data = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
    with atomic_file(path) as part:
        part.write_bytes(data)


def state(trainer: Trainer) -> dict[str, Tensor]:
    """Everything that training changes: family, other networks, averaged weights, optimisers, as clones."""
    tensors = {f"family.{key}": value for key, value in trainer.family.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in trainer.ema.family.state_dict().items()}
    for name, network in _own_networks(trainer).items():
        tensors |= {f"network.{name}.{key}": value for key, value in network.state_dict().items()}
    for name, optimizer in trainer.optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{name}.{index}.{key}": torch.as_tensor(value) for key, value in entries.items()}
    return {key: value.clone() for key, value in tensors.items()}


def restore(trainer: Trainer, tensors: dict[str, Tensor], step: int) -> None:
    """Restore a state; raises KeyError or RuntimeError when it belongs to another model."""
    trainer.family.load_state_dict(_under("family.", tensors))
    trainer.ema.family.load_state_dict(_under("ema.", tensors))
    for name, network in _own_networks(trainer).items():
        network.load_state_dict(_under(f"network.{name}.", tensors))
    for name, optimizer in trainer.optimizers.items():
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _under(f"optimizer.{name}.", tensors).items():
            index, entry = key.split(".", 1)
            entries.setdefault(int(index), {})[entry] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": entries, "param_groups": groups})
    trainer.step = step


def save(folder: Path, trainer: Trainer) -> None:
    """Write checkpoint and averaged weights into the run folder.

    The step count is stored in the same file as the tensors, so that the two are consistent even if the process is killed. The
    JSON file beside it is a human-readable summary.
    """
    save_tensors(folder / TENSORS, state(trainer), {"step": str(trainer.step)})
    write_json(folder / SUMMARY, {"version": 1, "step": trainer.step, "images": trainer.step * trainer.settings.batch})
    save_tensors(folder / MODEL, trainer.ema.family.state_dict())


def load(folder: Path, trainer: Trainer) -> bool:
    """Restore the run folder's checkpoint; False when there is none. Raises AigcEdgeError when it is damaged."""
    path = folder / TENSORS
    if not path.exists():
        return False
    try:
        with safetensors.safe_open(path, "pt") as file:
            step = int(file.metadata()["step"])
            tensors: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        restore(trainer, tensors, step)
    except Exception as error:  # safetensors, torch and the file system each raise their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AigcEdgeError(f"{path} cannot be resumed ({reason}): delete it, or start from scratch without resuming") from error
    return True


def _own_networks(trainer: Trainer) -> dict[str, nn.Module]:
    # Networks of the objective that are not part of the family (a discriminator).
    inside = {id(module) for module in trainer.family.modules()}
    return {name: network for name, network in trainer.objective.networks.items() if id(network) not in inside}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
