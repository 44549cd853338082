"""Log-likelihood scoring equals lm-evaluation-harness on real questions and a real model.

The harness runs its own task code (prompts, tokenisation, model) on the same questions.
Tolerances: float32 differs by the order of summation alone, measured below 1e-4, so 1e-3; in
bfloat16 one rounding of a logit near 20 is 0.06, and a padded batch rounds otherwise, so there
the engines are compared in float32 only and bfloat16 within 2e-2 where rows are computed alike.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import blender_med
from blender_med.experts import load_expert, load_expert_config
from blender_med.experts.packages import package_model_folder
from blender_med.records import Question

USER_CACHE = os.environ.get("BLENDER_MED_CACHE")
PER_SET = 100
SETS = ("medmcqa", "medqa", "pubmedqa")
PROMPTS = """
from lm_eval.tasks.medmcqa.utils_medmcqa import doc_to_text as medmcqa
from lm_eval.tasks.medqa.preprocess_medqa import doc_to_text as medqa
from lm_eval.tasks.pubmedqa.preprocess_pubmedqa import doc_to_text as pubmedqa
"""
CHOICES = {"medmcqa": "ABCD", "medqa": "ABCD", "pubmedqa": ["yes", "no", "maybe"]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="no lm-eval"),
]


def harness_row(question: Question) -> dict[str, Any]:
    """The question with the column names of the harness's own task."""
    options = question.options or ()
    if question.dataset == "medmcqa":
        columns = dict(zip(("opa", "opb", "opc", "opd"), options, strict=True))
        return {"question": question.question, **columns, "label": question.answer_index}
    if question.dataset == "medqa":
        endings = {f"ending{i}": option for i, option in enumerate(options)}
        return {"sent1": question.question, **endings, "label": question.answer_index}
    contexts = (question.context or "").split("\n")
    return {"QUESTION": question.question, "CONTEXTS": contexts, "label": question.answer_index}


def write_task(folder: Path, name: str, questions: Sequence[Question]) -> None:
    (folder / "prompts.py").write_text(PROMPTS)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(harness_row(q)) + "\n" for q in questions))
    (folder / f"{name}.yaml").write_text(
        f"task: parity_{name}\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\n"
        "output_type: multiple_choice\n"
        f"doc_to_text: !function prompts.{name}\n"
        "doc_to_target: label\n"
        f"doc_to_choice: {json.dumps(list(CHOICES[name]))}\n"
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )


def harness_scores(model: Path, tasks: Path, dtype: str) -> dict[str, list[list[float]]]:
    """Log-likelihood of each choice by lm-evaluation-harness, [n_questions][n_choices]."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(
        model=HFLM(pretrained=str(model), dtype=dtype, device="cpu", batch_size=8),
        tasks=[f"parity_{name}" for name in SETS],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = {name: result["samples"][f"parity_{name}"] for name in SETS}
    return {
        name: [
            [float(response[0][0]) for response in sample["resps"]]
            for sample in sorted(rows, key=lambda sample: sample["doc_id"])
        ]
        for name, rows in samples.items()
    }


def our_scores(
    questions: dict[str, list[Question]], **changes: Any
) -> dict[str, list[list[float]]]:
    config = load_expert_config("smollm2-135m").model_copy(update=changes)
    expert = load_expert(config, device="cpu")
    rows = {}
    for name, own in questions.items():
        rendered = [expert.render_choices(q) for q in own]
        scores = expert.choice_logprobs([p for p, _ in rendered], [c for _, c in rendered])
        rows[name] = [list(score.logprobs) for score in scores]
    expert.close()
    return rows


def accuracy(rows: list[list[float]], questions: list[Question]) -> float:
    pairs = zip(rows, questions, strict=True)
    return sum(row.index(max(row)) == q.answer_index for row, q in pairs) / len(rows)


def largest_difference(first: list[list[float]], second: list[list[float]]) -> float:
    rows = zip(first, second, strict=True)
    return max(abs(a - b) for one, two in rows for a, b in zip(one, two, strict=True))


@pytest.fixture(scope="module")
def questions(shared_data: Path) -> dict[str, list[Question]]:
    files = {name: shared_data / name for name in SETS} | {
        "medqa": shared_data / "medqa" / "4_options"
    }
    return {
        name: list(blender_med.load_questions(name, str(files[name]), limit=PER_SET))
        for name in SETS
    }


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    if USER_CACHE is None:
        monkeypatch.delenv("BLENDER_MED_CACHE")
    else:
        monkeypatch.setenv("BLENDER_MED_CACHE", USER_CACHE)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return package_model_folder(load_expert_config("smollm2-135m"))


@pytest.mark.parametrize(
    ("dtype", "engines", "tolerance"),
    [("float32", ("transformers", "vllm"), 1e-3), ("bfloat16", ("transformers",), 2e-2)],
)
def test_scores_and_accuracy_equal_the_harness(
    model: Path,
    questions: dict[str, list[Question]],
    tmp_path: Path,
    dtype: str,
    engines: tuple[str, ...],
    tolerance: float,
) -> None:
    for name, own in questions.items():
        assert len(own) == PER_SET
        write_task(tmp_path, name, own)
    expected = harness_scores(model, tmp_path, dtype)
    for engine in engines:
        ours = our_scores(questions, engine=engine, dtype=dtype)
        for name in SETS:
            difference = largest_difference(ours[name], expected[name])
            scores = [accuracy(rows[name], questions[name]) for rows in (ours, expected)]
            print(
                f"{dtype} {engine} {name}: accuracy {scores}, largest difference {difference:.1e}"
            )
            assert scores[0] == scores[1]
            assert difference <= tolerance
