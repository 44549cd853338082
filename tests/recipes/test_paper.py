"""pipelines/paper.yaml: the whole graph on tiny random models of the same architectures."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from blender_med.config import load_yaml
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.fusers.genfuser import GenFuser
from blender_med.rankers.pairranker import PairRanker
from blender_med.recipes_folder import shipped_root
from blender_med.records import Candidate
from blender_med.stages.base import Run
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, dry_run, run_pipeline
from blender_med.store.shards import read_parts

RECIPE = shipped_root() / "pipelines" / "paper.yaml"
RANKERS = {"long": "pairranker-deberta-v3-large", "mcq": "pairranker-mcq"}
FUSER = "genfuser-flan-t5-xl"
FUSED = (FUSER, f"{FUSER}-guarded", "aggregate", "concatenation")
EXPERTS = ("biomistral-7b", "biogpt-large", "llama-2-7b-chat", "mistral-7b-instruct")
SIZES = {"pubmedqa": 12, "medqa": 40, "medmcqa": 12, "medquad": 40}
TOPICS = ("fever", "cough", "gout", "asthma", "flu", "scurvy", "croup", "mumps", "rickets", "lupus")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name small files of the four data sets in their original formats."""
    folder = tmp_path_factory.mktemp("data")
    writers = {"pubmedqa": _pubmedqa, "medqa": _medqa, "medmcqa": _medmcqa, "medquad": _medquad}
    for name, write in writers.items():
        (folder / name).mkdir()
        write(folder / name, SIZES[name])
    return [f"dataset.{name}.path={folder / name}" for name in writers]


def _topic(i: int) -> str:
    return f"{TOPICS[i % 10]} of kind {i}"


def _options(i: int) -> list[str]:
    return [f"{word} {i}" for word in ("rest", "water", "an inhaler", "surgery")]


def _pubmedqa(folder: Path, count: int) -> None:
    rows = {
        str(1000 + i): {
            "QUESTION": f"Does rest help against {_topic(i)}?",
            "CONTEXTS": [f"We gave rest to people with {_topic(i)}.", "We waited."],
            "LABELS": ["METHODS", "RESULTS"], "MESHES": [], "YEAR": "2001",
            "final_decision": ("yes", "no", "maybe")[i % 3], "LONG_ANSWER": "Rest may help.",
        }
        for i in range(count)
    }  # fmt: skip
    (folder / "ori_pqal.json").write_text(json.dumps(rows, indent=1))


def _medqa(folder: Path, count: int) -> None:
    for split, numbers in (("train", range(count - 10)), ("test", range(count - 10, count))):
        rows = []
        for i in numbers:
            options = dict(zip("ABCD", _options(i), strict=True))
            letter = "ABCD"[i % 4]
            rows.append({
                "question": f"A man has {_topic(i)}. What helps?", "answer": options[letter],
                "options": options, "meta_info": "step1", "answer_idx": letter,
            })  # fmt: skip
        _json_lines(folder / f"phrases_no_exclude_{split}.jsonl", rows)


def _medmcqa(folder: Path, count: int) -> None:
    rows = [
        {
            "id": f"m{i}", "question": f"What is given for {_topic(i)}?", "cop": i % 4 + 1,
            "choice_type": "single", "exp": "It is known.", "subject_name": "Medicine",
            **dict(zip(("opa", "opb", "opc", "opd"), _options(i), strict=True)),
        }
        for i in range(count)
    ]  # fmt: skip
    _json_lines(folder / "dev.json", rows)


