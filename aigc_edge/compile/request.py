"""What is asked of a compilation, checked before anything long is done."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_edge import targets as known_targets
from aigc_edge.clock import Progress
from aigc_edge.compress.budget import Budget
from aigc_edge.engines import cuda_driver
from aigc_edge.engines.base import physical_cores
from aigc_edge.engines.tensorrt import installed
from aigc_edge.errors import AigcEdgeError
from aigc_edge.targets import Target

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

REFERENCE = "fp32"  # what every other format is made from and compared with


@dataclass(frozen=True)
class Request:
    """Where the bundle goes, its formats by name, its targets, and how each format is proven."""

    out: Path
    formats: dict[str, Format]
    devices: tuple[Target, ...]
    budget: Budget
    samples: int | None
    seed: int
    threads: int
    overwrite: bool
    progress: Progress | None = None

    @property
    def derived(self) -> list[str]:
        """The formats to make: all but the reference, which is exported."""
        return [name for name in self.formats if name != REFERENCE]

    @property
    def plans(self) -> list[tuple[Target, str]]:
        """The targets whose engines can be built here, with each format."""
        return [(t, name) for t in self.devices if t.flavour == "tensorrt_rtx" for name in self.formats]


def checked(
    out: str | os.PathLike[str],
    formats: Sequence[str],
    targets: Sequence[str],
    budget: Budget | Sequence[str] | None,
    samples: int | None,
    seed: int,
    threads: int | None,
    overwrite: bool,
    progress: Progress | None,
) -> Request:
    """The request, when it can succeed as far as can be known; raises AigcEdgeError otherwise."""
    asked, wanted, devices = vetted(formats, targets, budget)
    if samples is not None and samples < 2:
        raise AigcEdgeError(f"samples is {samples}: a format is measured on at least 2 images, on hundreds to measure it well")
    check_place(Path(out), overwrite)
    return Request(Path(out), wanted, tuple(devices), asked, samples, seed, threads or physical_cores(), overwrite, progress)


def vetted(
    formats: Sequence[str], targets: Sequence[str], budget: Budget | Sequence[str] | None
) -> tuple[Budget, dict[str, Format], list[Target]]:
    """What these words name, when they go together; known before a source is looked at. Raises AigcEdgeError otherwise."""
    asked = budget if isinstance(budget, Budget) else Budget.parse(budget or [])
    wanted, devices = parse_formats(formats, asked), devices_of(targets)
    if not wanted or not devices:
        raise AigcEdgeError("no format or no target was given: give at least one of each, such as fp32 and x86-cpu")
    for target in devices:
        wrong = ", ".join(name for name in wanted if name not in target.precisions)
        if wrong:
            allowed = ", ".join(target.precisions)
            raise AigcEdgeError(f"the target {target.name} does not run {wrong}, it runs {allowed}: leave out one or the other")
        if target.flavour == "tensorrt_rtx" and "tensorrt_rtx" not in installed():
            raise AigcEdgeError(
                f"building for the target {target.name} needs TensorRT-RTX, which is not installed here: pip install "
                "'aigc-edge[tensorrt]', or leave out the target"
            )
    return asked, wanted, devices


def devices_of(targets: Sequence[str]) -> list[Target]:
    """The targets of these names, of which "auto" stands for what this machine is; raises AigcEdgeError for unknown ones."""
    named = [name for target in targets for name in (here() if target == "auto" else [target])]
    return known_targets.expand(dict.fromkeys(named))


def check_place(out: Path, overwrite: bool) -> None:
    """Raise AigcEdgeError where `out` cannot be written."""
    if out.exists() and not overwrite:
        raise AigcEdgeError(f"{out} already exists: give another name or ask to overwrite it")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise AigcEdgeError(f"cannot write {out}: {place} is no folder that can be written to; choose another place")


def parse_formats(formats: Sequence[str], budget: Budget) -> dict[str, Format]:
    """Formats by name; a PSNR budget becomes the option `psnr` of those that search a mixture and leave it at its default."""
    from aigc_edge.compress.format import parse

    found: dict[str, Format] = {}
    for text in dict.fromkeys(formats):
        format = parse(text)
        if format.name in found:
            raise AigcEdgeError(f"the format {format.name} was given twice with other options: a bundle holds one of each name")
        said = "psnr=" in text.partition(":")[2].replace(" ", "")
        if budget.psnr is not None and not said:
            format = with_psnr(format, budget.psnr)
        found[format.name] = format
    return found


def with_psnr(format: Any, psnr: float) -> Any:
    """The format with `psnr` dB as the least that its mixture search holds, where it has such an option."""
    return replace(format, psnr=psnr) if hasattr(format, "psnr") else format


def here() -> list[str]:
    """Names of the targets that this machine is: its CPU, and its GPU where there is one."""
    device = cuda_driver.device()
    if device is None:
        return known_targets.detect(platform.machine())
    return known_targets.detect(platform.machine(), device.name, device.sm, device.memory / 1e9)
