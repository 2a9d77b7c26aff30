"""TensorRT's support by compute capability: numeric formats, and operators that fall back to another type or do not run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aigc_edge.targets import Target

ANY = "*"
AROUND = "float"  # the float type of the network around the layer


@dataclass(frozen=True)
class Limit:
    """`operator` ("*": any) in `format` silently runs in `runs` instead ("float": the surrounding type), or not at all (None).

    Applies to GPUs with compute capability >= `least` and < `below`, and to `module` only if one is named. `seen` marks limits
    that were observed in builds of TensorRT-RTX 1.7 rather than documented.
    """

    format: str
    operator: str
    runs: str | None
    why: str
    least: int = 0
    below: int = 1000
    module: str | None = None
    seen: bool = False

    def covers(self, format: str, operator: str) -> bool:
        """Whether this limit applies to `operator` in `format`."""
        return self.format == format and self.operator in (ANY, operator)


_FP32, _FP8, _FP4 = (
    "TensorRT has no matrix product in fp32 for Turing",
    "8-bit floats begin with Ada and Hopper (SM89)",
    "4-bit floats begin with Blackwell (SM100)",
)
LIMITS = (
    Limit("fp32", "MatMul", None, _FP32, below=80),
    Limit("fp32", "Gemm", None, _FP32, below=80),
    Limit("bf16", ANY, None, "bfloat16 begins with Ampere (SM80)", below=80),
    Limit("bf16", "ConvTranspose", None, "TensorRT-RTX 1.7 has no transposed convolution in bf16", 80, module="tensorrt_rtx"),
    Limit("int4", ANY, None, "4-bit weights begin with Ampere (SM80)", below=80),
    Limit("int8", "Conv", AROUND, "TensorRT has no int8 convolution for Turing", below=80, seen=True),
    Limit("int8", "ConvTranspose", AROUND, "TensorRT has no transposed convolution in int8", seen=True),
    Limit("fp8", ANY, None, _FP8, below=89),
    Limit("fp8w", ANY, None, _FP8, below=89),
    Limit("fp8", "ConvTranspose", AROUND, "TensorRT has no transposed convolution in fp8", 89, seen=True),
    Limit("nvfp4", ANY, None, _FP4, below=100),
    Limit("w4a4", ANY, None, _FP4, below=100),
    Limit("w4a4", "Conv", AROUND, "TensorRT has no convolution in fp4", 100, seen=True),
    Limit("w4a4", "ConvTranspose", AROUND, "TensorRT has no transposed convolution in fp4", 100, seen=True),
)


def limits_of(target: Target, module: str | None = None) -> list[Limit]:
    """The limits of builds for the target with `module` (None: the target's own); empty for targets without TensorRT."""
    module = module or target.flavour
    sm = target.sm or 0
    limits = [x for x in LIMITS if target.flavour and x.least <= sm < x.below and x.module in (None, module)]
    suffix = "" if target.flavour == "tensorrt_rtx" else "; the build log on the device decides"
    return [replace(x, why=f"{x.why} (seen in builds of TensorRT-RTX 1.7{suffix})") if x.seen else x for x in limits]


def limit_of(target: Target, format: str, operator: str, module: str | None = None) -> Limit | None:
    """The limit of `operator` in `format` on the target, built with `module` (None: the target's own), or None."""
    return next((limit for limit in limits_of(target, module) if limit.covers(format, operator)), None)
