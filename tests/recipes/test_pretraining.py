"""The shipped recipes of fusers that write, on fake experts and a tiny decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import StateStore
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline

ROOT = Path(__file__).resolve().parents[2]
EXPERTS = ["{name: a, engine: fake}", "{name: b, engine: fake, engine_options: {hidden_size: 6}}"]
TRAINING = (
    "{epochs: 1, batch_size: 8, micro_batch_size: 8, target_maxlength: 8, logging_steps: 1,"
    " evaluate_every: 0.5}"
)


def run(recipe: str | Path, fuser: str, tmp_path: Path, *overrides: str) -> Run:
    key = f"stages.train-gate.fusers.{fuser}"
    own = [
        f"experts=[{', '.join(EXPERTS)}]",
        f"output_dir={tmp_path / 'runs'}",
        f"{key}.training={TRAINING}",
        f"{key}.embedding_fuser.width=8",
        *overrides,
    ]
    opened = open_recipe(Path(recipe), own)
    run_pipeline(opened, LocalExecutor(ProgressDisplay(Console(), quiet=True)), Selection())
    return opened


@pytest.fixture
def abstracts(tmp_path: Path) -> Path:
    """Twenty abstracts of sixty words."""
    words = [f"word{i}" for i in range(60)]
    articles = {str(i): {"title": "t", "abstract": f"{i} " + " ".join(words)} for i in range(20)}
    file = tmp_path / "test.json"
    file.write_text(json.dumps(articles))
    return file


def test_fusion_layers_are_pretrained_on_passages(
    abstracts, tiny_encoder, tiny_fuser, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(ROOT)
    cut = "{prefix_words: 20, target_words: 10}"
    finished = run(
        "pipelines/pretrain-pmc.yaml",
        "pretrain-pmc",
        tmp_path,
        f"dataset=[{{type: pubmed_abstracts, path: {abstracts}, continuation: {cut}}}]",
        f"stages.embed.question_encoder={tiny_encoder}",
        f"stages.train-gate.fusers.pretrain-pmc.embedding_fuser.head.decoder={tiny_fuser}",
    )
    assert len(finished.questions) == 40
    folder = finished.stage_folder("train-gate") / "pretrain-pmc"
    assert "<svg" in (folder / "training.svg").read_text()
    header, *rows = (folder / "training.csv").read_text().splitlines()
    assert "eval_log_likelihood" in header and "eval_weight_a,eval_weight_b" in header
    assert len(rows) >= 4
    fuser = EmbeddingFuser.from_pretrained(folder)
    assert (fuser.config.mode, fuser.config.experts) == ("weighted_sum", ["a", "b"])


def test_long_answers_are_learned(
    recipe_tree: dict[str, Any], save_recipe, tiny_encoder, tiny_fuser, tmp_path
) -> None:
    head = {"head": {"decoder": str(tiny_fuser)}}
    recipe_tree["stages"] = [
        {"type": "prepare", "splits": {"train": 0.6, "dev": 0.2, "test": 0.2}},
        {
            "type": "embed",
            "texts": ["question"],
            "states": {"pooling": "slots", "slots": 4},
            "question_encoder": str(tiny_encoder),
        },
        {
            "type": "train-gate",
            "fusers": [{"recipe": "embedding-long", "embedding_fuser": head}],
        },
    ]
    finished = run(save_recipe(recipe_tree), "embedding-long", tmp_path)
    folder = finished.stage_folder("train-gate") / "embedding-long"
    assert StateStore(finished.stage_folder("embed")).slots("a") == 4
    assert EmbeddingFuser.from_pretrained(folder).config.slots == 4
    long = [q for q in finished.questions if q.task == "long" and q.split == "train"]
    assert f"| train | {len(long)} |" in (folder / "README.md").read_text()
