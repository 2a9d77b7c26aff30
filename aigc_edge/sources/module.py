"""`package:function`: a Python function that returns a torch module, or a Generator with more information."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_edge.errors import AigcEdgeError, first_line
from aigc_edge.sources.base import RESULT, SOURCES, Source, SourceOptions, sample_inputs
from aigc_edge.sources.generator import Generator

_FORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
RETURNS = "return an nn.Module with example inputs, (module, sample) or an aigc_edge.sources.generator.Generator"


@SOURCES.register("module")
class ModuleSource(Source):
    """A function without arguments, called to create the generator; the current folder is searched too, as with `python -m`."""

    @classmethod
    def claims(cls, text: str) -> bool:
        return _FORM.fullmatch(text) is not None and not Path(text).exists()

    @classmethod
    def open(cls, text: str, options: SourceOptions) -> Source:
        function = _find(text)
        try:
            result = function()
        except AigcEdgeError:
            raise
        except Exception as error:  # the user's own code
            raise AigcEdgeError(f"{text} failed with {type(error).__name__}: {first_line(error)}") from error
        if isinstance(result, Source):
            options.refuse("a generator", "role", "prediction", "schedule", "size", "prompts", "classes", "inputs", *RESULT)
            if options.calibration:
                spec = result.components()[0].spec.at(result.sizes[0] if result.sizes else None)
                result.inputs = sample_inputs(options.calibration, spec, text, result.num_classes)
            result.output_range = options.output_range or result.output_range
            return result
        return _wrap(text, result, options)


def _find(text: str) -> Callable[[], Any]:
    name, _, attribute = text.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise AigcEdgeError(
            f"{name} cannot be imported ({error}): give the name of a module in the current folder or an installed one"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        raise AigcEdgeError(f"{name} has no function {attribute!r}: it has {', '.join(names) or 'none'}")
    return function


def _wrap(text: str, result: Any, options: SourceOptions) -> Generator:
    import torch

    options.refuse("a torch module", *([] if options.further_sizes else ["size"]), "prompts", "inputs")
    sizes = options.sizes if options.further_sizes else ()
    example = None
    if isinstance(result, tuple) and len(result) == 2:
        result, example = result
    if isinstance(example, (tuple, list)):  # example arguments of a call: timestep and classes follow from their roles
        example = example[0] if example else None
    if not isinstance(result, torch.nn.Module) or not isinstance(example, torch.Tensor):
        raise AigcEdgeError(f"{text} returned {type(result).__name__} and {type(example).__name__}: it must {RETURNS}")
    schedule = options.denoiser_schedule()
    return Generator(
        sample=example,
        denoiser=None if schedule is None else result,
        decoder=result if schedule is None else None,
        schedule=schedule,
        num_classes=options.classes or 0,
        sizes=sizes,
        name=text.partition(":")[0].rpartition(".")[2],
        data=options.data,
        inputs=options.calibration,
        output_range=options.output_range or Generator.output_range,
        layout=options.layout,
        result=options.result,
    )