def _medquad(folder: Path, count: int) -> None:
    with (folder / "medquad.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "focus", "document"])
        for i in range(count):
            answer = f"It is a disease that {('rest', 'water')[i % 2]} can cure."
            writer.writerow([f"What is {_topic(i)}?", answer, _topic(i), f"doc{i}"])


def _json_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _small(models: dict[str, Path], engine: str, output: Path) -> list[str]:
    """Overrides that put tiny models in the place of the real ones, and little work before them."""
    experts = [
        {**load_yaml(shipped_root() / "experts" / f"{name}.yaml"),
         "model": str(models[name]), "engine": engine}
        for name in EXPERTS
    ]  # fmt: skip
    overrides = [
        f"output_dir={output}",
        f"experts={json.dumps(experts)}",
        "generate.long.sampling.max_tokens=12",
        f"score.models.bertscore={{model: {models['roberta']}, num_layers: 1}}",
        f"score.models.bartscore={{model: {models['bart']}, max_length: 100}}",
        f"train-fuser.fusers.{FUSER}.fuser.backbone={models['t5']}",
        f"train-fuser.fusers.{FUSER}.training={{epochs: 1, batch_size: 8, precision: float32,"
        " report_to: [], decoding: {max_new_tokens: 8}}",
        "fuse.fusers.genfuser.decoding={max_new_tokens: 8}",
        "fuse.fusers.aggregate.decoding={max_new_tokens: 8}",
        f"evaluate.faithfulness.model={models['roberta']}",
        "report.resamples=100",
    ]
    for name in RANKERS.values():
        ranker = f"train-ranker.rankers.{name}"
        overrides += [
            f"{ranker}.ranker.backbone={models['deberta']}",
            f"{ranker}.training={{epochs: 1, batch_size: 8, precision: float32, report_to: []}}",
        ]
    # Everything but the first two stands below a stage.
    return [o if o.startswith(("output", "experts")) else f"stages.{o}" for o in overrides]


def _go(overrides: list[str]) -> tuple[Run, set[str]]:
    run = open_recipe(RECIPE, overrides)
    executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
    return run, {plan.action for plan in run_pipeline(run, executor, Selection())}


def _table(run: Run, name: str) -> list[dict[str, str]]:
    with (run.stage_folder("report") / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _check(run: Run) -> None:
    """Every expert answered every question, and every method stands in the tables."""
    assert Counter(q.dataset for q in run.questions) == SIZES
    candidates = list(read_parts(run.stage_folder("generate"), Candidate))
    assert Counter(c.expert for c in candidates) == dict.fromkeys(EXPERTS, sum(SIZES.values()))
    assert {c.finish_reason for c in candidates} <= {"stop", "length", "scored"}
    for name in RANKERS.values():
        trained = PairRanker.from_pretrained(run.stage_folder("train-ranker") / name)
        assert trained.config.backbone_config.model_type == "deberta-v2"
    fuser = GenFuser.from_pretrained(run.stage_folder("train-fuser") / FUSER)
    assert fuser.engine.model.config.model_type == "t5"
    methods: dict[str, set[str]] = {}
    for row in _table(run, "methods.csv"):
        if row["split"] == "test":
            methods.setdefault(row["dataset"], set()).add(row["method"])
    assert set(methods) == set(SIZES)
    common = {"best_single", "random", "oracle", *(f"expert:{name}" for name in EXPERTS)}
    for dataset, found in methods.items():
        task = "long" if dataset == "medquad" else "mcq"
        own = {"mbr", *FUSED} if task == "long" else {"majority_vote"}
        assert common | own | {RANKERS[task]} <= found


def test_the_graph_runs_on_tiny_models_of_the_same_architectures(
    data, paper_models, tmp_path
) -> None:
    overrides = [*data, *_small(paper_models, "transformers", tmp_path)]
    run, actions = _go(overrides)
    assert actions == {"run"}
    _check(run)
    assert _go(overrides)[1] == {"skip"}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_graph_runs_through_vllm(data, paper_models, tmp_path) -> None:
    run, _ = _go([*data, *_small(paper_models, "vllm", tmp_path)])
    _check(run)


def test_it_can_be_planned_where_the_hub_is_out_of_reach(data, tmp_path, monkeypatch) -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    def fail(*args: Any, **settings: Any) -> None:
        raise OfflineModeIsEnabled("offline")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", fail)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    run = open_recipe(RECIPE, [*data, f"output_dir={tmp_path}"])
    plans = {plan.name: plan for plan in dry_run(run, Selection())}
    assert {plan.action for plan in plans.values()} == {"run"}
    assert plans["prepare"].rows == sum(SIZES.values())
    assert plans["generate"].rows == sum(SIZES.values()) * len(EXPERTS)
    assert "BioMistral/BioMistral-7B" in plans["generate"].reason
