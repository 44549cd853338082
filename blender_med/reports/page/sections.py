"""The figures of one block with their tables; a figure without rows is left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from blender_med.reports.page import charts
from blender_med.reports.page.kinds import Kinds
from blender_med.reports.page.numbers import (
    count,
    duration,
    figure,
    interval,
    p_value,
    percent,
    signed,
)
from blender_med.reports.page.theme import svg
from blender_med.reports.page.verdict import Verdict
from blender_med.stages.comparison import (
    Comparison,
    Diagnosis,
    FusionRow,
    GatingRow,
    MethodRow,
    RankingRow,
    SliceRow,
)
from blender_med.stages.comparison.rows import Block
from blender_med.stages.methods import BEST_SINGLE

_MOST_SLICES = 8
_SLICE_NAMES = {"question_words": "length of the question in words"}
_MOST_METHODS = 10


@dataclass(frozen=True)
class Table:
    """Cells as text, under the names of their columns."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Figure:
    """A drawing with what it shows in one sentence, and its numbers; either may be missing."""

    key: str
    title: str
    text: str
    svg: Markup | None
    table: Table | None
    wide: bool = False


def figures(
    verdict: Verdict,
    comparison: Comparison,
    diagnosis: Diagnosis,
    rankings: Sequence[RankingRow],
    fusions: Sequence[FusionRow],
    gating: Sequence[GatingRow] = (),
) -> list[Figure]:
    """All figures of the verdict's block that have something to show, in reading order."""
    block, kinds = verdict.block, Kinds(comparison.settings)
    methods = [row for row in comparison.methods if row.block == block]
    made = [
        _methods(methods, kinds),
        _frontier(methods, comparison, block, kinds),
        _headroom(diagnosis, block, kinds),
        _wins(diagnosis, block),
        _complementarity(diagnosis, block),
        *_slices([row for row in comparison.slices if row.block == block], kinds),
        _coverage(diagnosis, block),
        _usage(diagnosis, block, kinds),
        _gates([row for row in gating if row.block == block]),
        _rankings([row for row in rankings if row.block == block]),
        _fusions([row for row in fusions if row.block == block]),
        _quality(diagnosis, block),
    ]
    return [item for item in made if item.svg is not None or item.table is not None]


def _drawn(chart: charts.Drawing | None, title: str) -> Markup | None:
    return None if chart is None else svg(chart, title)


def _table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Table | None:
    found = tuple(rows)
    return Table(tuple(head), found) if found else None


def _methods(rows: Sequence[MethodRow], kinds: Kinds) -> Figure:
    primary = rows[0].primary
    known = {row.method: row.metrics[primary] for row in rows if primary in row.metrics}
    compared = {m: e for m, e in known.items() if kinds(m) != "upper bound"}
    title = "Methods against the best single expert"
    chart = charts.forest(compared, kinds, f"difference in {primary}, 95 % interval")
    head = ("method", "n", primary, "95 % interval", "difference", "95 % interval", "p (Holm)")
    cells = (
        (
            row.method, str(row.n), figure(e.value), interval(e.low, e.high), signed(e.delta),
            interval(e.delta_low, e.delta_high, sign=True), p_value(e.p_holm),
        )
        for row in rows
        if (e := known.get(row.method)) is not None
    )  # fmt: skip
    text = (
        "Right of the line is better than the expert that was best on dev; an interval that "
        "crosses the line leaves it open. Questions of one document are resampled together."
    )
    return Figure("methods", title, text, _drawn(chart, title), _table(head, cells))


