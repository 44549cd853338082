"""Columns of the tables: how each typed row becomes cells, section by section."""

from __future__ import annotations

from collections.abc import Mapping

from blender_med.stages.comparison import (
    AnswerCell,
    AnswerRow,
    CandidateCell,
    Changes,
    ConfusionRow,
    ContaminationRow,
    CostRow,
    DifferenceRow,
    Estimate,
    FusionRow,
    GatingRow,
    HeadroomRow,
    MethodRow,
    RankingRow,
    RivalRow,
    SliceRow,
)
from blender_med.stages.comparison.rows import Block, Certainty

Cell = str | int | float | None
Cells = dict[str, Cell]
Sections = tuple[Mapping[str, Cell], ...]
BLOCK_COLUMNS = ("dataset", "split", "task", "protocol")


def method_cells(row: MethodRow) -> Sections:
    """``methods.csv``: block, method, n, figures of every metric, labels, cost, note."""
    metrics: Cells = {}
    for name, estimate in row.metrics.items():
        metrics |= _estimate_cells(name, estimate)
    labels: Cells = {}
    for label, scores in row.labels.items():
        labels |= {
            f"precision_{label}": scores.precision,
            f"recall_{label}": scores.recall,
            f"f1_{label}": scores.f1,
        }
    head = _block_cells(row.block) | {"method": row.method, "n": row.n, "clean_n": row.clean_n}
    cost: Cells = {"experts_run": row.experts_run, "tokens": row.tokens, "seconds": row.seconds}
    return head, metrics, _certainty_cells(row.certainty), labels, cost | {"note": row.note}


def slice_cells(row: SliceRow) -> Sections:
    """``slices.csv``: block, slice, value, method, n, metric, estimate with delta."""
    where: Cells = {"slice": row.slice, "slice_value": row.value, "method": row.method, "n": row.n}
    estimate = row.estimate
    figures: Cells = {
        "metric": row.metric,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "delta": estimate.delta,
    }
    return (_block_cells(row.block) | where | figures,)


def cost_cells(row: CostRow) -> Sections:
    """``cost.csv``: block, method, experts, questions, tokens, seconds, both per question.

    ``comparisons`` is empty for methods that compare no pairs, what is saved for methods without
    a gate.
    """
    cells: Cells = {
        "method": row.method,
        "experts": "; ".join(row.experts),
        "questions": row.questions,
        "tokens": row.tokens,
        "seconds": row.seconds,
        "comparisons": row.comparisons or None,
        "tokens_per_question": row.tokens_per_question,
        "seconds_per_question": row.seconds_per_question,
        "saved_tokens": row.saved_tokens or None,
        "saved_seconds": row.saved_seconds or None,
    }
    return (_block_cells(row.block) | cells,)


def ranking_cells(row: RankingRow) -> Sections:
    """``ranking.csv``: block, method, label, n, ranking metrics with intervals, certainty."""
    figures: Cells = {}
    for name, estimate in row.figures.items():
        figures |= _estimate_cells(name, estimate)
    head: Cells = {"method": row.method, "label": row.label, "n": row.n}
    return _block_cells(row.block) | head, figures, _certainty_cells(row.certainty)


def _certainty_cells(certainty: Certainty | None) -> Cells:
    if certainty is None:
        return {}
    return {
        "confidence_n": certainty.n,
        "risk": certainty.risk,
        "aurc": certainty.aurc,
        "ece": certainty.ece,
    }


def fusion_cells(row: FusionRow) -> Sections:
    """``fusion.csv``: block, method, n, changes against rivals, outcomes, guard, flags, gains."""
    head: Cells = {"method": row.method, "n": row.n, "metric": row.metric}
    changes = _change_cells(row.against_top, "top")
    if row.against_best_single is not None:
        changes |= _change_cells(row.against_best_single, "best_single")
    guard: Cells = {
        "truncated": row.truncated,
        "kept_fused": row.kept_fused,
        "margin": row.margin,
        "checked": row.checked,
    }
    flagged: Cells = {f"flagged_{kind}": share for kind, share in row.flagged.items()}
    gains: Cells = {}
    for metric, estimate in row.gains.items():
        gains |= {
            f"{metric}_delta_top": estimate.delta,
            f"{metric}_delta_top_low": estimate.delta_low,
            f"{metric}_delta_top_high": estimate.delta_high,
            f"{metric}_p_top": estimate.p,
        }
    return _block_cells(row.block) | head, changes, dict(row.outcomes), guard, flagged, gains


def _change_cells(changes: Changes, rival: str) -> Cells:
    return {
        f"improved_{rival}": changes.improved,
        f"stayed_{rival}": changes.stayed,
        f"worsened_{rival}": changes.worsened,
    }


