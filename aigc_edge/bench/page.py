"""The report's page: figures and pictures in, one HTML text out that needs nothing else."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aigc_edge.bench import cells, charts
from aigc_edge.bench.child import STAGES
from aigc_edge.pages import card, page
from aigc_edge.text import digits, milliseconds, size

Figures = Mapping[str, Any]
esc = html.escape


def build(figures: Figures, pictures: Mapping[str, str]) -> str:
    """The page; `pictures` maps a format to a PNG in base64."""
    title = f"aigc-edge benchmark: {figures['bundle']['name']}"
    sections = [_head(figures, title), _cards(figures), _table(figures), _speed(figures), _cost(figures)]
    sections += [_quality(figures), _samples(pictures), _method(figures), _machine(figures)]
    return page(title, *sections)


def _head(figures: Figures, title: str) -> str:
    settings, bundle, machine = figures["settings"], figures["bundle"], figures["machine"]
    solver = f"{settings['solver']}, {settings['steps']} steps" if settings["solver"] else "one evaluation"
    guided = f", guidance {settings['guidance_scale']:g}" if settings["guidance_scale"] != 1 else ""
    threads = f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}"
    shape = "×".join(str(s) for s in bundle["output_shape"])
    parts = [f"{bundle['family']}, images {shape}", f"{solver}{guided}", f"{threads} on {machine['cpu']}"]
    about = "; ".join([*parts, figures["created"][:10], figures["tool"]])
    warning = cells.warning(figures)
    busy = f'<p class="slower">{esc(warning[0].upper() + warning[1:])}.</p>' if warning else ""
    return f'<h1>{esc(title)}</h1><p class="soft">{esc(about)}</p>{busy}'


def _cards(figures: Figures) -> str:
    natives = cells.natives(figures)
    first, last = natives[0], natives[-1]
    both = len(natives) > 1

    def values(of: Callable[[Figures], str]) -> str:
        rows = (first, last) if both else (first,)
        return "".join(f"<div>{of(row)} <small>{esc(row['format'])}</small></div>" for row in rows)

    one = [c for c in figures["comparisons"] if c["batch"] == 1]
    formats = next((c for c in one if (c["ours"], c["theirs"]) == (last["key"], first["key"])), None)
    faster = f"{digits(formats['ratio'])}× as fast, batch 1" if formats else "one image"
    smaller = f"{digits(first['bytes']['networks'] / last['bytes']['networks'])}× smaller" if both else "in the bundle"
    out = [
        card("time for one image", values(lambda row: milliseconds(row["latency"]["1"]["median"])), faster),
        card("network file", values(lambda row: size(row["bytes"]["networks"])), smaller),
    ]
    quality = first.get("quality") or {}
    if quality.get("frechet") is not None:
        distances = values(lambda row: cells.frechet(row["quality"])[0])
        out.append(card("Fréchet distance (lower: better)", distances, f"{quality['n']} images a format"))
    if quality.get("class_accuracy") is not None:
        judge = f"by a classifier of {quality['judge_accuracy']:.1%}"
        out.append(card("recognised as their class", values(lambda row: cells.accuracy(row["quality"])), judge))
    peers = [c for c in one if c["ours"] == first["key"] and not c["theirs"].startswith(("native", "network"))]
    if peers:
        names = cells.by_key(figures)
        text = ", ".join(f"{digits(c['ratio'])}× {esc(names[c['theirs']]['title'])}" for c in peers)
        least = f"{digits(min(c['ratio'] for c in peers))}× <small>at least</small>"
        out.append(card(f"{first['format']} against peers", least, text))
    return f'<div class="cards">{"".join(out)}</div>'


def _panel(heading: str, content: str) -> str:
    return f'<div class="panel"><h3>{heading}</h3>{content}</div>'


def _small(value: str, note: str) -> str:
    return value + (f"<small>{note}</small>" if note else "")


def _ratio(figures: Figures, row: Figures) -> str:
    """How many times as fast native is, in this row's format; the network alone is a floor and gets no verdict."""
    comparison = cells.against(figures, row)
    if not comparison:
        return cells.NONE
    interval = f"{digits(comparison['interval'][0])} … {digits(comparison['interval'][1])}" if comparison["interval"] else ""
    if row["runner"] == "network":
        return _small(f"{digits(comparison['ratio'])}×", interval)
    tone = {"FASTER": "faster", "SLOWER": "slower"}.get(comparison["verdict"], "")
    return _small(f'<span class="{tone}">{cells.verdict(comparison)}</span>', interval)


