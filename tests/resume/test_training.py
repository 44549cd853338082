"""A training that is killed at any moment and started again ends with the same weights."""

from __future__ import annotations

import csv
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "blender_med", "train"]
METRIC = "eval_rougeL"


def _candidates(path: Path) -> None:
    """Forty scored questions, a quarter of them dev by the file's own splits."""
    rng = random.Random(3)
    path.mkdir()
    for split, count in (("train", 30), ("val", 10)):
        with (path / f"{split}_data.jsonl").open("w") as file:
            for i in range(count):
                texts = [
                    " ".join(rng.choices(["good", "bad", "pain", "dose"], k=6)) for _ in range(3)
                ]
                candidates = [
                    {"model": f"m{k}", "text": text, "scores": {"goodness": text.count("good")}}
                    for k, text in enumerate(texts)
                ]
                row = {"id": f"{split}-{i}", "instruction": f"what causes condition number {i} ?"}
                file.write(
                    json.dumps(row | {"input": "", "output": "good", "candidates": candidates})
                    + "\n"
                )


@pytest.fixture
def recipe(tmp_path: Path, tiny_encoder: Path) -> Path:
    """A PairRanker with dropout, accumulation and checkpoints in the middle of epochs."""
    _candidates(tmp_path / "data")
    tree = {
        "name": "toy",
        "labels": ["goodness"],
        "data": {"candidates": str(tmp_path / "data")},
        "ranker": {
            "type": "pairranker",
            "backbone": str(tiny_encoder),
            "source_maxlength": 12,
            "candidate_maxlength": 12,
            "drop_out": 0.3,
        },
        "training": {
            "epochs": 4,
            "batch_size": 4,
            "micro_batch_size": 2,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "precision": "float32",
            "warmup_ratio": 0,
            "evaluate_every": 0.3,
            "patience": None,
            "logging_steps": 1,
            "report_to": [],
        },
    }
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(tree))
    return file


@pytest.fixture
def fuser_recipe(tmp_path: Path, tiny_fuser: Path) -> Path:
    """A T5 with dropout, shuffled and dropped candidates, accumulation."""
    _candidates(tmp_path / "data")
    tree = {
        "name": "toy",
        "candidates": {"metric": "goodness", "order": "shuffled", "dropout": 0.3},
        "data": {"candidates": str(tmp_path / "data")},
        "fuser": {
            "type": "genfuser",
            "backbone": str(tiny_fuser),
            "max_length": 256,
            "candidate_maxlength": 32,
            "target_maxlength": 8,
        },
        "training": {
            "epochs": 4,
            "batch_size": 4,
            "micro_batch_size": 2,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "precision": "float32",
            "warmup_ratio": 0,
            "evaluate_every": 0.3,
            "patience": None,
            "max_dev_questions": 2,
            "logging_steps": 1,
            "report_to": [],
            "decoding": {"num_beams": 1, "max_new_tokens": 4},
        },
    }
    file = tmp_path / "toy.yaml"
    file.write_text(json.dumps(tree))
    return file


def _checkpoints(folder: Path) -> int:
    steps = [int(p.name.rpartition("-")[2]) for p in folder.glob("checkpoints/checkpoint-*")]
    return max(steps, default=0)


def _start_and_kill(command: list[str], folder: Path, step: int) -> bool:
    """Start a training and kill it once a checkpoint of ``step`` is there; whether it was cut."""
    process = subprocess.Popen(command)
    while process.poll() is None and _checkpoints(folder) < step:
        time.sleep(0.002)
    # Some kills fall into the writing of the checkpoint, some behind it.
    time.sleep(random.Random(step).random() * 0.05)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["recipe", "fuser_recipe"])
