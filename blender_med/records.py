"""The records that every stage reads and writes.

Records are frozen dataclasses in Python and rows of Parquet files on disk. Any number of
candidates per question is legal, also a different number for different questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

SCHEMA_VERSION = 1

Task = Literal["mcq", "long"]
Protocol = Literal["lm_eval", "generative"]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a data set.

    Attributes:
        id: Stable over loads: data set, source file, row.
        dataset: Short name of the data set, such as ``medquad``.
        split: ``train``, ``dev`` or ``test``.
        task: ``mcq`` (pick one of ``options``) or ``long`` (answer in prose).
        question: The question as shown to a model.
        context: Text the question is about (an abstract), or None.
        options: Answer options in order; None for ``long``.
        answer_index: 0-based index of the right option; None for ``long`` or when unknown.
        reference: Reference answer in prose; None where there is none.
        meta: Strings about the row: subject, question_type, source, group (the document or
            focus that splits keep together), pmid, ...
    """

    id: str
    dataset: str
    split: str
    task: Task
    question: str
    context: str | None = None
    options: tuple[str, ...] | None = None
    answer_index: int | None = None
    reference: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text without a question (an abstract, the body of an article), for pretraining.

    ``license`` is the licence the source states, in its own words, or None.
    """

    id: str
    dataset: str
    split: str
    title: str
    text: str
    license: str | None = None
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of one expert to one question; (question_id, expert, sample) is its key.

    Attributes:
        choice_index: 0-based option the candidate chose; None for prose and where the parser
            found no choice.
        option_logprobs: Summed log-likelihood in nats of each option (protocol ``lm_eval``).
        logprob_sum: Summed log-probability in nats of the generated tokens (or of the chosen
            option); None unless ``sampling.logprobs`` asks for it.
        finish_reason: ``stop``, ``length``, ``scored`` (log-likelihood only) or
            ``prompt_too_long`` (not even question and options fit; the text is empty).
        seconds: Share of the wall time of its batch; the one column that differs between runs.
        protocol: ``lm_eval`` or ``generative``; accuracies of different protocols never mix.
        truncated_tokens: Tokens of context cut so that the prompt fits; 0 where nothing was.
    """

    question_id: str
    expert: str
    sample: int
    text: str
    choice_index: int | None = None
    option_logprobs: tuple[float, ...] | None = None
    logprob_sum: float | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    prompt_sha256: str = ""
    model_revision: str = ""
    protocol: Protocol = "generative"
    truncated_tokens: int = 0

    @property
    def key(self) -> str:
        """Name of the candidate within its question: ``expert#sample``."""
        return f"{self.expert}#{self.sample}"


