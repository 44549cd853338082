"""A training log as a picture: loss, dev metric, and what the gate gives each expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from blender_med.store.files import write_text
from blender_med.training.callbacks import WEIGHT

CURVES = "training.svg"

_WIDTH, _HEIGHT = 520, 130


def write_curves(file: Path, log: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Draw a log, one panel below the other over the steps.

    Args:
        file: The SVG file.
        log: Rows of the training log.
        metric: What was logged as the measurement.
    """
    measured = metric.removeprefix("eval_").replace("_", " ")
    panels = [
        _panel([_point(row, "loss", "") for row in log if "loss" in row], "loss"),
        _panel([_point(row, metric, "") for row in log if metric in row], f"dev {measured}"),
        _panel(
            [
                _point(row, name, name.removeprefix(WEIGHT))
                for row in log
                for name in row
                if name.startswith(WEIGHT)
            ],
            "mean weight on dev",
        ),
    ]
    chart = alt.vconcat(*(panel for panel in panels if panel is not None))
    write_text(file, vl_convert.vegalite_to_svg(chart.to_dict(validate=False)))


def _point(row: Mapping[str, Any], column: str, expert: str) -> dict[str, Any]:
    return {"step": row["step"], "value": row[column], "expert": expert}


def _panel(points: list[dict[str, Any]], title: str) -> alt.Chart | None:
    """Lines over the steps, one for each expert; None without a point."""
    if not points:
        return None
    chart = alt.Chart(alt.Data(values=points), width=_WIDTH, height=_HEIGHT)
    encoded = chart.mark_line(point=True).encode(
        x=alt.X("step:Q", title="step"),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
    )
    if any(point["expert"] for point in points):
        encoded = encoded.encode(color=alt.Color("expert:N", title=None))
    return encoded
