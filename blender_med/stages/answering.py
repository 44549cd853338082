"""Questions to candidates: prompts, seeds, protocols, parsed choices."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from blender_med.data.text import storable
from blender_med.experts.base import ChoiceScores, Completion, Prompt
from blender_med.experts.cached import CachedExpert
from blender_med.prompts.parse import parse_choice
from blender_med.records import Candidate, Protocol, Question
from blender_med.stages.config import GenerateConfig


def answer_questions(
    expert: CachedExpert, questions: Sequence[Question], config: GenerateConfig, *, seed: int
) -> list[Candidate]:
    """All candidates of one expert for ``questions``, in the order of the questions.

    Sample numbers run over the protocols in recipe order: with ``[lm_eval, generative]``,
    sample 0 is the log-likelihood choice and sample 1 the first generated answer.
    """
    long = [q for q in questions if q.task == "long"]
    mcq = [q for q in questions if q.task == "mcq"]
    made = _generated(expert, long, config, seed=seed, first_sample=0)
    first = 0
    for protocol in config.mcq.protocols:
        if protocol == "lm_eval":
            made += _scored(expert, mcq, sample=first)
            first += 1
        else:
            made += _generated(expert, mcq, config, seed=seed, first_sample=first)
            first += config.mcq.samples
    position = {q.id: i for i, q in enumerate(questions)}
    return sorted(made, key=lambda c: (position[c.question_id], c.sample))


def request_seed(seed: int, question_id: str) -> int:
    """Seed of one request: depends on the run's seed and the question alone."""
    return int.from_bytes(sha256(f"{seed}|{question_id}".encode()).digest()[:4], "big") >> 1


def _generated(
    expert: CachedExpert,
    questions: Sequence[Question],
    config: GenerateConfig,
    *,
    seed: int,
    first_sample: int,
) -> list[Candidate]:
    if not questions:
        return []
    settings = config.long if questions[0].task == "long" else config.mcq
    sampling = expert.expert.config.sampling_with(settings.sampling)
    rendered = [(q, expert.expert.render(q, sampling.max_tokens)) for q in questions]
    asked = [(q, p) for q, p in rendered if p.fits]
    answered = expert.generate(
        [p for _, p in asked],
        sampling,
        n=settings.samples,
        seeds=[request_seed(seed, q.id) for q, _ in asked],
    )
    candidates = [_refused(expert, q, p, first_sample) for q, p in rendered if not p.fits]
    for (question, prompt), answer in zip(asked, answered, strict=True):
        share = answer.seconds / len(answer.completions)
        candidates += [
            _from_completion(expert, question, prompt, completion, first_sample + i, share)
            for i, completion in enumerate(answer.completions)
        ]
    return candidates


def _from_completion(
    expert: CachedExpert,
    question: Question,
    prompt: Prompt,
    completion: Completion,
    sample: int,
    seconds: float,
) -> Candidate:
    text = storable(completion.text)
    return Candidate(
        question_id=question.id,
        expert=expert.expert.config.name,
        sample=sample,
        text=text,
        choice_index=parse_choice(text, question.options) if question.options else None,
        logprob_sum=completion.logprob_sum,
        finish_reason=storable(completion.finish_reason),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        seconds=seconds,
        prompt_sha256=prompt.sha256,
        model_revision=expert.expert.revision,
        protocol="generative",
        truncated_tokens=prompt.truncated_tokens,
    )


def _refused(
    expert: CachedExpert,
    question: Question,
    prompt: Prompt,
    sample: int,
    protocol: Protocol = "generative",
) -> Candidate:
    return Candidate(
        question_id=question.id,
        expert=expert.expert.config.name,
        sample=sample,
        text="",
        finish_reason="prompt_too_long",
        prompt_tokens=prompt.tokens,
        prompt_sha256=prompt.sha256,
        model_revision=expert.expert.revision,
        protocol=protocol,
        truncated_tokens=prompt.truncated_tokens,
    )


def _scored(expert: CachedExpert, questions: Sequence[Question], *, sample: int) -> list[Candidate]:
    rendered = [(q, *expert.expert.render_choices(q)) for q in questions]
    asked = [(q, p, c) for q, p, c in rendered if p.fits]
    scored = expert.choice_logprobs([p for _, p, _ in asked], [c for _, _, c in asked])
    refused = [_refused(expert, q, p, sample, "lm_eval") for q, p, _ in rendered if not p.fits]
    return refused + [
        _from_scores(expert, q, p, s.scores, sample, s.seconds)
        for (q, p, _), s in zip(asked, scored, strict=True)
    ]


def _from_scores(
    expert: CachedExpert,
    question: Question,
    prompt: Prompt,
    scores: ChoiceScores,
    sample: int,
    seconds: float,
) -> Candidate:
    best = max(range(len(scores.logprobs)), key=lambda i: (scores.logprobs[i], -i))
    return Candidate(
        question_id=question.id,
        expert=expert.expert.config.name,
        sample=sample,
        text=(question.options or ())[best],
        choice_index=best,
        option_logprobs=scores.logprobs,
        logprob_sum=scores.logprobs[best],
        finish_reason="scored",
        prompt_tokens=scores.prompt_tokens,
        seconds=seconds,
        prompt_sha256=prompt.sha256,
        model_revision=expert.expert.revision,
        protocol="lm_eval",
        truncated_tokens=prompt.truncated_tokens,
    )
