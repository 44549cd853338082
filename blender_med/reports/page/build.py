"""From a finished run to its page."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from blender_med.records import Ranking
from blender_med.reports.page.document import BlockView, Document, write_document
from blender_med.reports.page.numbers import count
from blender_med.reports.page.questions import SHOWN_SPLITS, pack_questions
from blender_med.reports.page.sections import Figure, Table, figures
from blender_med.reports.page.verdict import Verdict, verdicts
from blender_med.stages.base import Run
from blender_med.stages.comparison import (
    Block,
    Comparison,
    Diagnosis,
    FusionRow,
    GatingRow,
    RankingRow,
)

_MOST_REASONS = 20


def write_page(
    run: Run,
    comparison: Comparison,
    diagnosis: Diagnosis,
    rankings: Sequence[RankingRow],
    fusions: Sequence[FusionRow],
    gating: Sequence[GatingRow],
    orders: Mapping[str, Iterable[Ranking]],
) -> list[Path]:
    """Write the page of a run; returns the files.

    Args:
        run: The run.
        comparison: Of its methods.
        diagnosis: Of the comparison.
        rankings: Quality of its rankers.
        fusions: What its fusers did.
        gating: What its gates did.
        orders: Rankings of each ranker, by its name.

    Raises:
        StoreError: The folder is not writable.
    """
    found = verdicts(comparison)
    views = [
        BlockView(
            block_name(v.block),
            v,
            figures(v, comparison, diagnosis, rankings, fusions, gating),
        )
        for v in found
    ]
    blocks = _browsed(comparison)
    document = Document(
        title=run.recipe.name,
        lead=run.recipe.description or "An ensemble of language models on medical questions.",
        summary=_summary(found),
        facts=_facts(run),
        blocks=views,
        notes=[*_quarantine(run), *_contamination(comparison)],
        questions=pack_questions(comparison.answers(), orders, blocks, {}) if blocks else None,
    )
    return write_document(run.stage_folder("report"), document)


def block_name(block: Block) -> str:
    """Name of a block as in the tables of the console."""
    return f"{block.dataset}, {block.task}, {block.protocol}: {block.split}"


def _summary(found: Sequence[Verdict]) -> str:
    """The verdicts counted; "" where there is one alone."""
    tones = Counter(verdict.tone for verdict in found)
    judged = tones["better"] + tones["worse"] + tones["open"]
    if len(found) < 2 or not judged:
        return ""
    return (
        f"Of {judged} sets of questions the ensemble is better than the best single expert on "
        f"{tones['better']} and worse on {tones['worse']}; on {tones['open']} chance can explain "
        "the difference."
    )


def _browsed(comparison: Comparison) -> list[Block]:
    """Blocks of the splits that people look at; all where there are no such."""
    every = [b for own in comparison.outcomes for b in comparison.blocks(own[0].board)]
    return [block for block in every if block.split in SHOWN_SPLITS] or every


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    sizes: dict[str, Counter[str]] = {}
    for question in run.questions:
        sizes.setdefault(question.dataset, Counter())[question.split] += 1
    questions = (
        (f"questions of {dataset}", ", ".join(f"{count(n)} {split}" for split, n in own.items()))
        for dataset, own in sizes.items()
    )
    return (
        *questions,
        ("experts", ", ".join(expert.name for expert in run.experts)),
        ("stages", ", ".join(run.recipe.stage_names())),
        ("seed", str(run.recipe.seed)),
    )


def _quarantine(run: Run) -> Iterator[Figure]:
    """Rows that were refused, by reason; nothing where all were taken."""
    reasons = _quarantined(run.stage_folder("prepare") / "quarantine.csv")
    if reasons:
        rows = tuple((reason, count(n)) for reason, n in reasons.most_common(_MOST_REASONS))
        text = f"Rows of the data that were refused, {count(reasons.total())}; see quarantine.csv."
        yield Figure("quarantine", "Refused rows", text, None, Table(("reason", "rows"), rows))


def _contamination(comparison: Comparison) -> Iterator[Figure]:
    """Questions that an earlier split gives away, by kind; nothing where none does."""
    kinds: dict[tuple[str, str, str], set[str]] = {}
    for row in comparison.contamination.rows():
        key = (row.dataset, row.split, row.overlap.kind)
        kinds.setdefault(key, set()).add(row.overlap.a_id)
    if kinds:
        rows = tuple(
            (dataset, split, name.replace("_", " "), count(len(ids)))
            for (dataset, split, name), ids in kinds.items()
        )
        text = "Questions of a split that a question or answer of an earlier split gives away."
        table = Table(("data set", "split", "what is known before", "questions"), rows)
        yield Figure("contamination", "Contamination", text, None, table)


def _quarantined(path: Path) -> Counter[str]:
    if not path.is_file():
        return Counter()
    with path.open(encoding="utf-8", newline="") as file:
        return Counter(row["reason"] for row in csv.DictReader(file))
