"""A fuser's training job: what it writes, how it resumes, and what it refuses."""

from __future__ import annotations

import csv
import resource
from pathlib import Path
from statistics import fmean

import pytest
import torch
import yaml
from safetensors.torch import load_file

from blender_med.errors import ConfigError, DataError, StoreError
from blender_med.fusers.genfuser import GenFuser
from blender_med.metrics.overlap import rouge_l
from blender_med.store.manifest import read_manifest
from blender_med.training import fuser_trainer
from blender_med.training.fuser_job import train_fuser

from .fuser_toy import save_t5, toy_fusions

FAMILIES = ("t5", "llama")
METRIC = "eval_rougeL"


@pytest.fixture(scope="module")
def examples():
    return toy_fusions(16, 6)


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_job_writes_a_fuser_that_loads_and_its_figures(
    make_fuser_job, examples, tmp_path, family
) -> None:
    folder, steps = tmp_path / "toy", []
    job = make_fuser_job(family)
    assert train_fuser(job, examples, folder, advance=steps.append)
    assert sum(steps) == 4  # 16 questions in steps of 8, twice
    names = {path.name for path in folder.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not {"checkpoints", "adapter_config.json", "adapter_model.safetensors"} & names
    assert [int(row["step"]) for row in _rows(folder) if row["loss"]] == [1, 2, 3, 4]
    measured = [float(row[METRIC]) for row in _rows(folder) if row[METRIC]]

    fuser = GenFuser.from_pretrained(folder)
    assert (fuser.formatter.max_length, fuser.formatter.candidate_maxlength) == (128, 16)
    dev = examples.dev[:4]
    prompts = [fuser.formatter.encode(e.instruction, e.input, e.candidates[:3]) for e in dev]
    texts = [g.text for g in fuser.engine.generate(prompts, job.training.decoding)]
    # The measurement is that of the very weights that were saved.
    figure = fmean(rouge_l(texts, [e.target for e in dev]))
    assert figure == pytest.approx(max(measured))
    card = (folder / "README.md").read_text()
    best = fmean(rouge_l([e.candidates[0] for e in dev], [e.target for e in dev]))
    assert f"| rougeL | {figure:.4f} | {best:.4f} |" in card
    assert "| metric | fuser | best candidate |" in card
    assert "| train | 16 | 48 |" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])["training"]["epochs"] == 2


def test_a_finished_job_is_skipped_until_something_changes(
    make_fuser_job, examples, tmp_path
) -> None:
    train_fuser(make_fuser_job("t5", epochs=1), examples, tmp_path)
    before = read_manifest(tmp_path)
    assert before.stage == "fuser"
    assert before.identity["precision"] == "float32"
    same = make_fuser_job("t5", epochs=1, micro_batch_size=8, gradient_checkpointing=True)
    assert not train_fuser(same, examples, tmp_path)
    assert read_manifest(tmp_path) == before
    other = {"candidates": {"metric": "value", "top_k": 2}}
    assert train_fuser(make_fuser_job("t5", other, epochs=1), examples, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_interrupted_job_ends_with_the_weights_of_an_undisturbed_one(
    make_fuser_job, examples, tmp_path, family
) -> None:
    # Checkpoints after each of 4 steps of two forward passes; T5 and the adapters have dropout.
    job = make_fuser_job(family, evaluate_every=0.5, warmup_ratio=0, patience=None)
    train_fuser(job, examples, tmp_path / "whole")
    for stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            train_fuser(job, examples, tmp_path / "cut", advance=_Interrupt(stop))
    steps: list[int] = []
    assert train_fuser(job, examples, tmp_path / "cut", advance=steps.append)
    assert [step for step in steps if step] == [2, 1, 1]
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")


@pytest.mark.parametrize("limit", [20_000, 300_000])  # weights, optimiser
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_cannot_be_written_is_told_and_training_goes_on(
    make_fuser_job, examples, tmp_path, family, limit
) -> None:
    job = make_fuser_job(family, {"lora": None}, epochs=1, evaluate_every=0.5, warmup_ratio=0)
    train_fuser(job, examples, tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    assert 20_000 < largest < 300_000
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StoreError, match="cannot be written"):
            train_fuser(job, examples, tmp_path / "cut")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert train_fuser(job, examples, tmp_path / "cut")
    assert _weights(tmp_path / "cut") == _weights(tmp_path / "whole")


class _Interrupt:
    """Ctrl-C during a step."""

    def __init__(self, stop: int) -> None:
        self._left = stop

    def __call__(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise KeyboardInterrupt


def test_adapters_change_what_they_are_put_on_and_nothing_else(
    make_fuser_job, examples, tmp_path, tiny_llama
) -> None:
    lora = {"r": 4, "dropout": 0.0, "target_modules": ["q_proj"]}
    job = make_fuser_job("llama", {"lora": lora}, epochs=1, evaluate_every=1)
    train_fuser(job, examples, tmp_path)
    trained = GenFuser.from_pretrained(tmp_path).engine.model.state_dict()
    before = GenFuser.from_pretrained(tiny_llama, max_length=128).engine.model.state_dict()
    assert trained.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], trained[name])}
    assert changed == {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)}