def gating_cells(row: GatingRow) -> Sections:
    """``gating.csv``: block, method, fuser, n, accuracy of mean and seeds, use of the experts."""
    head: Cells = {
        "method": row.method,
        "fuser": row.fuser,
        "n": row.n,
        "accuracy": row.accuracy,
        "seeds": len(row.seeds),
        "seed_mean": row.seed_mean,
        "seed_deviation": row.seed_deviation,
    }
    seeds: Cells = {f"seed_{i}": value for i, value in enumerate(row.seeds)}
    weights: Cells = {f"weight_{name}": value for name, value in row.weights.items()}
    shares: Cells = {f"share_{name}": value for name, value in row.shares.items()}
    return _block_cells(row.block) | head, seeds, weights, shares


def rival_cells(row: RivalRow) -> Sections:
    """``rivals.csv``: block, rival, method, n, both accuracies, wins, losses, tests."""
    head: Cells = {
        "rival": row.rival,
        "method": row.method,
        "n": row.n,
        "rival_accuracy": row.rival_value,
        "wins": row.wins,
        "losses": row.losses,
    }
    return _block_cells(row.block) | head, _estimate_cells("accuracy", row.estimate)


def headroom_cells(row: HeadroomRow) -> Sections:
    """``headroom.csv``: block, method, n, both ends, the parts with intervals, shares."""
    head: Cells = {"method": row.method, "metric": row.metric, "n": row.n}
    ends: Cells = {"best_single": row.best_single, "oracle": row.oracle}
    parts: Cells = {}
    for name, part in row.parts.items():
        parts |= {name: part.value, f"{name}_low": part.low, f"{name}_high": part.high}
    shares: Cells = {
        "corrupted": row.corrupted,
        "repaired": row.repaired,
        "unanimous_error": row.unanimous_error,
    }
    return _block_cells(row.block) | head, ends, parts, shares


def difference_cells(row: DifferenceRow) -> Sections:
    """``differences.csv``: block, method, metric, both means, difference with test, costs."""
    estimate = row.second
    figures: Cells = {
        "method": row.method,
        "metric": row.metric,
        "n": row.n,
        "first": row.first,
        "second": estimate.value,
        "delta": estimate.delta,
        "delta_low": estimate.delta_low,
        "delta_high": estimate.delta_high,
        "p": estimate.p,
        "p_holm": estimate.p_holm,
    }
    costs: Cells = {
        "first_tokens": row.first_tokens,
        "second_tokens": row.second_tokens,
        "first_seconds": row.first_seconds,
        "second_seconds": row.second_seconds,
    }
    return (_block_cells(row.block) | figures | costs,)


def confusion_cells(row: ConfusionRow) -> Sections:
    """``confusion.csv``: block, method, gold, predicted ("unparsed" without a choice), count."""
    predicted = row.predicted or "unparsed"
    cells: Cells = {
        "method": row.method,
        "gold": row.gold,
        "predicted": predicted,
        "count": row.count,
    }
    return (_block_cells(row.block) | cells,)


def contamination_cells(row: ContaminationRow) -> Sections:
    """``contamination.csv``: data set, split, question, its closest earlier one, how close."""
    found = row.overlap
    cells: Cells = {
        "dataset": row.dataset,
        "split": row.split,
        "question_id": found.a_id,
        "earlier_id": found.b_id,
        "kind": found.kind,
        "containment": found.containment,
        "matches": found.matches,
    }
    return (cells,)


def answer_cells(row: AnswerRow) -> Sections:
    """``answers.csv``: the question, then its candidates, then each method's answer.

    Columns of a candidate start with its key (``smollm2-135m#0.text``), those of a method with
    its name (``mbr.candidate``).
    """
    head = _block_cells(row.block) | {
        "question_id": row.question_id,
        "question": row.question,
        "context": row.context,
        "options": row.options,
        "gold": row.gold,
        "reference": row.reference,
    }
    candidates: Cells = {}
    for candidate in row.candidates:
        candidates |= _candidate_cells(candidate)
    answers: Cells = {}
    for answer in row.answers:
        answers |= _answer_cells(answer, row.primary)
    return head, candidates, answers


def _block_cells(block: Block) -> Cells:
    return {name: getattr(block, name) for name in BLOCK_COLUMNS}


def _estimate_cells(name: str, estimate: Estimate) -> Cells:
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
        f"{name}_delta": estimate.delta,
        f"{name}_delta_low": estimate.delta_low,
        f"{name}_delta_high": estimate.delta_high,
        f"{name}_p": estimate.p,
        f"{name}_p_holm": estimate.p_holm,
    }


def _candidate_cells(candidate: CandidateCell) -> Cells:
    cells: Cells = {"text": candidate.text, "choice": candidate.choice, **candidate.scores}
    return {f"{candidate.key}.{name}": cell for name, cell in cells.items()}


def _answer_cells(answer: AnswerCell, primary: str) -> Cells:
    cells: Cells = {
        "candidate": answer.candidate,
        "choice": answer.choice,
        "text": answer.text,
        primary: answer.value,
        "confidence": answer.confidence,
        "links": answer.links,
        "flags": answer.flags,
    }
    return {f"{answer.method}.{name}": cell for name, cell in cells.items()}
