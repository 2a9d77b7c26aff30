"""A program as a table of text."""

from __future__ import annotations

from aigc_edge.diffusion.program import Program
from aigc_edge.diffusion.row import Row, identity

_SHOWN = 40  # of a longer program the rows in the middle are left out


def _sum(coefficients: list[tuple[float, str]]) -> str:
    """The nonzero terms, such as "0.5 s0 - D + 0.1 eps", or "0"."""
    text = ""
    for value, name in coefficients:
        if value == 0:
            continue
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        text += sign + (name if abs(value) == 1 else f"{abs(value):.4g} {name}")
    return text or "0"


def _update(matrix: tuple[tuple[float, ...], ...], noise: tuple[float, ...] | None, raw: tuple[float, ...] | None = None) -> str:
    slots = len(matrix)
    names = [f"s{i}" for i in range(slots)] + ["D"]
    lines = []
    for slot, line in enumerate(matrix):
        others = [(raw[slot] if raw else 0.0, "F"), (noise[slot] if noise else 0.0, "eps")]
        terms = _sum([*zip(line, names, strict=False), *others])
        if terms != f"s{slot}":
            lines.append(f"s{slot} = {terms}")
    return ", ".join(lines) or "-"


def _before(row: Row) -> str:
    if row.before is None and row.before_noise is None:
        return ""
    return f"before: {_update(row.before or identity(row.slots), row.before_noise)}; "


def _line(index: int, row: Row, weight: float) -> str:
    figures = "".join(f"{v:11.5g}" for v in (row.sigma, row.timestep, row.c_in, row.c_skip, row.c_out, weight))
    clip = "-" if row.clip is None else f"{row.clip[0]:g} … {row.clip[1]:g}"
    if row.threshold is not None:
        clip = f"{100 * row.threshold[0]:g} % ≤ {row.threshold[1]:g}"
    return f"{index:5d}{figures}  {clip:9s}  {_before(row)}{_update(row.after, row.after_noise, row.after_output)}"


def format_table(program: Program) -> str:
    """`program` as text: a head line, then one line per row.

    A line holds noise level, timestep, c_in, c_skip, c_out, guidance weight w, clipping and the update of the slots s0, s1 …, of
    D (the denoised sample), F (the network's output) and eps (unit normal noise).
    """
    guided = sum(w != 1.0 for w in program.weights)
    plural = "" if program.slots == 1 else "s"
    head = f"{program.name}: {program.nfe} evaluations ({guided} guided at scale {program.guidance_scale:g})"
    lines = [f"{head}, {program.slots} slot{plural}, s0 = {program.init_scale:.6g} latents"]
    if not program.rows:
        return f"{lines[0]}; no rows: the decoder makes the image"
    names = "".join(f"{n:>11s}" for n in ("sigma", "timestep", "c_in", "c_skip", "c_out", "w"))
    lines.append(f"{'row':>5s}{names}  {'clip':9s}  slots after the row")
    rows = enumerate(zip(program.rows, program.weights, strict=True))
    table = [_line(index, row, weight) for index, (row, weight) in rows if _is_shown(index, program.nfe)]
    if program.nfe > _SHOWN:
        table.insert(_SHOWN // 2, f"  ... {program.nfe - _SHOWN} more rows ...")
    return "\n".join(lines + table)


def _is_shown(index: int, count: int) -> bool:
    return count <= _SHOWN or index < _SHOWN // 2 or index >= count - _SHOWN // 2
