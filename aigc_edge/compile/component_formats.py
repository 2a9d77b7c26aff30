"""The formats of a bundle's components: the denoiser's is the bundle's, the others follow it as far as the quality gate holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from aigc_edge.bundle.component import TEXT_ENCODERS
from aigc_edge.compile.request import with_limits
from aigc_edge.compile.state import CompileState

if TYPE_CHECKING:
    from aigc_edge.compress.format import Format

# The graph of the first is stored as "file"; the others have their own where it differs.
ENGINES = ("onnxruntime", "openvino", "tensorrt")
TEXT_MARGIN = 6.0  # dB that text encoders have to hold beyond the format's PSNR: every evaluation depends on what they return
SMOOTH = 0.5  # SmoothQuant's strength that is tried for text encoders, which have a few channels of very large activations


class Job(NamedTuple):
    """A component in a format, as an engine needs it: the candidates in order of preference, of which the last has to hold."""

    part: str
    engine: str
    candidates: tuple[Format, ...]


def conversions(state: CompileState, format: Format, weight_only: Collection[str] = ()) -> Iterator[Job]:
    """The conversions that a bundle in `format` consists of.

    The main component is in the format itself. The others are too, calibrated, where `format.everywhere`, except for those in
    `weight_only` and for graphs for TensorRT, and else in the format's companion, which needs no calibration.
    """
    for part in state.networks:
        if part == state.main:
            yield from (Job(part, engine, (chosen,)) for engine, chosen in _variants(state, format).items())
            continue
        stored, computed = _variants(state, companion(format)), {}
        if format.everywhere and part not in weight_only:
            computed = _variants(state, _calibrated(format, part))
            computed.pop("tensorrt", None)
        for engine in dict.fromkeys([*stored, *computed]):
            last = stored.get(engine, stored["file"])
            if engine not in computed:
                yield Job(part, engine, (last,))
                continue
            first = computed[engine]
            smooth = (dataclasses.replace(first, smooth=SMOOTH),) if _smoothable(first, part) else ()  # type: ignore[call-arg]
            yield Job(part, engine, (first, *smooth, last))


def companion(format: Format) -> Format:
    """The weight-only format of the other networks, which have to hold no more than the format itself."""
    from aigc_edge.compress.evaluation.quality import Requirement
    from aigc_edge.compress.format import parse
    from aigc_edge.compress.recipes.mixed_precision import MixedPrecision

    if format.companion is None:
        return format
    chosen = parse(format.companion)
    if not (isinstance(format, MixedPrecision) and isinstance(chosen, MixedPrecision)):
        return chosen
    psnr = min(chosen.psnr, format.psnr)
    return with_limits(chosen, psnr=psnr, centred_l2=max(format.centred_l2, Requirement(psnr).most_centred_l2))


def _calibrated(format: Any, part: str) -> Format:
    """The format for another component than the main one: without training, for which there are no further inputs."""
    margin = TEXT_MARGIN if part in TEXT_ENCODERS and format.psnr else 0.0
    centred = 0.0 if margin else format.centred_l2
    options: dict[str, Any] = {"psnr": format.psnr + margin, "centred_l2": centred}
    options |= {"aim": format.aim + margin} if getattr(format, "aim", 0.0) else {}
    options |= {"qat": 0} if hasattr(format, "qat") else {}
    chosen: Format = dataclasses.replace(format, **options)
    return chosen


def _smoothable(format: Format, part: str) -> bool:
    return part in TEXT_ENCODERS and getattr(format, "smooth", None) == 0.0


def _variants(state: CompileState, format: Format) -> dict[str, Format]:
    """The format for each engine of the targets that needs its own graph; "file" is for all others."""
    kinds = {target.kind for target in state.request.targets}
    engines = [ENGINES[0], *(["openvino"] if "cpu" in kinds else []), *(["tensorrt"] if "gpu" in kinds else [])]
    by_engine: dict[str, Format] = {}
    for engine in engines:
        chosen = _for_engine(format, engine)
        if chosen is not None and chosen not in by_engine.values():
            by_engine["file" if engine == ENGINES[0] else engine] = chosen
    return by_engine


def _for_engine(format: Format, engine: str) -> Format | None:
    for field in dataclasses.fields(format):
        if field.name == "engine":
            known = engine in (field.metadata.get("choices") or ())
            return dataclasses.replace(format, engine=engine) if known else None  # type: ignore[call-arg]
    return format
