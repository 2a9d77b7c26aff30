"""The command line recorded in a bundle, which would compile it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_edge.sources.base import Source, SourceOptions

_OFF = {"weights", "schedule_constants"}  # on by default, turned off with --no-…


def command_of(source: Source, arguments: Mapping[str, Any]) -> str:
    """The command line that compiles `source` with these arguments of `compile_source`."""
    name, options = source.opened or (source.name, SourceOptions())
    return command_line("compile", name, {**arguments, **_source_arguments(options)})


def command_line(command: str, path: str, arguments: Mapping[str, Any]) -> str:
    """A quoted `aigc-edge` command line; options that are None or empty are omitted, and paths are reduced to their last part."""
    return shlex.join(["aigc-edge", command, _name(path), *_words(arguments)])


def _source_arguments(options: SourceOptions) -> dict[str, Any]:
    return {
        "role": options.role,
        "prediction": options.prediction,
        "schedule": [f"{key}={_listed(value)}" for key, value in options.schedule.items()],
        "classes": options.classes,
        "calibration": "FILE.npz" if (options.calibration or "").endswith(".npz") else None,  # the bundle has the arrays
        "inputs": None if (options.calibration or "").endswith(".npz") else options.calibration,
        "input": [f"{name}={_name(value)}" for name, value in options.inputs.items()],
        "result": options.result,
        "layout": options.layout,
        "range": options.output_range and ":".join(f"{bound:.9g}" for bound in options.output_range),
        "size": [f"{height}x{width}" for height, width in options.sizes],
        "data": options.data and _name(options.data),
        "prompts": "FILE" if options.prompts else None,  # the manifest has the prompts themselves
    }


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _words(arguments: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in arguments.items():
        if name in _OFF:
            words += [] if value else [f"--no-{name.replace('_', '-')}"]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [word for each in value for word in (f"--{name}", str(each))]
        elif value is not None:
            word = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name}={word}"] if word.startswith("-") else [f"--{name}", word]  # else it would read as an option
    return words


def _name(path: str) -> str:
    return os.path.basename(os.path.normpath(path)) if os.sep in path else path