def test_killed_training_equals_an_uninterrupted_one(kind, request, tmp_path, monkeypatch) -> None:
    recipe = request.getfixturevalue(kind)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [*COMMAND, str(recipe), "-q", "--set", f"output_dir={whole}"]
    subprocess.run(command, check=True)

    command[-1] = f"output_dir={killed}"
    cut = [_start_and_kill(command, killed / "toy", step) for step in (2, 19)]
    assert all(cut), "a kill came too late to test anything"
    subprocess.run(command, check=True)

    assert len(_log(whole / "toy")) > 30
    assert _log(killed / "toy") == _log(whole / "toy")
    weights = [(folder / "toy" / "model.safetensors").read_bytes() for folder in (whole, killed)]
    assert weights[0] == weights[1]
    names = [{path.name for path in (folder / "toy").iterdir()} for folder in (whole, killed)]
    assert names[0] == names[1]


# What `accelerate launch --use_fsdp` and `--use_deepspeed` set beside what torchrun sets.
FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true"}
LAUNCHERS = {
    "torchrun": {},
    "fsdp": FSDP,
    "zero2": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"},
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one_does(
    launcher, fuser_recipe, tiny_fuser, tmp_path, monkeypatch
) -> None:
    """The same steps over the same questions; the first process alone writes."""
    if launcher.startswith("zero"):
        pytest.importorskip("deepspeed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["train", str(fuser_recipe), "--set", "training.micro_batch_size=2",
                 "--set", "candidates.dropout=0", "--set", "candidates.order=ranked",
                 "--set", f"fuser.backbone={_without_dropout(tiny_fuser, tmp_path)}"]  # fmt: skip
    one = [sys.executable, "-m", "blender_med", *arguments]
    subprocess.run([*one, "--set", f"output_dir={tmp_path / 'one'}"], check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
              "--master-port", _free_port(), "-m", "blender_med", *arguments]  # fmt: skip
    two = [*launch, "--set", f"output_dir={tmp_path / 'two'}"]
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(two, check=True, capture_output=True, text=True)
    assert done.stdout.count("toy: trained") == 1
    logs = [_log(tmp_path / name / "toy") for name in ("one", "two")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    losses = [[float(row["loss"]) for row in log if row["loss"]] for log in logs]
    # The last, smaller step of an epoch is filled up for several processes.
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    values = [[float(row[METRIC]) for row in log if row[METRIC]] for log in logs]
    assert values[0] == pytest.approx(values[1])
    assert any(values[0]), "nothing was written that could be wrong"
    names = [{path.name for path in (tmp_path / n / "toy").iterdir()} for n in ("one", "two")]
    assert names[0] == names[1]
    again = subprocess.run(two, check=True, capture_output=True, text=True)
    assert again.stdout.count("toy: up to date") == 1


@pytest.mark.slow
def test_two_nodes_train_a_ranker_as_one_machine_does(
    recipe, tiny_encoder, tmp_path, monkeypatch
) -> None:
    """Two launchers, as on two machines, that meet on loopback."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    still = _without_dropout(tiny_encoder, tmp_path)
    arguments = ["train", str(recipe), "--set", "ranker.drop_out=0",
                 "--set", f"ranker.backbone={still}"]  # fmt: skip
    one = [sys.executable, "-m", "blender_med", *arguments]
    subprocess.run([*one, "--set", f"output_dir={tmp_path / 'one'}"], check=True)
    rendezvous = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", _free_port()]
    nodes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *rendezvous, "--node-rank", str(rank),
             "--nproc-per-node", "1", "-m", "blender_med", *arguments,
             "--set", f"output_dir={tmp_path / 'two'}"],
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert [text.count("toy: trained") for text in told] == [1, 0]
    logs = [_log(tmp_path / name / "toy") for name in ("one", "two")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    losses = [[float(row["loss"]) for row in log if row["loss"]] for log in logs]
    # The last, smaller step of an epoch is filled up for several processes.
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


def _free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def _without_dropout(model: Path, folder: Path) -> Path:
    """A copy of a T5 or BERT whose losses do not depend on what a process draws."""
    copy = shutil.copytree(model, folder / "still")
    config = json.loads((copy / "config.json").read_text())
    rates = ("dropout_rate", "hidden_dropout_prob", "attention_probs_dropout_prob")
    (copy / "config.json").write_text(json.dumps(config | dict.fromkeys(rates, 0.0)))
    return copy
