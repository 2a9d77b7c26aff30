"""Record the names and signatures of a TensorRT module's build and run API, for tests without that version.

    python tools/record_tensorrt.py tensorrt_rtx > tests/engines/recorded_tensorrt_rtx_1_7.json
    python tools/record_tensorrt.py tensorrt_bindings > tests/engines/recorded_tensorrt_11_4.json

The second form reads only the bindings package; stub libraries with the names of TensorRT's suffice.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from typing import Any

CLASSES = (
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "IOptimizationProfile",
    "OnnxParser",
    "ParserError",
    "ITensor",
    "ITimingCache",
    "IHostMemory",
    "ILogger",
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
)
ENUMS = (
    "BuilderFlag",
    "ComputeCapability",
    "DataType",
    "EngineValidity",
    "HardwareCompatibilityLevel",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "PreviewFeature",
    "ProfilingVerbosity",
    "RuntimePlatform",
)
FUNCTIONS = ("nptype", "volume", "get_nv_onnx_parser_version")
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> ")


def parameters(text: str) -> list[str]:
    """ "self: A, x: tuple[int, int], y: int = 0" → ["x", "y="]; a "=" marks optional parameters."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    names = [part.split(":")[0].strip() + ("=" if re.search(r" = ", part) else "") for part in parts if part.strip()]
    return [name for name in names if name != "self"]


def overloads(function: Any, name: str) -> list[list[str]]:
    """The parameters of each overload of a bound function."""
    lines = (_SIGNATURE.match(line.strip()) for line in (function.__doc__ or "").splitlines())
    signatures = [parameters(match[2]) for match in lines if match and match[1] == name and not match[2].startswith("*args")]
    return [form for index, form in enumerate(signatures) if form not in signatures[:index]]


def record(module: Any) -> dict[str, Any]:
    """All existing members of `module` in the lists above."""
    classes: dict[str, Any] = {}
    enums = {name: members(getattr(module, name)) for name in ENUMS if hasattr(module, name)}
    enums["ILogger.Severity"] = members(module.ILogger.Severity)
    for name in CLASSES:
        methods, properties = {}, {}
        hidden = ("_", "add_") if name == "INetworkDefinition" else ("_",)  # networks come from ONNX files
        for attribute, value in vars(getattr(module, name)).items():
            if isinstance(value, property):
                properties[attribute] = "rw" if value.fset else "r"
            elif callable(value) and (attribute == "__init__" or not attribute.startswith(hidden)):
                forms = overloads(value, attribute)
                if forms or attribute != "__init__":
                    methods[attribute] = forms
        methods.pop("Severity", None)
        classes[name] = {"methods": dict(sorted(methods.items())), "properties": dict(sorted(properties.items()))}
    functions = [name for name in FUNCTIONS if hasattr(module, name)]
    return {"version": module.__version__, "functions": functions, "enums": enums, "classes": classes}


def members(enum: Any) -> dict[str, int]:
    """The members of an enumeration and their values."""
    return {name: int(value) for name, value in enum.__members__.items()}


def main() -> int:
    recording = record(importlib.import_module(sys.argv[1]))
    lines = json.dumps(recording, indent=1)
    # Short lists on one line.
    print(re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
