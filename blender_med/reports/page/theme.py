"""Looks of the figures, and how a chart becomes SVG.

Colours are names of CSS variables (``style.css`` gives them values for light and dark), so that a
figure follows the theme of the page. Marks carry their figures as ``aria-label``, which the page
shows as a tooltip under the pointer and under the keyboard's focus.
"""

from __future__ import annotations

import re
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

WIDTH = 460
FONT_SIZE = 13
# Opaque enough to be told from the page also where a difference is small.
LEAST_OPACITY = 0.06

KIND_COLOURS = {
    "ensemble": "var(--blue)",
    "expert": "var(--orange)",
    "baseline": "var(--purple)",
    "upper bound": "var(--grey)",
    "other": "var(--sky)",
}
KIND_SHAPES = {
    "ensemble": "circle",
    "expert": "square",
    "baseline": "diamond",
    "upper bound": "triangle-up",
    "other": "cross",
}
# Okabe and Ito's palette, orange and sky darker on a light page; neighbours differ most.
SERIES = tuple(f"var(--{name})" for name in ("blue", "orange", "green", "purple", "sky", "red"))


def svg(chart: alt.Chart | alt.LayerChart, title: str) -> Markup:
    """Inline SVG of a chart, as wide as its place allows.

    Texts of the data are escaped by the renderer.

    Args:
        chart: A single or layered view.
        title: What a screen reader says first.
    """
    shown = chart.properties(width=WIDTH, autosize=alt.AutoSizeParams(type="fit-x")).configure(
        **_config()
    )
    drawn = vl_convert.vegalite_to_svg(shown.to_dict(validate=False))
    size = re.search(r'viewBox="([^"]*)"', drawn)
    inside = drawn[drawn.index(">") + 1 :]
    box = size.group(1) if size else f"0 0 {WIDTH} {WIDTH}"
    opening = Markup('<svg viewBox="{}" tabindex="0" role="group" aria-label="{}">')
    return opening.format(box, f"{title}; arrow keys step through its marks") + Markup(inside)


def _config() -> dict[str, Any]:
    text = {"labelColor": "var(--text)", "titleColor": "var(--text)"}
    size = {"labelFontSize": FONT_SIZE, "titleFontSize": FONT_SIZE, "titleFontWeight": 500}
    axis = {"gridColor": "var(--line)", "domainColor": "var(--line)", "tickColor": "var(--line)"}
    return {
        "background": "transparent",
        # Texts are measured in a font of Arial's widths; a wider one needs the padding.
        "font": "Arial, Helvetica, Liberation Sans, sans-serif",
        "padding": {"left": 16, "right": 28, "top": 4, "bottom": 4},
        "axis": {**text, **size, **axis, "labelLimit": 170, "titlePadding": 10, "tickCount": 6},
        "legend": {**text, **size, "orient": "top", "title": None, "columns": 2, "labelLimit": 190},
        "view": {"stroke": None},
        "text": {"fontSize": FONT_SIZE - 1, "fill": "var(--text)"},
    }