@dataclass(frozen=True, slots=True)
class Score:
    """Value of one metric for one candidate; higher is better for every quality metric."""

    question_id: str
    expert: str
    sample: int
    metric: str
    value: float

    @property
    def key(self) -> str:
        """Name of the scored candidate within its question: ``expert#sample``."""
        return f"{self.expert}#{self.sample}"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Order of the candidates of one question by one method.

    Attributes:
        candidates: Candidate keys, [n].
        scores: Higher is better, [n].
        ranks: 1 is best; ties share the lower number, as 1, 2, 2, 4; [n].
        pairwise_logits: [n, n]; entry (i, j) > 0 means i beats j. None where not computed.
        comparisons: Forward passes of a pair of candidates.
        tokens: Tokens that the ranker read for this order.
        seconds: Share of the wall time of its batch; the one column that differs between runs.
        protocol: Protocol of the candidates.
    """

    question_id: str
    method: str
    candidates: tuple[str, ...]
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    pairwise_logits: tuple[tuple[float, ...], ...] | None = None
    comparisons: int = 0
    tokens: int = 0
    seconds: float = 0.0
    protocol: Protocol = "generative"


@dataclass(frozen=True, slots=True)
class FusedAnswer:
    """Answer of one fuser to one question; also of its guard, as a method of its own.

    Attributes:
        method: Name of the fuser, or ``NAME-guarded``.
        outcome: ``fused``: a text that the fuser wrote. ``empty_generation``: it wrote nothing.
            ``no_candidate_text``: every candidate is blank, and it was not asked. The last two
            fall back to the top candidate that is not blank, or else to the top one.
        candidate: Key of the candidate that ``text`` repeats; None where the fuser wrote it.
        shown: Keys of the candidates that the answer was made of, the best first; empty for a
            text that an embedding fuser wrote.
        top: Key of the candidate that it is held against: the first by the ranker of the fuser, or
            of the guard.
        rankers: Rankers whose rankings went into it: the one that ordered the candidates, and
            that of the guard where it is another. Empty without a stage rank, and for a text
            that an embedding fuser wrote.
        kept: What a guard kept, ``fused`` or ``candidate``; None without a guard.
        margin: By how much the fused text beats the top candidate in the guard's ranker; 0 for
            equal texts. None without a guard.
        prompt_tokens: Over all prompts of the fuser.
        completion_tokens: Tokens that the fuser wrote.
        truncated_tokens: Tokens of question and candidates that did not fit into a prompt.
        guard_tokens: Tokens that the guard's ranker read.
        comparisons: Pairs of texts that the guard's ranker compared.
        finish_reason: ``stop`` or ``length``; empty where no model wrote.
        seconds: Of fuser and guard; the one column that differs between runs.
        experts_used: Experts that the fuser asked, or whose states it read, itself.
        protocol: Protocol of the candidates.
    """

    question_id: str
    method: str
    text: str
    outcome: str
    candidate: str | None
    shown: tuple[str, ...]
    top: str
    rankers: tuple[str, ...] = ()
    kept: str | None = None
    margin: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    truncated_tokens: int = 0
    guard_tokens: int = 0
    comparisons: int = 0
    finish_reason: str = ""
    seconds: float = 0.0
    experts_used: tuple[str, ...] = ()
    protocol: Protocol = "generative"


@dataclass(frozen=True, slots=True)
class Route:
    """Experts that a gate chooses for one question.

    Attributes:
        experts: Names, the highest weight first.
        weights: Of these experts, above 0.
        seconds: Share of the wall time of its batch; the one column that differs between runs.
    """

    question_id: str
    experts: tuple[str, ...]
    weights: tuple[float, ...]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FusedChoice:
    """Option that one embedding fuser chooses for one question.

    Attributes:
        method: Name of the method.
        fuser: Fuser that it is the choice of; another name where the method is the best fuser of
            several.
        choice_index: Option with the highest probability; of equals the first.
        probabilities: Of the options; they sum to 1.
        experts: Names of the experts that the fuser reads.
        weights: What the gate gave each of them, [experts]; they sum to 1.
        experts_read: Experts that had to read the question: those with a weight, or all where the
            gate reads their states.
        seed_choices: What each of the averaged seeds chooses, in their order; of a single fuser
            its own choice. Empty for the mean of several fusers.
        tokens: Of the texts that these experts read.
        seconds: Of these experts and of the encoder of the questions; this and the next are the
            columns that differ between runs.
        routing_seconds: Of the encoder alone; 0 where the gate reads the experts instead.
        saved_tokens: Of the texts of the other experts, which need not be read.
        saved_seconds: Of these experts; differs between runs.
    """

    question_id: str
    method: str
    fuser: str
    choice_index: int
    probabilities: tuple[float, ...]
    experts: tuple[str, ...]
    weights: tuple[float, ...]
    experts_read: tuple[str, ...]
    seed_choices: tuple[int, ...]
    tokens: int = 0
    seconds: float = 0.0
    routing_seconds: float = 0.0
    saved_tokens: int = 0
    saved_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Final answer of one method to one question.

    Attributes:
        confidence: Probability in 0..1 that the answer is right (of a long one that a ranker
            chose: that no candidate is better), where the method has one.
        experts_used: Names of the experts that had to run for this answer.
        tokens: Tokens spent on it: prompts and completions of all experts used, and what a
            ranker read.
        seconds: Model seconds spent on it, over all models used.
        candidate: Key of the candidate it repeats; None where the text is new.
        protocol: Protocol of the candidates it came from.
        comparisons: Pairs of candidates that a ranker compared for it.
        scores: Values of the scored metrics where the text is new; empty where it repeats a
            candidate, whose scores stand with it.
        support: What a fused text rests on, as ``fusers.support`` writes it; None where the text
            repeats a candidate or was not checked.
        saved_tokens: Tokens of the experts that a gate spared this question; where they did not
            run, what they take on average.
        saved_seconds: Seconds of these experts.
    """

    question_id: str
    method: str
    text: str
    choice_index: int | None = None
    confidence: float | None = None
    experts_used: tuple[str, ...] = ()
    tokens: int = 0
    seconds: float = 0.0
    candidate: str | None = None
    protocol: Protocol = "generative"
    comparisons: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    support: str | None = None
    saved_tokens: int = 0
    saved_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class HiddenState:
    """Where the hidden states of one text lie; (question_id, expert, text) is its key.

    Attributes:
        expert: Name of the expert, or ``question-encoder``.
        text: ``question``, ``option:I`` (the question with option I) or ``answer:KEY`` (with the
            candidate of that key).
        row: Row of the array in the ``.npy`` file beside the shard.
        tokens: Length of the text in the expert's tokens, as far as it was read.
        truncated_tokens: Tokens of the context that were cut so that the text fits.
        seconds: Share of the wall time of its batch; the one column that differs between runs.
    """

    question_id: str
    expert: str
    text: str
    row: int
    tokens: int = 0
    truncated_tokens: int = 0
    seconds: float = 0.0


Record = (
    Question | Passage | Candidate | Score | Ranking | FusedAnswer | Route | FusedChoice | Answer
    | HiddenState
)  # fmt: skip
R = TypeVar(
    "R", Question, Passage, Candidate, Score, Ranking, FusedAnswer, Route, FusedChoice, Answer,
    HiddenState,
)  # fmt: skip
