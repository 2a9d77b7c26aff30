"""Loads one component of a diffusers folder: safetensors only, all weights there, all of them finite, float32."""

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
    """The library; raises AigcEdgeError that says how to install it."""
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise AigcEdgeError(f"a diffusers folder needs {library} ({error}): pip install 'aigc-edge[diffusers]'") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Both libraries speak of their own affairs through warnings, loggers and bars; none is the user's concern."""
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
    finally:
        for module in bars:
            module.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load(folder: Folder, component: str, *allowed: str) -> nn.Module:
    """The component in float32 and eval mode; its class must be one of `allowed` of diffusers or transformers.

    Raises AigcEdgeError for a class that is not, for weights that are missing, of another shape or not finite.
    """
    library, kind = folder.class_of(component, allowed)
    if library not in _LIBRARIES:
        raise AigcEdgeError(
            f"the {component} of {folder.name} is a {kind} of {library}: only classes of {' and '.join(_LIBRARIES)} are loaded, "
            "no code that a folder brings"
        )
    variant, cls = folder.check_weights(component), getattr(require(library), kind, None)
    if cls is None:
        raise AigcEdgeError(f"the installed {library} has no {kind}, the {component} of {folder.name}: update {library}")
    options: dict[str, Any] = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    if library == "transformers":
        # The plain attention: scaled_dot_product_attention would export checks for rows that are masked whole, which none is.
        options = {"dtype": torch.float32, "attn_implementation": "eager"}
    try:
        with quiet():
            module, report = cls.from_pretrained(
                folder.path / component,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                variant=variant,
                **options,
            )
    except Exception as error:  # whatever the libraries raise for a configuration or weights that they do not like
        reason = " ".join(str(error).split())[:300]
        raise AigcEdgeError(f"{folder.name}/{component} cannot be loaded as a {kind}: {reason}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise AigcEdgeError(
            f"{folder.name}/{component} lacks {len(missing)} weights of its {kind}, the first is {missing[0]}: its config.json "
            "and its safetensors are of two models, copy the folder again"
        )
    _check_finite(folder, component, module)
    return module.eval()


def _check_finite(folder: Folder, component: str, module: nn.Module) -> None:
    for name, weight in module.named_parameters():
        if not torch.isfinite(weight).all():
            raise AigcEdgeError(
                f"{folder.name}/{component} holds values that are not finite, in {name}: take weights that were saved whole"
            )