def _frontier(
    methods: Sequence[MethodRow], comparison: Comparison, block: Block, kinds: Kinds
) -> Figure:
    costs = {c.method: c for c in comparison.costs if c.block == block}
    shown = [row for row in methods if kinds(row.method) != "upper bound"]
    title = "Quality and cost"
    tokens = {method: cost.tokens_per_question for method, cost in costs.items()}
    head = ("method", shown[0].primary if shown else "", "tokens a question", "seconds a question")
    cells = (
        (
            row.method,
            figure(row.metrics[row.primary].value),
            count(tokens[row.method]),
            duration(costs[row.method].seconds_per_question),
        )
        for row in shown
        if row.primary in row.metrics
    )
    text = (
        "Up is better, left is cheaper. The line joins the methods that no cheaper one reaches. "
        "Tokens are all that experts and rankers read and wrote for one answer."
    )
    chart = charts.frontier(shown, tokens, kinds) if shown else None
    return Figure("frontier", title, text, _drawn(chart, title), _table(head, cells))


def _headroom(diagnosis: Diagnosis, block: Block, kinds: Kinds) -> Figure:
    rows = [row for row in diagnosis.headroom if row.block == block]
    title = "Where the headroom goes"
    head = ("method", "headroom", "gain", "ranker regret", "fuser corruption")
    parts = ("headroom", "gain", "ranker_regret", "fuser_corruption")
    cells = (
        (
            row.method,
            *(signed(row.parts[part].value) if part in row.parts else "" for part in parts),
        )
        for row in rows
    )
    text = (
        "The best candidate of every question against the best single expert: what a method "
        "gains of it, what its choice loses, what fusing loses."
    )
    errors = {row.unanimous_error for row in rows if row.unanimous_error is not None}
    if errors:
        text += f" On {percent(max(errors))} of the questions no candidate is right."
    chart = charts.headroom(rows, kinds)
    return Figure("headroom", title, text, _drawn(chart, title), _table(head, cells))


def _wins(diagnosis: Diagnosis, block: Block) -> Figure:
    duels = [row for row in diagnosis.duels if row.block == block]
    title = "Experts against each other"
    head = ("expert", "rival", "n", "wins", "ties", "losses")
    cells = (
        (d.expert, d.rival, str(d.n), str(d.wins), str(d.ties), str(d.n - d.wins - d.ties))
        for d in duels
    )
    text = "Share of the questions on which the expert of the row beats that of the column."
    return Figure("wins", title, text, _drawn(charts.wins(duels), title), _table(head, cells))


def _complementarity(diagnosis: Diagnosis, block: Block) -> Figure:
    duels = [row for row in diagnosis.duels if row.block == block]
    title = "What two experts gain together"
    head = ("expert", "rival", "gain")
    cells = ((d.expert, d.rival, signed(d.complementarity)) for d in duels)
    text = "A perfect choice between two experts, less the better one: who complements whom."
    drawn = _drawn(charts.complementarity(duels), title)
    return Figure("complementarity", title, text, drawn, _table(head, cells))


def _slices(rows: Sequence[SliceRow], kinds: Kinds) -> Iterator[Figure]:
    """One heat map per property, of its most frequent values."""
    found = (row.method for row in rows if _in_slices(row.method, kinds))
    methods = list(dict.fromkeys(found))[:_MOST_METHODS]
    for key in dict.fromkeys(row.slice for row in rows):
        own = [row for row in rows if row.slice == key and row.method in methods]
        values = list(dict.fromkeys(row.value for row in own))[:_MOST_SLICES]
        shown = [row for row in own if row.value in values]
        name = _SLICE_NAMES.get(key, key.replace("_", " "))
        head = ("value", "method", "n", "difference")
        cells = ((r.value, r.method, str(r.n), signed(r.estimate.delta)) for r in shown)
        title, text = f"By {name}", "Difference to the best single expert; no tests are made here."
        drawn = _drawn(charts.slices(shown), title)
        yield Figure(f"slice-{key}", title, text, drawn, _table(head, cells))


def _in_slices(method: str, kinds: Kinds) -> bool:
    return kinds(method) != "upper bound" and method != BEST_SINGLE