def _row(figures: Figures, row: Figures) -> str:
    large, one = cells.large(figures), row["latency"]["1"]
    memory = f"{cells.memory(row, large)} at {large}" if "peak_bytes" in row else ""
    values = [
        esc(cells.name(row)),
        _small(milliseconds(one["median"]), f"{cells.spread(one)}, p90 {cells.p90(one)}"),
        _small(cells.rate(one), f"{cells.rate(row['latency'][large])} at {large}"),
        _ratio(figures, row),
        _small(cells.outside(row), f"{cells.outside(row, 'call')} of call") if row["runner"] == "native" else cells.NONE,
        _small(*cells.frechet(row.get("quality"))),
        cells.accuracy(row.get("quality")),
        cells.likeness(row),
        size(row["bytes"]["networks"]),
        _small(cells.memory(row), memory),
        cells.cold(row),
    ]
    kind = "ours" if row["runner"] == "native" else "peer"
    return f'<tr class="{kind}">{"".join(f"<td>{value}</td>" for value in values)}</tr>'


def _table(figures: Figures) -> str:
    heads = ["configuration", "one image, median<br>quartiles, p90", "images/s<br>batch 1, larger", "aigc-edge<br>is as fast"]
    heads += ["outside the<br>network", "Fréchet<br>distance", "class<br>accuracy", "PSNR from<br>same noise", "network<br>file"]
    heads += ["peak memory<br>batch 1, larger", "cold<br>start"]
    head = "".join(f"<th>{text}</th>" for text in heads)
    lines = "".join(_row(figures, row) for row in figures["configurations"])
    note = "Peers sample the same networks with the same solver: as their PSNR shows, their images and quality are the same."
    left = "".join(f"<li>{esc(runner)} was left out: {esc(reason)}</li>" for runner, reason in figures["left_out"].items())
    return (
        f'<h2>Speed, memory and quality on one row</h2><div class="panel"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div><p class='soft'>{note}</p>" + (f"<ul class='soft'>{left}</ul>" if left else "")
    )


def _chart_row(row: Figures, values: Sequence[float]) -> charts.ChartRow:
    return charts.ChartRow(cells.name(row), row["runner"] == "native", values)


def _speed(figures: Figures) -> str:
    rows = [_chart_row(row, [s * 1e3 for s in row["latency"]["1"]["samples"]]) for row in figures["configurations"]]
    names = cells.by_key(figures)
    ratios = []
    for c in figures["comparisons"]:
        if c["batch"] == 1 and c["interval"] and not c["theirs"].startswith("network"):
            name = f"{c['ours'].partition('-')[2]} against {cells.name(names[c['theirs']])}"
            ratios.append(charts.Ratio(name, c["ratio"], c["interval"], c["quartiles"], c["verdict"]))
    heading = f"Time for one image, {figures['settings']['rounds']['1']} interleaved rounds"
    section = "<h2>Speed</h2>" + _panel(heading, charts.distributions(rows, "ms", "time for one image"))
    if ratios:
        section += _panel("aigc-edge against peers, round by round", charts.ratios(ratios, "ratios to peers"))
    return section


def _cost(figures: Figures) -> str:
    started = [row for row in figures["configurations"] if "cold_start" in row]
    if not started:
        return ""
    cold = [_chart_row(row, [row["cold_start"][stage]["median"] for stage in STAGES]) for row in started]
    memory = [_chart_row(row, [row["peak_bytes"]["1"] / 1e6]) for row in started]
    left = charts.stacked(cold, [stage.replace("_", " ") for stage in STAGES], "s", "cold start")
    right = charts.stacked(memory, ["peak resident memory at batch 1"], "MB", "peak memory")
    panels = _panel("Cold start: from a new process to the first image", left)
    panels += _panel("Peak memory of a process of its own", right)
    return f'<h2>What it costs to start and to hold</h2><div class="two">{panels}</div>'