def test_all_weights_are_trained_without_adapters(
    make_fuser_job, examples, tmp_path, tiny_llama
) -> None:
    job = make_fuser_job("llama", {"lora": None}, epochs=1, evaluate_every=1)
    train_fuser(job, examples, tmp_path)
    trained = GenFuser.from_pretrained(tmp_path).engine.model.state_dict()
    before = GenFuser.from_pretrained(tiny_llama, max_length=128).engine.model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], trained[name])]
    assert len(changed) == len(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_is_the_mean_over_the_tokens_of_its_answers(
    make_fuser_job, examples, tmp_path, family
) -> None:
    """Without dropout the cut into forward passes decides nothing."""
    folders = {"t5": save_t5(tmp_path / "t5", dropout_rate=0.0)}
    fuser = {"backbone": str(folders[family])} if family in folders else None
    losses = []
    for size in (8, 2):
        job = make_fuser_job(family, {"lora": None}, fuser, micro_batch_size=size, epochs=1)
        train_fuser(job, examples, tmp_path / str(size))
        rows = _rows(tmp_path / str(size))
        losses.append([float(row["loss"]) for row in rows if row["loss"]])
    # A mean over forward passes in place of tokens would differ in the third digit.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_give_the_same_weights(
    make_fuser_job, examples, tmp_path, family
) -> None:
    for name, saving in (("plain", False), ("saving", True)):
        job = make_fuser_job(family, epochs=1, gradient_checkpointing=saving)
        train_fuser(job, examples, tmp_path / name)
    losses = [[row["loss"] for row in _rows(tmp_path / name)] for name in ("plain", "saving")]
    assert losses[0] == losses[1]


def test_bfloat16_trains_float32_weights_or_float32_adapters(
    make_fuser_job, examples, tmp_path
) -> None:
    for family, dtype in (("t5", torch.float32), ("llama", torch.bfloat16)):
        folder = tmp_path / family
        train_fuser(make_fuser_job(family, epochs=1, precision="bfloat16"), examples, folder)
        assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {dtype}
        assert read_manifest(folder).identity["precision"] == "bfloat16"


def test_the_kept_weights_are_those_of_the_best_measurement_and_patience_ends(
    make_fuser_job, examples, tmp_path, monkeypatch
) -> None:
    values = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(fuser_trainer, "text_values", lambda *given: [next(values)])
    job = make_fuser_job("t5", epochs=5, evaluate_every=1, patience=2)
    train_fuser(job, examples, tmp_path)
    measured = [float(row[METRIC]) for row in _rows(tmp_path) if row[METRIC]]
    assert measured == [0.5, 0.7, 0.6, 0.7]
    assert "(step 4)" in (tmp_path / "README.md").read_text()


def test_tensorboard_files_are_written(make_fuser_job, examples, tmp_path) -> None:
    job = make_fuser_job("t5", report_to=["tensorboard"], epochs=1)
    train_fuser(job, examples, tmp_path)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("family", "top", "fuser", "message"),
    [
        ("t5", {}, {"max_length": 24}, r"'max_length'.*candidates need more than"),
        ("llama", {}, {"max_length": 250}, r"'fuser\.max_length'.*256 positions"),
        ("llama", {"lora": {"target_modules": ["query"]}}, {}, r"'lora\.target_modules'"),
        ("llama", {"lora": {"target_modules": ["lm_head"]}}, {}, r"'lora\.target_modules'"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    make_fuser_job, examples, tmp_path, family, top, fuser, message
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_fuser(make_fuser_job(family, top, fuser), examples, tmp_path)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_training_needs_cuda(
    make_fuser_job, examples, tmp_path, monkeypatch, bits
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"'quantization'.*needs CUDA"):
        train_fuser(make_fuser_job("llama", {"quantization": bits}), examples, tmp_path)


def test_a_tokenizer_that_does_not_fit_is_refused(make_fuser_job, examples, tmp_path) -> None:
    small = save_t5(tmp_path / "small", vocab_size=100)
    job = make_fuser_job("t5", fuser={"backbone": str(small)})
    with pytest.raises(ConfigError, match=r"'tokenizer'.*only 100 embeddings"):
        train_fuser(job, examples, tmp_path / "toy")


def test_a_loss_that_explodes_says_what_to_change(make_fuser_job, examples, tmp_path) -> None:
    job = make_fuser_job("t5", learning_rate=1e30, max_grad_norm=1e30)
    with pytest.raises(DataError, match=r"not finite.*learning_rate"):
        train_fuser(job, examples, tmp_path)


def test_processes_that_cannot_share_a_step_are_refused(
    make_fuser_job, examples, tmp_path, monkeypatch
) -> None:
    training = make_fuser_job("t5", batch_size=8, micro_batch_size=4).training
    assert training.accumulation_steps(2) == 1
    with pytest.raises(ConfigError, match=r"'training\.batch_size'.*3 processes with 4"):
        training.accumulation_steps(3)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_learn_on_quantised_weights(make_fuser_job, examples, tmp_path, bits) -> None:
    """The loss falls, and the adapters end up in weights of full width."""
    pytest.importorskip("bitsandbytes")
    lora = {"r": 8, "dropout": 0.0, "target_modules": "all-linear"}
    job = make_fuser_job("llama", {"lora": lora, "quantization": bits}, epochs=8)
    assert train_fuser(job, examples, tmp_path)
    losses = [float(row["loss"]) for row in _rows(tmp_path) if row["loss"]]
    assert losses[-1] < losses[0]
    trained = load_file(tmp_path / "model.safetensors")
    assert {str(weights.dtype) for weights in trained.values()} <= {
        "torch.float32",
        "torch.bfloat16",
    }
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    assert GenFuser.from_pretrained(tmp_path).fuse(["Which?"], [""], [["sure : a b"]])
