"""Questions that a tiny model can learn to answer, and jobs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .fuser_toy import WORDS

FAST: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "micro_batch_size": 4,
    "learning_rate": 1e-2,
    "precision": "float32",
    "max_dev_questions": 6,
    "logging_steps": 1,
    "report_to": [],
}


def toy_rows(count: int) -> list[dict[str, Any]]:
    """The answer repeats the word of the question; the last fifth is dev."""
    return [
        {
            "id": f"q{i}",
            "question": f"which one {WORDS[i % len(WORDS)]} ?",
            "reference": f"{WORDS[i % len(WORDS)]} {WORDS[i * 7 % len(WORDS)]}",
            "split": "dev" if i >= count * 4 // 5 else "train",
            "subject": "even" if i % 2 == 0 else "odd",
        }
        for i in range(count)
    ]


def save_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def save_base(folder: Path, model: Path, name: str = "tiny", **values: Any) -> Path:
    """An expert recipe of a tiny model."""
    tree = {"name": name, "engine": "transformers", "model": str(model), "dtype": "float32"}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree | {"max_model_len": 256} | values))
    return file


def tuning_tree(base: Path, data: Path, **top: Any) -> dict[str, Any]:
    """A job of a few steps; ``training`` is added to the fast settings."""
    training = FAST | top.pop("training", {})
    tree = {
        "job": "finetune",
        "name": "tuned",
        "base": str(base),
        "data": {"sources": [{"type": "jsonl", "path": str(data)}]},
        "lora": {"r": 4, "dropout": 0.0},
        "max_length": 64,
        "answer_length": 12,
        "written_questions": 2,
    }
    return tree | top | {"training": training}
