"""The job that tunes an expert: rows, training, what it writes, how it resumes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from blender_med.experts.loading import load_expert_config
from blender_med.experts.local import load_tokenizer
from blender_med.experts.made import NotMadeError
from blender_med.experts.rendering import Renderer
from blender_med.experts.revision import model_revision
from blender_med.records import Question
from blender_med.store.manifest import read_manifest
from blender_med.training.expert_config import FinetuneJob, TuningSettings, load_expert_job
from blender_med.training.expert_figures import LOGPROB, answer_figures
from blender_med.training.expert_jobs import expert_task
from blender_med.training.finetune_batches import Row, TuningBatches, packs, tuning_rows
from blender_med.training.finetune_job import METRIC, asking_expert
from blender_med.training.finetune_model import load_base
from blender_med.training.finetune_trainer import answer_logprobs
from blender_med.training.fuser_batches import IGNORED
from blender_med.training.job import bring_up_to_date

from .tuning_toy import save_base, save_rows, toy_rows, tuning_tree

MakeTree = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return save_base(tmp_path_factory.mktemp("experts"), tiny_llama)


@pytest.fixture
def make_tree(base: Path, tmp_path: Path) -> MakeTree:
    data = save_rows(tmp_path / "questions.jsonl", toy_rows(40))
    return lambda **top: tuning_tree(base, data, **top)


def _task(tree: dict[str, Any]) -> Any:
    return expert_task(load_expert_job(tree))


def _run(tree: dict[str, Any], folder: Path, **settings: Any) -> bool:
    return bring_up_to_date(_task(tree), folder, **settings)


def _log(folder: Path) -> list[dict[str, str]]:
    with (folder / "training.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _rows(tree: dict[str, Any], questions: list[Question]) -> tuple[list[Row], Any]:
    from blender_med.data.tuning import TuningExample

    job = load_expert_job(tree)
    assert isinstance(job, FinetuneJob)
    expert = load_expert_config(job.base)
    tokenizer = load_tokenizer(expert)
    renderer = Renderer(asking_expert(job, expert), tokenizer)
    return tuning_rows(renderer, job, [TuningExample(q) for q in questions]), tokenizer


LONG = Question("l", "d", "train", "long", "which one fever ?", reference="fever </s> cough")
MCQ = Question("m", "d", "train", "mcq", "which one ?", None, ("pain", "dose"), 1)


def test_a_row_is_the_prompt_of_inference_and_the_answer_alone_is_learned(make_tree) -> None:
    (row,), tokenizer = _rows(make_tree(answer_length=30), [LONG])
    assert tokenizer.decode(row.prompt) == (
        "<|im_start|>user\nwhich one fever ?<|im_end|>\n<|im_start|>assistant\n"
    )
    # The mark in the reference is text, not the end of a text.
    assert tokenizer.decode(row.answer) == "fever < /s> cough<|im_end|>"
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert row.answer.count(end) == 1
    assert tokenizer.eos_token_id not in row.answer
    assert row.labels == [IGNORED] * len(row.prompt) + row.answer


def test_the_alpaca_template_and_the_forms_of_a_choice(make_tree) -> None:
    plain = make_tree(expert={"chat": False, "template": "alpaca"}, max_length=256)
    (long, choice), tokenizer = _rows(plain, [LONG, MCQ])
    assert tokenizer.decode(long.prompt).endswith("### Response:\n")
    assert tokenizer.decode(long.answer)[:5] == "fever"
    assert tokenizer.decode(choice.answer) == "B. dose</s>"
    (letter,), tokenizer = _rows(make_tree(protocol="lm_eval"), [MCQ])
    assert tokenizer.decode(letter.prompt) == "which one ?\nA. pain\nB. dose\nAnswer:"
    assert tokenizer.decode(letter.answer) == " B<|im_end|>"


def test_long_answers_are_cut_and_questions_that_do_not_fit_left_out(make_tree) -> None:
    long = Question("x", "d", "train", "long", "which ?", reference="dose " * 40)
    huge = Question("y", "d", "train", "long", "which " * 90, reference="dose")
    rows, tokenizer = _rows(make_tree(), [long, huge])
    assert [len(row.answer) for row in rows] == [12]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in rows[0].answer
    with pytest.raises(Exception, match="no question fits into a row"):
        _rows(make_tree(), [huge])


def test_packs_hold_every_row_once_and_no_more_than_their_length() -> None:
    rows = [Row([1] * n, [2]) for n in (1, 9, 4, 4, 20, 2)]
    made = packs(rows, 10)
    assert sorted(row.length for pack in made for row in pack) == sorted(r.length for r in rows)
    assert [sum(row.length for row in pack) for pack in made] == [21, 10, 10, 5]


def test_packed_rows_are_computed_as_if_each_stood_alone(make_tree, base) -> None:
    questions = [
        Question(f"q{i}", "d", "train", "long", f"which {'one ' * i}?", reference="dose " * (i + 1))
        for i in range(5)
    ]
    rows, _ = _rows(make_tree(), questions)
    model = load_base(load_expert_config(base), "float32")

    def loss(batches: TuningBatches) -> float:
        inputs = batches.batch(rows)
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = model(**inputs, use_cache=False).logits[:, :-1]
        flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        return float(torch.nn.functional.cross_entropy(*flat, reduction="sum"))

    padded, packed = TuningBatches(0, None), TuningBatches(0, 64)
    assert packed.batch(rows)["input_ids"].shape[0] < len(rows)
    # Float32 sums in another order: 1e-4 of a sum of some hundred nats.
    assert loss(packed) == pytest.approx(loss(padded), abs=1e-3)
    alone = answer_logprobs(model, rows, padded, "float32")
    assert sum(alone) == pytest.approx(-loss(padded), abs=1e-3)


def test_a_job_writes_an_expert_that_has_learned(make_tree, base, tmp_path) -> None:
    folder, steps = tmp_path / "tuned", []
    tree = make_tree()
    assert _run(tree, folder, advance=steps.append)
    assert sum(steps) == 8  # 32 questions in steps of 8, twice
    names = {path.name for path in folder.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not {"checkpoints", "adapter_config.json"} & names
    measured = [float(row[METRIC]) for row in _log(folder) if row[METRIC]]

    made = load_expert_config(str(base)).model_copy(update={"model": str(folder)})
    job = load_expert_job(tree)
    assert isinstance(job, FinetuneJob)
    task = _task(tree)
    rows = tuning_rows(task._renderer(), job, task._dev)
    figure = answer_figures(made, rows, [], 12)[LOGPROB]
    # What was measured in training is what the saved weights give in the engine: float32.
    assert figure == pytest.approx(max(measured), abs=1e-4)
    before = answer_figures(load_expert_config(str(base)), rows, [], 12)[LOGPROB]
    assert figure > before + 0.5
    card = (folder / "README.md").read_text()
    assert f"| {LOGPROB} | {before:.4f} | {figure:.4f} |" in card
    assert "| split | questions | answer words |" in card
    assert "| train | 32 | 64 |" in card
    assert "| metric | base | tuned |" in card
    assert "rougeL" in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])["training"]["epochs"] == 2

    state = read_manifest(folder)
    assert state is not None
    assert state.stage == "expert"
    assert not _run(make_tree(packing=True, training={"micro_batch_size": 8}), folder)
    assert _run(make_tree(answer_length=10), folder)


def test_an_interrupted_job_ends_with_the_weights_of_an_undisturbed_one(
    make_tree, tmp_path
) -> None:
    tree = make_tree(
        lora={"r": 4, "dropout": 0.1},
        written_questions=0,
        training={"max_steps": 4, "evaluate_every": 0.25, "patience": None},
    )
    _run(tree, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _run(tree, tmp_path / "cut", advance=_Interrupt(3))
    steps: list[int] = []
    assert _run(tree, tmp_path / "cut", advance=steps.append)
    assert [step for step in steps if step] == [2, 1, 1]
    first, second = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert first.read_bytes() == second.read_bytes()
    assert _log(tmp_path / "whole") == _log(tmp_path / "cut")


class _Interrupt:
    """Ctrl-C during a step."""

    def __init__(self, stop: int) -> None:
        self._left = stop

    def __call__(self, steps: int) -> None:
        self._left -= steps
        if self._left <= 0:
            raise KeyboardInterrupt


def test_an_adapter_is_served_on_its_base(make_tree, base, tmp_path) -> None:
    tree = make_tree(save="adapter", output_dir=str(tmp_path), training={"max_steps": 2})
    recipe = tmp_path / "tuned.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    made = load_expert_config(recipe)
    assert made.lora == str(tmp_path / "tuned")
    assert made.model == load_expert_config(base).model
    with pytest.raises(NotMadeError, match=r"'tuned' is not made yet.*blender-med train .*tuned"):
        model_revision(made)
    _run(tree, tmp_path / "tuned")
    assert not (tmp_path / "tuned" / "model.safetensors").exists()
    assert "+lora:" in model_revision(made)
    task = _task(tree)
    rows = tuning_rows(task._renderer(), load_expert_job(tree), task._dev)
    measured = [float(row[METRIC]) for row in _log(tmp_path / "tuned") if row[METRIC]]
    assert answer_figures(made, rows, [], 12)[LOGPROB] == pytest.approx(max(measured), abs=1e-4)


def test_all_weights_are_tuned_without_adapters(make_tree, tiny_llama, tmp_path) -> None:
    from safetensors.torch import load_file

    _run(make_tree(lora=None, training={"max_steps": 2, "learning_rate": 1e-3}), tmp_path / "t")
    before = load_file(tiny_llama / "model.safetensors")
    after = load_file(tmp_path / "t" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_steps_and_measurements() -> None:
    whole = TuningSettings(epochs=2, batch_size=10, micro_batch_size=5, evaluate_every=0.5)
    assert (whole.total_steps(100), whole.evaluation_steps(100)) == (20, 5)
    cut = TuningSettings(
        epochs=2, batch_size=10, micro_batch_size=5, evaluate_every=0.5, max_steps=7
    )
    assert (cut.total_steps(100), cut.evaluation_steps(100)) == (7, 4)
    assert cut.total_steps(20) == 4  # the epochs end first
    rare = TuningSettings(epochs=1, batch_size=10, micro_batch_size=5, evaluate_every=5)
    assert rare.evaluation_steps(100) == 10  # at the last step at the latest
