"""Self-contained pages: one HTML file with inline styles and images."""

from __future__ import annotations

import html
from importlib.resources import files


def page(title: str, *sections: str) -> str:
    """A whole HTML page of sections; empty sections are omitted."""
    style = files("aigc_edge.pages").joinpath("page.css").read_text(encoding="utf-8")
    body = "\n".join(section for section in sections if section)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def card(what: str, big: str, note: str) -> str:
    """A card with a key figure: description, value and note, as HTML."""
    return f'<div class="card"><div class="what">{what}</div><div class="big">{big}</div><div class="note">{note}</div></div>'
