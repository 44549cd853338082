"""Typed rows of the result tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blender_med.data.contamination import Overlap
from blender_med.fusers.support import SentenceSupport
from blender_med.metrics.choice import LabelScores
from blender_med.records import Protocol, Task


@dataclass(frozen=True, slots=True)
class Block:
    """What a row is about: results are only comparable within one block."""

    dataset: str
    split: str
    task: Task
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its bootstrap interval and the comparison with the best single expert.

    Attributes:
        value: The figure over all questions of the block.
        low: Lower end of the interval.
        high: Upper end of the interval.
        delta: Difference to ``best_single`` over the questions that both answered; None for
            ``best_single`` itself and where there is none.
        p: Two-sided paired p of delta = 0; None where it is not tested.
        p_holm: p adjusted within the family of the block and metric; None for upper bounds and
            for a method that gives exactly the answers of ``best_single``.
        delta_low: Lower end of the interval of ``delta``.
        delta_high: Upper end of it.
    """

    value: float
    low: float
    high: float
    delta: float | None = None
    p: float | None = None
    p_holm: float | None = None
    delta_low: float | None = None
    delta_high: float | None = None


@dataclass(frozen=True, slots=True)
class Certainty:
    """What a confidence is worth on a block.

    Attributes:
        n: Questions with a confidence and a known right answer; of a ranker, those whose
            candidates all have a label.
        risk: Share of them whose answer is wrong, of a ranker: is not the best.
        aurc: Mean risk of answering the surest share of them, over all shares; lower is better,
            and ``risk`` is what a confidence that says nothing has.
        ece: Expected calibration error; lower is better.
    """

    n: int
    risk: float
    aurc: float
    ece: float


@dataclass(frozen=True, slots=True)
class MethodRow:
    """Results of one method on one block.

    Attributes:
        n: Questions with an answer whose right answer is known.
        primary: Name in ``metrics`` of the figure that decides.
        metrics: mcq: accuracy, macro_precision, macro_recall, macro_f1, unparsed (share of
            answers without a choice); long: the scored metrics. ``<primary>_clean`` is the
            primary one over the questions that overlap no earlier split.
        labels: Precision, recall, F1 per label (mcq).
        experts_run: Mean number of experts that had to run for a question.
        tokens: Prompt and completion tokens over all answered questions.
        seconds: Model seconds over all answered questions.
        upper_bound: Whether the method looked at the reference answers.
        note: Remark for the reader, such as which expert was chosen on dev.
        clean_n: Questions of ``n`` that overlap no earlier split; None where there is no such
            split.
        certainty: What the confidence of its choices is worth; None without a confidence, and
            for long answers.
    """

    block: Block
    method: str
    n: int
    primary: str
    metrics: Mapping[str, Estimate]
    labels: Mapping[str, LabelScores]
    experts_run: float
    tokens: int
    seconds: float
    upper_bound: bool
    note: str
    clean_n: int | None = None
    certainty: Certainty | None = None


@dataclass(frozen=True, slots=True)
class SliceRow:
    """Primary metric of one method on the questions of a block that share a property."""

    block: Block
    slice: str
    value: str
    method: str
    n: int
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class CostRow:
    """What a method spent on a block.

    Attributes:
        tokens: Prompt and completion tokens of the experts, and what a ranker read.
        seconds: Model seconds of the experts and of a ranker.
        comparisons: Pairs of candidates that a ranker compared.
        saved_tokens: Tokens of the experts that a gate spared.
        saved_seconds: Seconds of these experts.
    """

    block: Block
    method: str
    experts: tuple[str, ...]
    questions: int
    tokens: int
    seconds: float
    comparisons: int
    saved_tokens: int = 0
    saved_seconds: float = 0.0

    @property
    def tokens_per_question(self) -> float:
        """Mean tokens per answered question."""
        return self.tokens / self.questions

    @property
    def seconds_per_question(self) -> float:
        """Mean model seconds per answered question."""
        return self.seconds / self.questions


@dataclass(frozen=True, slots=True)
class RankingRow:
    """How well a ranker orders the candidates of a block.

    Attributes:
        method: Name of the ranker.
        label: Metric that says which order is right.
        n: Questions with candidates of different labels.
        figures: Means over these questions, by name of the ranking metric.
        certainty: Of the primary metric; None for other labels and without a confidence.
    """

    block: Block
    method: str
    label: str
    n: int
    figures: Mapping[str, Estimate]
    certainty: Certainty | None = None


@dataclass(frozen=True, slots=True)
class ContaminationRow:
    """A question of a split that overlaps a question of an earlier one."""

    dataset: str
    split: str
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class Changes:
    """How the answers of a method compare with those of a rival, by the primary metric.

    Attributes:
        improved: Answers with a higher value than the rival's.
        stayed: Answers with the same value, to 1e-9; a copy of the rival's among them.
        worsened: Answers with a lower value.
    """

    improved: int
    stayed: int
    worsened: int


@dataclass(frozen=True, slots=True)
class FusionRow:
    """What a fuser, or its guard, did on a block.

    Attributes:
        n: Answers.
        metric: The primary metric.
        against_top: Against the ranker's top candidate.
        against_best_single: Against ``best_single``; None where the run does not have it.
        outcomes: Answers by outcome; see ``FusedAnswer.outcome``.
        truncated: Answers whose prompt left out a part of question or candidates.
        kept_fused: Share of answers whose fused text the guard kept; None without a guard.
        margin: Mean margin over the texts that the guard compared; None without any.
        checked: Answers whose sentences were checked.
        flagged: Share of them with a flag of each kind; ``any`` for at least one. Empty where
            nothing was checked.
        gains: By metric that has a direction: mean of the method, difference to the top
            candidate and its paired test, not corrected.
    """

    block: Block
    method: str
    n: int
    metric: str
    against_top: Changes
    against_best_single: Changes | None
    outcomes: Mapping[str, int]
    truncated: int
    kept_fused: float | None
    margin: float | None
    checked: int
    flagged: Mapping[str, float]
    gains: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """One cell of a method's confusion table; ``predicted`` is "" for unparsed answers."""

    block: Block
    method: str
    gold: str
    predicted: str
    count: int


@dataclass(frozen=True, slots=True)
class CandidateCell:
    """A candidate of one question; ``choice`` is its label, "" where none was parsed."""

    key: str
    text: str
    choice: str
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class AnswerCell:
    """A method's answer to one question.

    Attributes:
        candidate: Key of the candidate that it repeats, or "".
        choice: Label of the chosen option, or "".
        text: The text where it is no candidate's, else "" (it stands with the candidate).
        value: Primary metric; None where the right answer is not known.
        confidence: Probability in 0..1 that it is right, where the method has one.
        links: What each sentence of a fused text rests on, a line each.
        flags: What is flagged in it, a line each.
        sentences: The same, sentence by sentence; empty where the text was not checked.
    """

    method: str
    candidate: str
    choice: str
    text: str
    value: float | None
    confidence: float | None
    links: str = ""
    flags: str = ""
    sentences: tuple[SentenceSupport, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One question with all its candidates and every method's answer.

    ``reference`` is the reference text or explanation, ``gold`` the label of the right option; ""
    where there is none. ``options`` are the labelled options, one a line. ``slices`` are the
    question's properties by which results are sliced.
    """

    block: Block
    question_id: str
    question: str
    context: str
    options: str
    gold: str
    reference: str
    primary: str
    candidates: tuple[CandidateCell, ...]
    answers: tuple[AnswerCell, ...]
    slices: Mapping[str, str]
