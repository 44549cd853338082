"""Fixtures for the whole suite: a private cache, the real data where it is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# A busy machine is slow at times: that is no failure of the code.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch) -> None:
    """No test sees, or leaves, entries in the user's cache."""
    monkeypatch.setenv("BLENDER_MED_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets in their original formats; skipped where they are not at hand."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("the real data sets are not at hand")
    return folder


def question_rows(count: int) -> list[dict[str, Any]]:
    """Alternating long and multiple-choice questions, each about a topic of its own."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        base = {
            "id": f"q{i:03d}",
            "question": f"What is condition number {i}?",
            "group": f"t{i}",
            "subject": "heart" if i % 3 else "lung",
        }
        if i % 2:
            rows.append(base | {"options": ["red", "green", "blue", "black"], "answer": i % 4})
        else:
            rows.append(base | {"reference": f"Condition {i} is a disease of the {i}th kind."})
    return rows


@pytest.fixture
def recipe_tree(tmp_path: Path) -> dict[str, Any]:
    """A pipeline on 40 questions with two fake experts, ready to be changed and saved."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in question_rows(40)))
    return {
        "name": "demo",
        "seed": 3,
        "output_dir": str(tmp_path / "runs"),
        "dataset": {"type": "jsonl", "path": str(data), "columns": {"group": "group"}},
        "experts": [
            {"name": "good", "engine": "fake", "engine_options": {"accuracy": 0.8}},
            {"name": "poor", "engine": "fake", "engine_options": {"accuracy": 0.3}},
        ],
        "stages": [
            {"type": "prepare", "splits": {"dev": 0.4, "test": 0.6}},
            {
                "type": "generate",
                "shard_size": 8,
                "long": {"samples": 2, "sampling": {"temperature": 0.7}},
                "mcq": {"protocols": ["lm_eval", "generative"]},
            },
            "score",
            "evaluate",
            {"type": "report", "resamples": 200, "page": False},
        ],
    }


@pytest.fixture
def save_recipe(tmp_path: Path):
    """Writes a recipe tree to a file and returns its path."""

    def save(tree: dict[str, Any], name: str = "demo.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return save


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT that reads whole words of a small vocabulary."""
    from transformers import BertConfig, BertModel, BertTokenizer, set_seed

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = "good bad fever cough pain dose liver heart what causes is condition number of the ? ."
    tokenizer = BertTokenizer(vocab={t: i for i, t in enumerate([*marks, *words.split()])})
    config = BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=96, initializer_range=0.2,
    )  # fmt: skip
    set_seed(0)
    folder = tmp_path_factory.mktemp("tiny-encoder")
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_fuser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer T5 that reads one token a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
        set_seed,
    )

    marks = ["<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(5))]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate([*marks, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=marks[3:], **roles
    )
    config = T5Config(
        vocab_size=272, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    set_seed(0)
    folder = tmp_path_factory.mktemp("tiny-fuser")
    T5ForConditionalGeneration(config).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder
