"""The figures, as charts of typed rows. Rows hold plain data; nothing here reads files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import altair as alt

from blender_med.reports.page.kinds import KINDS, Kinds, short
from blender_med.reports.page.numbers import figure, interval, p_value, percent, signed
from blender_med.reports.page.theme import KIND_COLOURS, KIND_SHAPES, LEAST_OPACITY, SERIES
from blender_med.stages.comparison import (
    CoverageRow,
    DuelRow,
    Estimate,
    GatingRow,
    HeadroomRow,
    MethodRow,
    SliceRow,
    UsageRow,
)

Drawing = alt.Chart | alt.LayerChart
Rows = list[dict[str, Any]]
_ROW_HEIGHT = 26
_LOG_FROM = 10.0  # ratio of the largest to the smallest cost from which the axis is logarithmic
_MOST_NUMBERED = 6  # columns of a matrix that leave room for numbers in its cells
PART_NAMES = {
    "gain": "gained over the best single expert",
    "ranker_regret": "lost by the choice (ranker regret)",
    "fuser_corruption": "lost in fusing (corruption)",
}


def forest(estimates: Mapping[str, Estimate], kinds: Kinds, title: str) -> alt.LayerChart | None:
    """Differences with their intervals, the best on top; None where there is none."""
    found = {m: e for m, e in estimates.items() if e.delta is not None}
    if not found:
        return None
    order = sorted(found, key=lambda m: -(found[m].delta or 0.0))
    rows = [_forest_row(method, found[method], kinds) for method in order]
    base = alt.Chart(alt.Data(values=rows), height=alt.Step(_ROW_HEIGHT))
    y = alt.Y("name:N", sort=[short(m) for m in order], title=None)
    spans = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=_kind_colour(rows)
    )
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        x="delta:Q",
        y=y,
        color=_kind_colour(rows),
        shape=_kind_shape(rows),
        description="tip:N",
    )
    return _zero_line() + spans + points


def _forest_row(method: str, estimate: Estimate, kinds: Kinds) -> dict[str, Any]:
    p = "" if estimate.p_holm is None else f", p {p_value(estimate.p_holm)} (Holm)"
    span = interval(estimate.delta_low, estimate.delta_high, sign=True)
    return {
        "name": short(method),
        "kind": kinds(method),
        "delta": estimate.delta,
        "low": estimate.delta_low,
        "high": estimate.delta_high,
        "tip": f"{method}: {signed(estimate.delta)} ({span}){p}",
    }


def _zero_line() -> alt.Chart:
    line = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(
        stroke="var(--text)", strokeDash=[4, 3]
    )
    return line.encode(x="zero:Q")


def _kind_colour(rows: Rows) -> alt.Color:
    return alt.Color("kind:N", scale=_kind_scale(rows, KIND_COLOURS))


def _kind_shape(rows: Rows) -> alt.Shape:
    return alt.Shape("kind:N", scale=_kind_scale(rows, KIND_SHAPES))


def _kind_scale(rows: Rows, values: Mapping[str, str]) -> alt.Scale:
    present = {row["kind"] for row in rows}
    domain = [name for name in KINDS if name in present]
    return alt.Scale(domain=domain, range=[values[name] for name in domain])


def frontier(
    methods: Sequence[MethodRow], costs: Mapping[str, float], kinds: Kinds
) -> alt.LayerChart | None:
    """Quality against tokens per question; a line joins the methods that no other dominates.

    Methods without a cost are left out on a logarithmic axis. None where no method has both.
    """
    rows = [
        _frontier_row(row, costs[row.method], kinds)
        for row in methods
        if row.primary in row.metrics and costs.get(row.method, 0.0) > 0
    ]
    if not rows:
        return None
    _mark_frontier(rows)
    largest, smallest = max(r["cost"] for r in rows), min(r["cost"] for r in rows)
    scale: Literal["log", "linear"] = "log" if largest / smallest >= _LOG_FROM else "linear"
    base = alt.Chart(alt.Data(values=rows), height=300)
    x = alt.X(
        "cost:Q", title="tokens per question", scale=alt.Scale(type=scale, zero=False, padding=14)
    )
    y = alt.Y("value:Q", title=methods[0].primary, scale=alt.Scale(zero=False, padding=14))
    best = base.transform_filter("datum.best")
    line = best.mark_line(interpolate="step-after", stroke="var(--grey)", strokeDash=[5, 3])
    names = best.mark_text(align="left", baseline="bottom", dx=7, dy=-5, limit=170)
    points = base.mark_point(filled=True, size=110, opacity=1).encode(
        x=x, y=y, color=_kind_colour(rows), shape=_kind_shape(rows), description="tip:N"
    )
    return line.encode(x=x, y=y) + points + names.encode(x=x, y=y, text="name:N")


def _frontier_row(row: MethodRow, cost: float, kinds: Kinds) -> dict[str, Any]:
    estimate = row.metrics[row.primary]
    tip = f"{row.method}: {row.primary} {figure(estimate.value)}, {cost:,.0f} tokens a question"
    return {
        "name": short(row.method),
        "kind": kinds(row.method),
        "cost": cost,
        "value": estimate.value,
        "tip": tip,
    }


def _mark_frontier(rows: Rows) -> None:
    """Mark the rows that are better than every row that costs no more."""
    best = float("-inf")
    for row in sorted(rows, key=lambda r: (r["cost"], -r["value"])):
        row["best"] = row["value"] > best
        best = max(best, row["value"])


def headroom(rows: Sequence[HeadroomRow], kinds: Kinds) -> alt.LayerChart | None:
    """What becomes of oracle - best single, by method; None without an ensemble method."""
    shown = [row for row in rows if kinds(row.method) == "ensemble" and len(row.parts) == 4]
    if not shown:
        return None
    order = sorted(shown, key=lambda row: -row.parts["gain"].value)
    parts = [_part(row, name) for row in order for name in PART_NAMES]
    colours = ["var(--green)", "var(--orange)", "var(--red)"]
    chart = alt.Chart(alt.Data(values=parts), height=alt.Step(_ROW_HEIGHT)).mark_bar()
    return _zero_line() + chart.encode(
        x=alt.X("value:Q", title=f"{shown[0].metric}, sums to oracle - best single"),
        y=alt.Y("name:N", sort=[short(row.method) for row in order], title=None),
        color=alt.Color(
            "part:N",
            scale=alt.Scale(domain=list(PART_NAMES.values()), range=colours),
            legend=alt.Legend(columns=1, labelLimit=400),
        ),
        order="order:Q",
        description="tip:N",
    )


def _part(row: HeadroomRow, name: str) -> dict[str, Any]:
    estimate = row.parts[name]
    span = interval(estimate.low, estimate.high, sign=True)
    return {
        "name": short(row.method),
        "part": PART_NAMES[name],
        "value": estimate.value,
        "order": list(PART_NAMES).index(name),
        "tip": f"{row.method}: {PART_NAMES[name]} {signed(estimate.value)} ({span})",
    }


def wins(duels: Sequence[DuelRow]) -> alt.LayerChart | None:
    """Share of questions on which the expert of the row beats that of the column; ties half."""
    cells: Rows = []
    for duel in duels:
        share = (duel.wins + duel.ties / 2) / duel.n
        for row, column, value in (
            (duel.expert, duel.rival, share),
            (duel.rival, duel.expert, 1 - share),
        ):
            tip = f"{row} beats {column} on {percent(value)} of {duel.n} questions (ties half)"
            cells.append(_cell(row, column, 2 * value - 1, percent(value), tip))
    return _matrix(cells, _experts(duels), _experts(duels))


def complementarity(duels: Sequence[DuelRow]) -> alt.LayerChart | None:
    """What a perfect choice between two experts gains over the better of them."""
    largest = max((duel.complementarity for duel in duels), default=0.0) or 1.0
    cells = []
    for duel in duels:
        value = duel.complementarity
        tip = f"{duel.expert} and {duel.rival}: {signed(value)} over the better of the two"
        for row, column in ((duel.expert, duel.rival), (duel.rival, duel.expert)):
            cells.append(_cell(row, column, value / largest, signed(value), tip))
    return _matrix(cells, _experts(duels), _experts(duels))


def _experts(duels: Sequence[DuelRow]) -> list[str]:
    return list(dict.fromkeys(name for duel in duels for name in (duel.expert, duel.rival)))


def slices(rows: Sequence[SliceRow]) -> alt.LayerChart | None:
    """Differences to the best single expert by property of the question; None without one."""
    known = [row for row in rows if row.estimate.delta is not None]
    largest = max((abs(row.estimate.delta or 0.0) for row in known), default=0.0) or 1.0
    cells = []
    for row in known:
        delta = row.estimate.delta or 0.0
        tip = f"{row.method} on {row.slice} {row.value}: {signed(delta)}, {row.n} questions"
        cells.append(_cell(row.value, short(row.method), delta / largest, signed(delta), tip))
    values, methods = (list(dict.fromkeys(cell[k] for cell in cells)) for k in ("row", "column"))
    return _matrix(cells, values, methods)


def _cell(row: str, column: str, weight: float, text: str, tip: str) -> dict[str, Any]:
    return {
        "row": row,
        "column": column,
        "opacity": LEAST_OPACITY + (1 - LEAST_OPACITY) * 0.75 * min(1.0, abs(weight)),
        "sign": "above" if weight >= 0 else "below",
        "text": text,
        "tip": tip,
    }


def _matrix(cells: Rows, rows: Sequence[str], columns: Sequence[str]) -> alt.LayerChart | None:
    """Cells in blue (more) and orange (less), the deeper the farther; None without cells."""
    if not cells:
        return None
    base = alt.Chart(alt.Data(values=cells), height=alt.Step(_ROW_HEIGHT))
    above = alt.Axis(orient="top", labelAngle=-60, labelAlign="left", labelLimit=120, domain=False)
    x = alt.X("column:N", sort=list(columns), title=None, axis=above)
    y = alt.Y("row:N", sort=list(rows), title=None, axis=alt.Axis(domain=False))
    signs = alt.Scale(domain=["above", "below"], range=["var(--blue)", "var(--orange)"])
    boxes = base.mark_rect(stroke="var(--page)").encode(
        x=x,
        y=y,
        fill=alt.Fill("sign:N", scale=signs, legend=None),
        opacity=alt.Opacity("opacity:Q", scale=None, legend=None),
        description="tip:N",
    )
    if len(columns) > _MOST_NUMBERED:
        return alt.LayerChart(layer=[boxes])
    return boxes + base.mark_text(aria=False).encode(x=x, y=y, text="text:N")


def coverage(rows: Sequence[CoverageRow]) -> alt.Chart | None:
    """Risk against the share of questions answered, the surest first; None without rows."""
    if not rows:
        return None
    points = [
        {
            "method": row.method,
            "coverage": row.coverage,
            "risk": row.risk,
            "tip": f"{row.method}: risk {percent(row.risk)} on the surest {percent(row.coverage)}",
        }
        for row in rows
    ]
    methods = list(dict.fromkeys(row.method for row in rows))
    colours = [SERIES[i % len(SERIES)] for i in range(len(methods))]
    chart = alt.Chart(alt.Data(values=points), height=280)
    return chart.mark_line(point=alt.OverlayMarkDef(size=35, opacity=1), strokeWidth=2).encode(
        x=alt.X("coverage:Q", title="share of questions answered", axis=alt.Axis(format="%")),
        y=alt.Y("risk:Q", title="risk", axis=alt.Axis(format="%")),
        color=alt.Color("method:N", scale=alt.Scale(domain=methods, range=colours)),
        strokeDash=alt.StrokeDash("method:N", scale=alt.Scale(domain=methods)),
        description="tip:N",
    )


def usage(rows: Sequence[UsageRow], kinds: Kinds) -> alt.Chart | None:
    """Whose answers the methods that choose take; None where no ensemble method repeats any."""
    shown = [row for row in rows if kinds(row.method) == "ensemble"]
    if not shown:
        return None
    bars = [
        {
            "name": short(row.method),
            "expert": row.expert,
            "share": row.share,
            "tip": f"{row.method} takes {percent(row.share)} of {row.n} answers from {row.expert}",
        }
        for row in shown
    ]
    return _stacked(bars, "share of the answers")


def gates(rows: Sequence[GatingRow]) -> alt.Chart | None:
    """Mean weight that each gate gives to each expert; None without a gate."""
    bars = [
        {
            "name": short(row.method),
            "expert": expert,
            "share": weight,
            "tip": f"{row.method}: mean weight {percent(weight)} for {expert}, "
            f"above 0 on {percent(row.shares[expert])} of {row.n} questions",
        }
        for row in rows
        for expert, weight in row.weights.items()
    ]
    return _stacked(bars, "mean weight") if bars else None


def _stacked(bars: Rows, title: str) -> alt.Chart:
    """A bar for each name, made of its experts' shares."""
    experts = list(dict.fromkeys(bar["expert"] for bar in bars))
    colours = [SERIES[i % len(SERIES)] for i in range(len(experts))]
    chart = alt.Chart(alt.Data(values=bars), height=alt.Step(_ROW_HEIGHT)).mark_bar(
        stroke="var(--page)"
    )
    return chart.encode(
        x=alt.X("share:Q", title=title, axis=alt.Axis(format="%")),
        y=alt.Y("name:N", sort=None, title=None),
        color=alt.Color("expert:N", scale=alt.Scale(domain=experts, range=colours)),
        description="tip:N",
    )
