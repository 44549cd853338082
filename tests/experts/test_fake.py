from __future__ import annotations

import time
from typing import Any

import pytest

from blender_med.errors import ConfigError, ExpertError
from blender_med.experts import ExpertConfig, Sampling, load_expert
from blender_med.prompts import parse_choice
from blender_med.records import Question

GREEDY = Sampling()
WARM = Sampling(temperature=1.0)


def fake(**options: Any) -> Any:
    values = {"name": "fake", "engine": "fake", "engine_options": options}
    return load_expert(ExpertConfig.model_validate(values))


def mcq(number: int) -> Question:
    options = ("red", "green", "blue", "black")
    return Question(f"m{number}", "d", "test", "mcq", f"Which {number}?", None, options, number % 4)


def long(number: int) -> Question:
    reference = f"Disease {number} is a rare condition."
    return Question(
        f"l{number}", "d", "test", "long", f"What is disease {number}?", reference=reference
    )


def answers(
    expert: Any, questions: list[Question], sampling: Sampling, n: int = 1
) -> list[list[str]]:
    prompts = [expert.render(q, 64) for q in questions]
    rows = expert.generate(prompts, sampling, n=n, seeds=range(len(prompts)))
    return [[c.text for c in row] for row in rows]


def test_equal_inputs_give_equal_answers_in_any_batch() -> None:
    questions = [long(i) for i in range(10)]
    whole = answers(fake(), questions, WARM, n=2)
    assert whole == answers(fake(), questions, WARM, n=2)
    assert whole[0] == answers(fake(), questions[:1], WARM, n=2)[0]
    assert whole[0][0] != whole[0][1]


def test_greedy_ignores_seed_and_sample() -> None:
    (first, second), *_ = answers(fake(), [long(1)], GREEDY, n=2)
    assert first == second


def test_text_is_made_of_the_questions_own_words() -> None:
    (text,), *_ = answers(fake(), [long(7)], WARM)
    assert "disease" in text.lower()


def test_accuracy_is_kept_and_unknown_without_it() -> None:
    questions = [mcq(i) for i in range(400)]

    def accuracy(expert: Any) -> float:
        texts = answers(expert, questions, WARM)
        right = [
            parse_choice(t, q.options or ()) == q.answer_index
            for (t,), q in zip(texts, questions, strict=True)
        ]
        return sum(right) / len(right)

    assert accuracy(fake(accuracy=0.7)) == pytest.approx(0.7, abs=0.07)
    assert accuracy(fake(accuracy=1.0)) == 1.0
    assert accuracy(fake()) == pytest.approx(0.25, abs=0.07)


def test_choice_logprobs_are_log_probabilities_with_the_accuracy() -> None:
    expert = fake(accuracy=1.0)
    rendered = [expert.render_choices(mcq(i)) for i in range(20)]
    scores = expert.choice_logprobs([p for p, _ in rendered], [c for _, c in rendered])
    assert [s.logprobs.index(max(s.logprobs)) for s in scores] == [i % 4 for i in range(20)]
    assert all(x < 0 for s in scores for x in s.logprobs)


def test_more_accuracy_repeats_more_of_the_reference() -> None:
    (text,), *_ = answers(fake(accuracy=1.0), [long(3)], WARM)
    reference = {"disease", "3", "is", "a", "rare", "condition"}
    assert set(text.lower().replace(".", "").split()) <= reference


def test_max_tokens_cuts_the_text() -> None:
    expert = fake()
    prompt = expert.render(long(1), 3)
    ((completion,),) = expert.generate([prompt], Sampling(max_tokens=3), n=1, seeds=[0])
    assert (completion.finish_reason, completion.completion_tokens) == ("length", 3)


def test_told_to_fail() -> None:
    expert = fake(fail_after=2)
    with pytest.raises(ExpertError, match="failed after 2 requests"):
        answers(expert, [long(i) for i in range(3)], WARM)


def test_unknown_option_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"engine_options\.acuracy.*did you mean 'accuracy'"):
        fake(acuracy=1.0)


def test_revision_follows_what_decides_the_answers() -> None:
    assert fake(accuracy=0.5).revision == fake(accuracy=0.5, seconds_per_request=1).revision
    assert fake(accuracy=0.5).revision != fake(accuracy=0.6).revision


def test_twenty_thousand_questions_take_seconds() -> None:
    started = time.process_time()
    answers(fake(accuracy=0.5), [mcq(i) for i in range(4000)], GREEDY)
    assert time.process_time() - started < 4
