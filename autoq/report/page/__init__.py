"""The interactive page of a run, from which a recipe is chosen: one file that loads nothing.

``template.html`` is the document, ``style.css`` its style and ``script/`` its modules, which are put together when the
page is written.
"""

from __future__ import annotations

import html
import re

from autoq.report.page.assembling import assemble_script, digest, embed_json, read_part
from autoq.report.page.data import page_data
from autoq.report.page.sections import filled_sections
from autoq.report.summary import RunSummary
from autoq.report.words import headline

__all__ = ["render_page"]


def render_page(summary: RunSummary) -> str:
    """Render the page as HTML: text escaped, figures and recipes as JSON, drawn by the modules in ``script/``.

    Nothing in the page runs or styles it but what is written here: its policy names their digests.
    """
    style, script = read_part("style.css"), assemble_script()
    parts = {
        "title": html.escape(f"{summary.model}: quantization search"),
        "headline": html.escape(headline(summary)),
        **filled_sections(summary),
        "style": style,
        "style_digest": digest(style),
        "script": script,
        "script_digest": digest(script),
        "data": embed_json(page_data(summary)),
    }
    # One pass over the template: what is filled in is never itself searched for places to fill.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], read_part("template.html"))
