"""The HTML report on a bundle's formats."""

from __future__ import annotations

import html
import math
import os
from typing import Any

from aigc_edge.errors import BundleError
from aigc_edge.files import atomic_file
from aigc_edge.pages import card, page
from aigc_edge.report import charts, components
from aigc_edge.report.facts import Facts, FormatFacts, read
from aigc_edge.text import digits, size

esc = html.escape


def write(bundle: str | os.PathLike[str], file: str | os.PathLike[str]) -> None:
    """Write the report of `bundle` as one HTML file; raises AigcEdgeError if the bundle has nothing to show, or a broken card."""
    try:
        text = build(read(bundle))
    except (
        ArithmeticError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:  # whatever a foreign card may hold
        raise BundleError(
            f"the quality card of {os.fspath(bundle)!r} lacks a member or has one of another type ({error!r}): compile it again"
        ) from error
    with atomic_file(file) as part:
        part.write_text(text, encoding="utf-8")


def build(facts: Facts) -> str:
    """The page as HTML."""
    title = f"Why: the formats of {facts.manifest.name}, layer by layer"
    program = facts.manifest.default_program
    head = (
        f"<h1>{esc(title)}</h1><p class='soft'>Measured against fp32 from the same noise, with the program {esc(program)}. Bars "
        "in colour are layers in the format, grey ones stayed in, or fell back to, floating point.</p>"
    )
    lines = {_title(f): f.report["rows"] for f in facts.formats if len(f.report.get("rows") or ()) > 1}
    steps = f'<h2>Error along the trajectory</h2><div class="panel">{charts.rows(lines)}</div>' if lines else ""
    return page(title, head, _components(facts), steps, *(_section(f) for f in facts.formats))


def _components(facts: Facts) -> str:
    """The table of components, with remarks."""
    rows = list(components.rows(facts.manifest))
    if not rows:
        return ""
    lines = ["<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    table = f"<table><tr>{''.join(f'<th>{esc(h)}</th>' for h in components.HEADER)}</tr>{''.join(lines)}</table>"
    notes = "".join(f"<p class='soft'>{esc(remark)}</p>" for remark in components.remarks(facts.manifest))
    return f'<h2>Components</h2><div class="panel">{table}{notes}</div>'


def _title(facts: FormatFacts) -> str:
    engine = f", for {facts.engine}" if facts.engine else ""
    return f"{facts.format}: {facts.component}{engine}"


def _section(facts: FormatFacts) -> str:
    report = facts.report
    parts = [f"<h2>{esc(_title(facts))}</h2>", f'<div class="cards">{_cards(facts)}</div>']
    if facts.layers:
        parts.append(f'<div class="panel"><h3>Layers</h3>{charts.layers(facts.layers)}</div>')
        parts.append(f'<div class="panel"><h3>The most sensitive layers</h3>{_table(facts)}</div>')
    if report.get("ranges") and len(report.get("rows") or ()) > 1:
        parts.append(f'<div class="panel"><h3>Ranges along the trajectory</h3>{charts.ranges(report["ranges"])}</div>')
    return "\n".join(parts)


def _cards(facts: FormatFacts) -> str:
    report, out = facts.report, []
    psnr = report.get("psnr")
    target = report.get("budget_psnr")
    note = "final samples of the calibration's held-out noise" + (f"; target {target:g} dB" if target else "")
    if report.get("rows"):
        out.append(card("PSNR to fp32", "equal" if psnr is None else f"{psnr:.1f} dB", note))
    share = report["bytes"] / max(report["source_bytes"], 1)
    out.append(card("network file", size(report["bytes"]), f"{share:.2f} of fp32's {size(report['source_bytes'])}"))
    if report.get("weight_share") is not None:
        out.append(card("weights in the format", f"{report['weight_share']:.1%}", f"of {report['weights']:,}"))
    if facts.layers:
        inside = sum(layer.macs for layer in facts.layers if layer.format not in charts.FLOATS)
        total = sum(layer.macs for layer in facts.layers) or 1
        floats = sum(layer.format in charts.FLOATS for layer in facts.layers)
        out.append(
            card(
                "multiply-adds in the format",
                f"{inside / total:.1%}",
                f"{floats} of {len(facts.layers)} layers in floating point",
            )
        )
    if report.get("estimators"):
        tried = ", ".join(f"{name} {'–' if value is None else f'{value:.1f} dB'}" for name, value in report["estimators"].items())
        out.append(card("ranges by", esc(str(report.get("estimator"))), esc(tried)))
    if facts.quality.get("frechet") is not None:
        ends = f"{digits(facts.quality['frechet_low'])} … {digits(facts.quality['frechet_high'])}"
        out.append(card("Fréchet distance", digits(facts.quality["frechet"]), f"{ends}, n = {facts.quality['n']}"))
    return "".join(out)


def _table(facts: FormatFacts, count: int = 15) -> str:
    known = [layer for layer in facts.layers if layer.error is not None]
    worst = sorted(known or facts.layers, key=lambda layer: -(layer.error or 0))[:count]
    squares = sum(layer.error**2 for layer in known if layer.error is not None and math.isfinite(layer.error)) or 1.0
    targets = sorted({target for layer in facts.layers for target in layer.runs})
    header = [
        "layer",
        "format",
        "error alone",
        "share of all errors",
        "bytes",
        "multiply-adds",
        *(f"runs on {t} in" for t in targets),
    ]
    lines = []
    for layer in worst:
        error = math.nan if layer.error is None else layer.error
        cells: list[Any] = [layer.name, layer.format, digits(error) if math.isfinite(error) else "–"]
        cells.append(f"{error**2 / squares:.1%}" if math.isfinite(error) else "–")
        cells += [size(layer.bytes), f"{layer.macs:,}".replace(",", " "), *(layer.runs.get(t, "–") for t in targets)]
        lines.append("<tr>" + "".join(f"<td>{esc(str(cell))}</td>" for cell in cells) + "</tr>")
    return f"<table><tr>{''.join(f'<th>{esc(h)}</th>' for h in header)}</tr>{''.join(lines)}</table>"
