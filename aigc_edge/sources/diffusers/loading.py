"""Loads one component of a diffusers folder: from safetensors only, with all weights present and finite, in float32."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from aigc_edge.errors import AigcEdgeError
from aigc_edge.sources.diffusers.folder import Folder

_LIBRARIES = ("diffusers", "transformers")


def require(library: str) -> Any:
    """Import the library; raises AigcEdgeError with installation instructions."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise AigcEdgeError(f"a diffusers folder needs {library} ({error}): pip install 'aigc-edge[diffusers]'") from None


@contextlib.contextmanager
def calling(failure: str) -> Iterator[None]:
    """Call code of both libraries, without their warnings, log messages and progress bars.

    Any of their exceptions becomes an AigcEdgeError that begins with `failure`.
    """
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    own = [importlib.import_module(f"{name}.utils.logging") for name in _LIBRARIES if name in sys.modules]
    bars = [module for module in own if module.is_progress_bar_enabled()]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    for module in bars:
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # any exception of the libraries for invalid configurations, weights and files
        raise AigcEdgeError(f"{failure}: {' '.join(str(error).split())[:300]}") from error
    finally:
        for module in bars:
            module.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load(folder: Folder, component: str, *allowed: str) -> nn.Module:
    """The component in float32 and eval mode; its class must be one of `allowed` of diffusers or transformers.

    Raises AigcEdgeError for other classes and for weights that are missing, of the wrong shape or not finite.
    """
    library, kind = folder.class_of(component, allowed)
    if library not in _LIBRARIES:
        raise AigcEdgeError(
            f"the {component} of {folder.name} is a {kind} of {library}: only classes of {' and '.join(_LIBRARIES)} are loaded, "
            "not code from the folder"
        )
    variant, cls = folder.check_weights(component), getattr(require(library), kind, None)
    if cls is None:
        raise AigcEdgeError(f"the installed {library} has no {kind}, the {component} of {folder.name}: update {library}")
    options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    if library == "transformers":
        # Eager attention: scaled_dot_product_attention would export checks for fully masked rows, which do not occur.
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
    options |= {"use_safetensors": True, "local_files_only": True, "output_loading_info": True, "variant": variant}
    with calling(f"{folder.name}/{component} cannot be loaded as a {kind}"):
        module, report = cls.from_pretrained(folder.path / component, **options)
    missing = sorted(report["missing_keys"])
    if missing:
        raise AigcEdgeError(
            f"{folder.name}/{component} lacks {len(missing)} weights of its {kind}, the first is {missing[0]}: its config.json "
            "and its safetensors belong to different models, copy the folder again"
        )
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise AigcEdgeError(f"{folder.name}/{component} contains values that are not finite, in {name}: use intact weights")
    return module.eval()
