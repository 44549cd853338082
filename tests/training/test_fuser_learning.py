"""Training a fuser works: from random weights to a stated score on questions it has not seen."""

from __future__ import annotations

import pytest

from blender_med.fusers.genfuser import GenFuser
from blender_med.training.fuser_config import load_fuser_job
from blender_med.training.fuser_job import train_fuser

from .fuser_toy import exact_matches, save_t5, toy_fusion, toy_fusions

TEST = [toy_fusion(number) for number in range(100_000, 100_200)]


def _score(folder) -> float:
    fuser = GenFuser.from_pretrained(folder, max_length=128)
    texts = fuser.fuse(
        [e.instruction for e in TEST],
        [e.input for e in TEST],
        [e.candidates for e in TEST],
        num_beams=1,
        max_new_tokens=16,
    )
    return exact_matches(texts, TEST)


@pytest.mark.slow
def test_a_tiny_t5_learns_to_write_the_answer_that_is_sure(tmp_path) -> None:
    """Exact matches on 200 unseen questions: none untrained, at least 90 % trained.

    A guess among the three candidates would be right in a third of the cases.
    """
    backbone = save_t5(tmp_path / "t5", size=64, dropout_rate=0.0)
    assert _score(backbone) == 0.0
    job = load_fuser_job(
        {
            "name": "toy",
            "candidates": {"metric": "value", "order": "shuffled"},
            "fuser": {
                "backbone": str(backbone),
                "max_length": 128,
                "candidate_maxlength": 16,
                "target_maxlength": 16,
            },
            "training": {
                "epochs": 30,
                "batch_size": 64,
                "micro_batch_size": 64,
                "optimizer": "adamw",
                "learning_rate": 3e-3,
                "precision": "float32",
                "evaluate_every": 3,
                "patience": 3,
                "max_dev_questions": 100,
                "report_to": [],
                "decoding": {"num_beams": 1, "max_new_tokens": 16},
            },
        }
    )
    train_fuser(job, toy_fusions(3000, 100), tmp_path / "toy")
    assert _score(tmp_path / "toy") >= 0.9
