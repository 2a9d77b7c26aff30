"""The request of a compilation: formats, targets and quality budget, parsed once and validated before anything slow."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aigc_edge import targets as known_targets
from aigc_edge.compress.budget import Budget
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.base import physical_cores
from aigc_edge.engines.formats import formats_of, runs_on
from aigc_edge.engines.plans.module import installed
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

REFERENCE = "fp32"  # every other format is converted from it and compared with it


@dataclass(frozen=True)
class CompileRequest:
    """Formats by name (the first is the bundle's default), targets, quality budget, and settings of the evaluation.

    `samples` is the number of images per format (None: as many as the source and its cost allow). `format_texts` and
    `target_texts` are the unparsed arguments, for the bundle's provenance.
    """

    formats: Mapping[str, Format]
    targets: tuple[Target, ...]
    budget: Budget
    samples: int | None
    seed: int
    threads: int
    format_texts: tuple[str, ...]
    target_texts: tuple[str, ...]

    @staticmethod
    def parse(
        formats: Sequence[str],
        targets: Sequence[str],
        budget: Budget | Sequence[str] | None = None,
        *,
        samples: int | None = None,
        seed: int = 0,
        threads: int | None = None,
        runnable: bool = True,
    ) -> CompileRequest:
        """Parse formats such as "int8:psnr=35", names of targets (or "auto", this machine) and budgets such as "psnr=30".

        Raises AigcEdgeError for unknown or contradictory ones and, with `runnable`, for a format that a target does not run or a
        target that this machine cannot build for.
        """
        parsed = budget if isinstance(budget, Budget) else Budget.parse(budget or [])
        chosen, devices = _parse_formats(formats, parsed), _parse_targets(targets)
        if not chosen or not devices:
            raise AigcEdgeError("no format or no target was given: pass at least one of each, such as fp32 and x86-cpu")
        for target in devices if runnable else ():
            _check_target(target, chosen)
        if samples is not None and samples < 2:
            raise AigcEdgeError(
                f"samples is {samples}: a format is evaluated on at least 2 images; use hundreds for a reliable result"
            )
        cores = threads or physical_cores()
        return CompileRequest(chosen, tuple(devices), parsed, samples, seed, cores, tuple(formats), tuple(targets))

    @property
    def derived(self) -> list[str]:
        """The formats to convert to: all but the reference, which is exported."""
        return [name for name in self.formats if name != REFERENCE]

    @property
    def plans(self) -> list[tuple[Target, str]]:
        """Every pair of a target whose plans this machine can build, and a format."""
        return [(t, name) for t in self.targets if t.flavour == "tensorrt_rtx" for name in self.formats]


def with_limits(format: Any, **limits: float | None) -> Any:
    """The format with these limits (psnr, centred_l2) for its mixed-precision search, as far as it has such options."""
    return replace(format, **{name: limit for name, limit in limits.items() if limit is not None and hasattr(format, name)})


def this_machine() -> list[str]:
    """Names of the targets that match this machine: its CPU, and its GPU if it has one."""
    device = cuda_driver.device()
    if device is None:
        return known_targets.detect(platform.machine())
    return known_targets.detect(platform.machine(), device.name, device.sm, device.memory / 1e9)


def _parse_formats(texts: Sequence[str], budget: Budget) -> dict[str, Format]:
    """Formats by name; the budget sets the options of the same names of those that have them and do not set them themselves."""
    from aigc_edge.compress.format import parse

    formats: dict[str, Format] = {}
    for text in dict.fromkeys(texts):
        format = parse(text)
        if format.name in formats:
            raise AigcEdgeError(
                f"the format {format.name} was given twice with different options: a bundle holds one format of each name"
            )
        explicit = text.partition(":")[2].replace(" ", "")
        limits = {"psnr": budget.psnr, "centred_l2": budget.centred_l2}
        formats[format.name] = with_limits(format, **{name: x for name, x in limits.items() if f"{name}=" not in explicit})
    return formats


def _parse_targets(names: Sequence[str]) -> list[Target]:
    expanded = [each for name in names for each in (this_machine() if name == "auto" else [name])]
    return known_targets.expand(dict.fromkeys(expanded))


def _check_target(target: Target, formats: Mapping[str, Format]) -> None:
    unsupported = ", ".join(name for name, format in formats.items() if not runs_on(type(format), target))
    if unsupported:
        allowed = ", ".join(formats_of(target)) or f"none, as the engine {target.engine!r} is not installed here"
        raise AigcEdgeError(f"the target {target.name} does not run {unsupported}, it runs {allowed}: leave out one or the other")
    if target.flavour == "tensorrt_rtx" and "tensorrt_rtx" not in installed():
        raise AigcEdgeError(
            f"building for the target {target.name} needs TensorRT-RTX, which is not installed here: pip install "
            "'aigc-edge[tensorrt]', or leave out the target"
        )