def _coverage(diagnosis: Diagnosis, block: Block) -> Figure:
    rows = [row for row in diagnosis.coverage if row.block == block]
    title = "Answering only when sure"
    wrong = "that are wrong" if block.task == "mcq" else "that are not the best candidate"
    text = (
        f"Risk is the share of answers {wrong}. A confidence that knows something starts low "
        "and climbs to the right; a flat line knows nothing."
    )
    head = ("method", "n", "share answered", "risk")
    cells = ((r.method, str(r.n), percent(r.coverage), percent(r.risk)) for r in rows)
    drawn = _drawn(charts.coverage(rows), title)
    return Figure("coverage", title, text, drawn, _table(head, cells))


def _usage(diagnosis: Diagnosis, block: Block, kinds: Kinds) -> Figure:
    rows = [row for row in diagnosis.usage if row.block == block]
    title = "Whose answers are taken"
    head = ("method", "expert", "share")
    cells = ((r.method, r.expert, percent(r.share)) for r in rows if kinds(r.method) == "ensemble")
    text = "Share of a method's answers that repeat a candidate of each expert."
    drawn = _drawn(charts.usage(rows, kinds), title)
    return Figure("usage", title, text, drawn, _table(head, cells))


def _gates(rows: Sequence[GatingRow]) -> Figure:
    title = "What the gates weigh"
    head = ("method", "expert", "mean weight", "questions with a weight above 0")
    cells = (
        (row.method, expert, percent(weight), percent(row.shares[expert]))
        for row in rows
        for expert, weight in row.weights.items()
    )
    text = "Weights that the gate of each embedding fuser gives to the experts, on average."
    return Figure("gates", title, text, _drawn(charts.gates(rows), title), _table(head, cells))


def _rankings(rows: Sequence[RankingRow]) -> Figure:
    head = ("ranker", "label", "n", *(rows[0].figures if rows else ()), "risk", "AURC", "ECE")
    cells = (
        (
            row.method, row.label, str(row.n),
            *(figure(estimate.value) for estimate in row.figures.values()),
            *(figure(getattr(row.certainty, name, None)) for name in ("risk", "aurc", "ece")),
        )
        for row in rows
    )  # fmt: skip
    text = "How well each ranker orders the candidates by the metric that labels them."
    return Figure("rankings", "Rankers", text, None, _table(head, cells), wide=True)


def _fusions(rows: Sequence[FusionRow]) -> Figure:
    head = (
        "fuser", "n", "improved", "stayed", "worsened", "difference", "95 % interval",
        "kept by the guard", "flagged",
    )  # fmt: skip
    cells = (
        (
            row.method, str(row.n), str(row.against_top.improved), str(row.against_top.stayed),
            str(row.against_top.worsened), *_gain(row), percent(row.kept_fused),
            percent(row.flagged.get("any")),
        )
        for row in rows
    )  # fmt: skip
    text = (
        "Answers that are better, equal and worse than the candidate that the fuser is held "
        "against (the one that it started from, where it reads any), by the primary metric, the "
        "mean difference, and the share of answers with a sentence that the candidates do not "
        "support."
    )
    return Figure("fusions", "Fusers", text, None, _table(head, cells), wide=True)


def _gain(row: FusionRow) -> tuple[str, str]:
    """Difference to the top candidates by the primary metric, and its interval."""
    estimate = row.gains.get(row.metric)
    if estimate is None:
        return "", ""
    low, high = figure(estimate.delta_low), figure(estimate.delta_high)
    return signed(estimate.delta), f"{low} to {high}"


def _quality(diagnosis: Diagnosis, block: Block) -> Figure:
    rows = [row for row in diagnosis.quality if row.block == block]
    head = ("expert", "candidates", "empty", "cut short", "did not fit", "context cut", "no choice")
    cells = (
        (
            row.expert, str(row.candidates), str(row.empty), str(row.cut), str(row.refused),
            str(row.truncated), "" if row.unparsed is None else str(row.unparsed),
        )
        for row in rows
    )  # fmt: skip
    text = (
        "Candidates without text, ended by the limit of tokens, whose prompt did not fit the "
        "model, whose context was cut to fit, and in which no choice was found."
    )
    return Figure("quality", "State of the candidates", text, None, _table(head, cells), wide=True)
