"""What a bundle says of how it was made: the words that would compile it again."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_edge.sources.base import Source, SourceOptions

_OFF = {"weights", "schedule_constants"}  # on unless it is said that they are not


def command_of(source: Source, asked: Mapping[str, Any]) -> str:
    """The command line that compiles `source` so; `asked` are arguments of `compile_source`."""
    given, options = source.opened or (source.name, SourceOptions())
    return command_line("compile", given, {**asked, **_said(options)})


def command_line(command: str, given: str, asked: Mapping[str, Any]) -> str:
    """The words of a command with options by their names there; what is None or empty goes unsaid, and no folder is named."""
    return shlex.join(["aigc-edge", command, _name(given), *_words(asked)])


def _said(options: SourceOptions) -> dict[str, Any]:
    return {
        "role": options.role,
        "prediction": options.prediction,
        "schedule": [f"{key}={value}" for key, value in options.schedule.items()],
        "classes": options.classes,
        "input": [f"{name}={role}" for name, role in options.inputs.items()],
        "size": [f"{height}x{width}" for height, width in options.sizes],
        "data": options.data and _name(options.data),
        "prompts": "FILE" if options.prompts else None,  # the manifest has the prompts themselves
    }


def _words(asked: Mapping[str, Any]) -> list[str]:
    words = []
    for name, value in asked.items():
        if name in _OFF:
            words += [] if value else [f"--no-{name.replace('_', '-')}"]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words += [word for each in value for word in (f"--{name}", str(each))]
        elif value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return words


def _name(path: str) -> str:
    return os.path.basename(os.path.normpath(path)) if os.sep in path else path
