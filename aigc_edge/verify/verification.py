"""The result of a comparison: a table of all steps, and the first one that diverges."""

from __future__ import annotations

from dataclasses import dataclass

from aigc_edge.text import table


@dataclass(frozen=True)
class Verification:
    """`rows` hold row, sigma, timestep, other_timestep and relative_l2 of the network's input, `result` that of the samples:
    errors relative to what varies, see `metrics.paired.centred_l2`."""

    program: str
    against: str
    tolerance: float
    rows: list[dict[str, float]]
    result: float

    @property
    def first(self) -> int | None:
        """Index of the first row that diverges, the number of rows where only the result does; None where nothing does."""
        for row in self.rows:
            same_time = abs(row["timestep"] - row["other_timestep"]) <= 1e-5 * max(1.0, abs(row["timestep"]))
            if not row["relative_l2"] <= self.tolerance or not same_time:
                return int(row["row"])
        return None if self.result <= self.tolerance else len(self.rows)

    def __str__(self) -> str:
        first = self.first
        lines = []
        for row in self.rows:
            figures = (f"{row[name]:.6g}" for name in ("row", "sigma", "timestep", "other_timestep"))
            lines.append([*figures, f"{row['relative_l2']:.1e}", "diverges" if row["row"] == first else ""])
        lines.append(["result", "", "", "", f"{self.result:.1e}", "diverges" if first == len(self.rows) else ""])
        shown = table(["row", "sigma", "timestep", self.against, "relative L2 of the network's input", ""], lines)
        if first is None:
            verdict = f"{self.program} equals {self.against}: every step within {self.tolerance:g}"
        else:
            where = f"row {first}" if first < len(self.rows) else "the result"
            verdict = f"{self.program} diverges from {self.against} at {where} (more than {self.tolerance:g})"
        return f"{shown}\n{verdict}"
