"""Fixtures for the whole suite: a private cache, the real data, a server that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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


class Server(ThreadingHTTPServer):
    """Answers each request by the next of ``script``, and normally when that is empty.

    A step is a status with content and headers, None (a normal answer), or ``close``, ``hang``,
    ``half`` (of an answer) or ``stop`` (the server ends).
    """

    block_on_close = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.script: list[Any] = []
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.tokens: set[str] = set()
        self.lock = threading.Lock()
        self.echoes = True


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.times.append(time.monotonic())
            self.server.tokens.add(self.headers.get("authorization", ""))
            step = self.server.script.pop(0) if self.server.script else None
        if step in ("close", "hang", "half", "stop"):
            self.close_connection = True
            return self.stop_short(step, json.dumps(self.reply(body)).encode())
        status, content, headers = step or (200, json.dumps(self.reply(body)), {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        data = content.encode()
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stop_short(self, how: str, data: bytes) -> None:
        if how == "hang":
            time.sleep(4)
        elif how == "stop":
            self.server.shutdown()
            self.server.server_close()
        elif how == "half":
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.path.endswith("/chat/completions"):
            text = f"{body['messages'][-1]['content']} seed {body['seed']}"
            time.sleep(0.01 * (body["seed"] % 3))
            choice: dict[str, Any] = {"message": {"content": text}, "finish_reason": "length"}
            if body.get("logprobs") is True:
                choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}] * 3}
            return {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 16}}
        if not body.get("echo"):
            plain: dict[str, Any] = {"text": f"plain {body['prompt']}", "finish_reason": "stop"}
            if body.get("logprobs") == 1:
                plain["logprobs"] = {"token_logprobs": [-0.25, -0.5]}
            return {"choices": [plain]}
        return {"choices": [self.scored(i, text) for i, text in enumerate(body["prompt"])]}

    def scored(self, index: int, text: str) -> dict[str, Any]:
        """One token a character; a character's log-probability is minus its code / 100."""
        logprobs = [None, *(-ord(c) / 100 for c in text[1:])] if self.server.echoes else []
        return {"index": index, "logprobs": {"token_logprobs": [*logprobs, -9.0]}}

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
