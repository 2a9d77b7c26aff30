"""A format and an operator that do not go together on a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aigc_edge.errors import AigcEdgeError

ANY = "*"
AROUND = "float"  # the float type that the network has around the layer
# As compress writes them: "int8" and "fp8" quantise activations too, "int8w", "fp8w", "int4" and "nvfp4" weights only; "w4a4" is
# nvfp4 with activations in it.
FORMATS = ("fp32", "fp16", "bf16", "int8", "int8w", "fp8", "fp8w", "int4", "nvfp4", "w4a4")
OPERATORS = (ANY, "Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Limit:
    """`operator` ("*": every one) in `format` runs as `runs` instead ("float": as the network around it), without a word from the
    builder, or not at all (None); only with `module` where one is named."""

    format: str
    operator: str
    runs: str | None
    why: str
    module: str | None = None

    @staticmethod
    def from_json(value: dict[str, Any]) -> Limit:
        """Parse one limit; raises AigcEdgeError that names what is wrong with it."""
        if set(value) - {"module"} != {"format", "operator", "runs", "why"}:
            raise AigcEdgeError(f"a limit has format, operator, runs and why: {', '.join(sorted(value)) or 'nothing'} was given")
        limit = Limit(**value)
        if limit.format not in FORMATS or limit.operator not in OPERATORS or limit.runs not in (None, AROUND, *FORMATS):
            allowed = f"formats are {', '.join(FORMATS)}, operators {', '.join(OPERATORS)}"
            raise AigcEdgeError(f"the limit of {limit.operator!r} in {limit.format!r} names what there is not: {allowed}")
        if limit.module not in (None, "tensorrt", "tensorrt_rtx"):
            raise AigcEdgeError(
                f"the limit of {limit.operator} names the module {limit.module!r}: tensorrt and tensorrt_rtx there are"
            )
        if not limit.why:
            raise AigcEdgeError(f"the limit of {limit.operator} in {limit.format} does not say why: say it")
        return limit

    def covers(self, format: str, operator: str) -> bool:
        """Whether this limit is about `operator` in `format`."""
        return self.format == format and self.operator in (ANY, operator)