def _quality(figures: Figures) -> str:
    points = []
    for row in cells.natives(figures):
        quality = row.get("quality")
        if quality and quality.get("frechet") is not None:
            bounds = quality["frechet_low"], quality["frechet_high"]
            points.append(charts.Point(str(row["format"]), row["latency"]["1"]["median"] * 1e3, quality["frechet"], *bounds))
    if not points:
        return ""
    real = next((r["quality"].get("real_split") for r in cells.natives(figures) if r.get("quality")), None)
    floor, floor_name = (real["frechet"], f"two halves of the real images (n {real['n']})") if real else (None, "")
    plot = charts.plane(points, "time for one image, ms", "Fréchet distance", "quality and latency", floor, floor_name)
    return "<h2>Quality against latency</h2>" + _panel("Lower left is better; bars are 95 % intervals", plot)


def _samples(pictures: Mapping[str, str]) -> str:
    if not pictures:
        return ""
    figures = []
    for name, png in pictures.items():
        image = f'<img alt="samples of the format {esc(name)}" src="data:image/png;base64,{png}">'
        figures.append(f"<figure>{image}<figcaption>{esc(name)}</figcaption></figure>")
    return f'<h2>Samples from the same seeds, one row a class</h2><div class="samples">{"".join(figures)}</div>'


def _method(figures: Figures) -> str:
    settings = figures["settings"]
    rounds = ", ".join(f"{n} at batch {batch}" for batch, n in settings["rounds"].items())
    notes = [
        f"""Every round runs every configuration once, in an order that rotates and turns round. {settings["warmup_rounds"]}
        rounds before the timed ones are not kept. Timed rounds: {rounds}. Nothing is dropped as an outlier. Garbage is
        collected between rounds only.""",
        """A call is timed from the seeds to the finished 8-bit images, as an application sees it. Outside the network: the share
        of the native loop's time that is not the network's, and below it that share of the whole call from Python.""",
        """A ratio is taken within each round, so that what slows a whole round cancels. Its interval is that of the median
        at 95 %, by order statistics. Faster, slower and same (within 1 %) are said only when the whole interval says
        so. p90 needs 64 samples.""",
        """network alone: as many evaluations of the same session on bound buffers, with nothing between them. No loop
        around this engine can be faster.""",
        """Peers get the same network, engine settings and threads, and draw their noise with their own generators. From
        equal latents their images are compared with those of aigc-edge in that format: that is their PSNR.""",
        f"""Peak memory (VmHWM) and cold start are taken in processes of their own, {settings["cold_starts"]} a
        configuration; the median is shown. The files were in the page cache.""",
        """The Fréchet distance is taken over features of a classifier that was trained on the same real images. It is
        biased upwards for small n: compare it between equal n only. Its intervals are bootstrap intervals at 95 %.""",
    ]
    return "<h2>How it was measured</h2><ul>" + "".join(f"<li>{esc(' '.join(note.split()))}</li>" for note in notes) + "</ul>"


def _machine(figures: Figures) -> str:
    machine, bundle = figures["machine"], figures["bundle"]
    before, after = machine["busy"]["before"], machine["busy"]["after"]
    rows = {
        "processor": f"{machine['cpu']} ({machine['family']}), {machine['cores']} cores to use",
        "instruction sets": ", ".join(machine["flags"]),
        "memory": f"{machine['memory_gib']} GiB",
        "system": f"{machine['system']}, {machine['architecture']}",
        "versions": ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
        "load average": f"{before.get('load', 0):.2f} before, {after.get('load', 0):.2f} after",
        "bundle": f"{bundle['name']}, compiled {bundle['created']}",
    }
    provenance = bundle.get("provenance") or {}
    rows |= {name: str(provenance[name]) for name in ("data", "licence") if provenance.get(name)}
    lines = "".join(f"<tr><th>{esc(name)}</th><td>{esc(value)}</td></tr>" for name, value in rows.items())
    return f'<h2>On what</h2><div class="panel plain"><table>{lines}</table></div>'
