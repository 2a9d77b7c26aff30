"""Pages that need nothing else: one HTML file with its style and pictures in it."""

from __future__ import annotations

import html
from importlib.resources import files


def page(title: str, *sections: str) -> str:
    """A whole HTML page of sections; those that are empty are left out."""
    style = files("aigc_edge.pages").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def card(what: str, big: str, note: str) -> str:
    """A figure that counts: what it is, the figure, and a note, as HTML."""
    return f'<div class="card"><div class="what">{what}</div><div class="big">{big}</div><div class="note">{note}</div></div>'
