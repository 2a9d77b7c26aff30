"""TensorFlow.js layers models as torch modules: the layers of residual dense networks for super-resolution."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class LayersModel(nn.Module):
    """The network of a model.json and the weight files beside it, with channels first: images [N, C, H, W] → [N, C, H, W].

    Raises ValueError for a layer, padding or activation that it does not know.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        model = json.loads(file.read_text(encoding="utf-8"))
        config = model["modelTopology"]["model_config"]["config"]
        weights = _weights(file.parent, model["weightsManifest"])
        self.output: str = config["output_layers"][0][0]
        self.inputs: dict[str, list[str]] = {}  # of each layer, in the order of evaluation
        self.layers = nn.ModuleDict()
        for layer in config["layers"]:
            name = layer["name"]
            self.inputs[name] = [node[0] for node in (layer["inbound_nodes"] or [[]])[0]]
            self.layers[name] = _layer(layer["class_name"], layer["config"], weights)

    def forward(self, sample: Tensor) -> Tensor:
        values: dict[str, Tensor] = {}
        for name, inputs in self.inputs.items():
            values[name] = self.layers[name](*(values[source] for source in inputs)) if inputs else sample
        return values[self.output]


class Concatenate(nn.Module):
    """Joins images along their channels."""

    def forward(self, *images: Tensor) -> Tensor:
        return torch.cat(images, dim=1)


class Add(nn.Module):
    """The sum of two images."""

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


def _layer(kind: str, config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    if config.get("data_format", "channels_last") != "channels_last":
        raise ValueError(f"the layer {config['name']} has its channels first, TensorFlow's own order is known here")
    if kind == "InputLayer":
        return nn.Identity()
    if kind == "Conv2D" and config["activation"] == "linear" and config["strides"] == config["dilation_rate"] == [1, 1]:
        kernel = weights[f"{config['name']}/kernel"].permute(3, 2, 0, 1)
        padding = 0 if config["padding"] == "valid" else tuple(side // 2 for side in kernel.shape[2:])
        if padding and any(side % 2 == 0 for side in kernel.shape[2:]):
            raise ValueError(f"the layer {config['name']} pads an even kernel on one side")
        layer = nn.Conv2d(kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]), padding=padding)
        layer.load_state_dict({"weight": kernel, "bias": weights[f"{config['name']}/bias"]})
        return layer
    if kind == "Activation" and config["activation"] == "relu":
        return nn.ReLU()
    if kind == "Concatenate" and config["axis"] == 3:
        return Concatenate()
    if kind == "Add":
        return Add()
    if kind == "UpSampling2D" and config["interpolation"] == "nearest":
        return nn.Upsample(scale_factor=float(config["size"][0]))
    raise ValueError(f"a layer {kind} with {config} is unknown here")


def _weights(folder: Path, manifest: list[dict[str, Any]]) -> dict[str, Tensor]:
    weights = {}
    for group in manifest:
        data, place = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for entry in group["weights"]:
            values = np.frombuffer(data, np.dtype("<f4"), int(np.prod(entry["shape"])), place)
            weights[entry["name"]] = torch.from_numpy(values.astype(np.float32).reshape(entry["shape"]))
            place += values.nbytes
    return weights
