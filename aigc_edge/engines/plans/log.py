"""Parses the layer table of a TensorRT build log: the precision that each convolution and matrix product actually runs in.

TensorRT may silently build float kernels for a network that requests int8. The log of a DETAILED, VERBOSE build lists the input
types of every fused layer, and needs no GPU.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

_NAMES = {
    "Float": "fp32",
    "FP32": "fp32",
    "Half": "fp16",
    "FP16": "fp16",
    "BFloat16": "bf16",
    "BF16": "bf16",
    "Int8": "int8",
    "FP8": "fp8",
    "Int4": "int4",
    "FP4": "fp4",
    "FP4E2M1": "fp4",
}
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?)"
    r"(?:, Constants: (?P<constants>.*?))?, Outputs: (?P<outputs>.*)"
)
_TENSOR = re.compile(r"Dimensions: \[(?P<dims>[^\]]*)\].*?(?:Format/)?Datatype: (?P<type>[^,}\]]+)")
_WEIGHTS = re.compile(r'Weights: \{"Type": "\w+", "Count": (\d+)')  # how full TensorRT lists filters
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")  # nodes that were fused into the layer, in its metadata
_PRODUCT_NAME = re.compile(r"gemm|_mha|_Fc|[a-z]Fc[A-Z_]")


@dataclass(frozen=True)
class BuiltLayer:
    """A built convolution or matrix product: the precision of its activations, its MACs at batch 1, and the ONNX nodes that were
    fused into it, as far as the log names them."""

    name: str
    kind: str
    precision: str
    macs: int
    nodes: tuple[str, ...] = ()


def layers_of(lines: Iterable[str]) -> list[BuiltLayer]:
    """The convolutions and matrix products in the layer table of a build log, in order."""
    layers = []
    for line in (part for message in lines for part in message.splitlines()):
        match = _LAYER.match(line.strip())
        if match is None:
            continue
        name, kind = match["name"], match["kind"]
        convolution = kind == "correlation" or "conv" in kind.lower()
        if not convolution and "gemm" not in kind.lower() and not (kind != "signal" and _PRODUCT_NAME.search(name)):
            continue
        inputs, constants, outputs = (_tensors(match[key] or "") for key in ("inputs", "constants", "outputs"))
        data = [t for t in inputs if t[1] in _NAMES.values() and len(t[0]) > 1]
        weights = sorted((t for t in constants if _is_weight(t[0], convolution)), key=lambda t: -math.prod(t[0]))[:1]
        if (counted := _WEIGHTS.search(match["outputs"])) and not weights:
            weights = [([int(counted[1])], "")]
        if not data or not outputs or not (weights or len(data) > 1):
            continue
        macs = _convolution_macs(data, weights, outputs, kind) if convolution else _product_macs(data, weights, outputs)
        layers.append(BuiltLayer(name, kind, data[0][1], macs, _nodes(name, match["outputs"])))
    return layers


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    fused = [part for entry in _NODE.findall(metadata) for part in re.split("[\x1e\x1f]", entry)]
    own = [part.partition("_myl")[0] for part in name.split(" + ")]  # "conv + relu", "conv_myl0_3"
    return tuple(dict.fromkeys(filter(None, [*fused, *own])))


def summary(layers: list[BuiltLayer]) -> dict[str, Any]:
    """Number of layers and share of MACs per precision, and the layer table itself."""
    count = Counter(layer.precision for layer in layers)
    macs: Counter[str] = Counter()
    for layer in layers:
        macs[layer.precision] += layer.macs
    total = sum(macs.values()) or 1
    share = {precision: round(n / total, 4) for precision, n in macs.most_common()}
    return {"layers": dict(count.most_common()), "macs_share": share, "table": [asdict(layer) for layer in layers]}


def _tensors(text: str) -> list[tuple[list[int], str]]:
    tensors = []
    for match in _TENSOR.finditer(text):
        sizes = [abs(int(size)) for size in match["dims"].split(",") if size.strip()]  # the batch (-1) counts as one
        words = match["type"].split()
        tensors.append((sizes, next((_NAMES[word] for word in words if word in _NAMES), words[-1])))
    return tensors


def _is_weight(sizes: list[int], convolution: bool) -> bool:
    return len(sizes) > 2 if convolution else sum(size > 1 for size in sizes) > 1  # the others are scales and biases


def _convolution_macs(data: list[Any], weights: list[Any], outputs: list[Any], kind: str) -> int:
    filters = weights[0][0] if weights else data[1][0]  # dequantised filters may come as an input
    positions = data[0][0] if "deconv" in kind.lower() else outputs[0][0]
    return int(math.prod(positions[:1] + positions[2:]) * math.prod(filters))


def _product_macs(data: list[Any], weights: list[Any], outputs: list[Any]) -> int:
    left, out = math.prod(data[0][0]), math.prod(outputs[0][0])
    if weights:  # (m k) (k n) (m n) = (m k n)^2
        return round(math.sqrt(left * math.prod(weights[0][0]) * out))
    right = math.prod(data[1][0])
    if len(data) > 2:  # fused attention: q [.., s, d] with all keys, then the scores with all values
        return 2 * left * math.prod(data[1][0][-2:]) // data[0][0][-1]
    batch = math.prod(outputs[0][0][:-2])
    return round(math.sqrt(left * right * out / batch))
