"""Stage fuse with models of its own: a tiny T5 and Llama, and a guard that compares pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from blender_med.data.fusion import fusion_source
from blender_med.errors import ConfigError
from blender_med.executors.local import LocalExecutor
from blender_med.executors.progress import ProgressDisplay
from blender_med.fusers.config import Decoding
from blender_med.fusers.genfuser import GenFuser
from blender_med.records import Candidate, FusedAnswer
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.pipeline import open_recipe
from blender_med.stages.runner import Selection, run_pipeline
from blender_med.store.shards import part_paths, read_parts

MODEL_KEYS = {"type": "genfuser", "top_k": 2, "decoding": {"max_new_tokens": 6}}


@pytest.fixture
def go(recipe_tree, save_recipe):
    """Runs prepare, generate, a ranker where one is given, and fuse."""

    def run(fusers: list[dict], *rankers: dict, only: str | None = None):
        rank = [{"type": "rank", "rankers": list(rankers)}] if rankers else []
        recipe_tree["dataset"]["limit"] = 12
        fuse = {"type": "fuse", "fusers": fusers, "shard_size": 4}
        recipe_tree["stages"] = [*recipe_tree["stages"][:2], *rank, fuse]
        opened = open_recipe(save_recipe(recipe_tree))
        executor = LocalExecutor(ProgressDisplay(Console(), quiet=True))
        run_pipeline(opened, executor, Selection(only=(only,) if only else None))
        return opened

    return run


def test_the_stage_writes_what_the_fuser_writes_and_resumes(go, tiny_t5, tiny_llama) -> None:
    models = {"t5": tiny_t5, "llama": tiny_llama}
    fusers = [MODEL_KEYS | {"name": n, "model": str(path)} for n, path in models.items()]
    run = go(fusers)
    texts = {
        (c.question_id, c.key): c.text for c in read_parts(run.stage_folder("generate"), Candidate)
    }
    sources = {q.id: fusion_source(q) for q in run.questions}
    for name, own in stored_fusions(run).items():
        records = list(own)
        assert len(records) == 6
        fusions = GenFuser.from_pretrained(models[name]).fusions(
            [sources[r.question_id][0] for r in records],
            [sources[r.question_id][1] for r in records],
            [[texts[r.question_id, key] for key in r.shown] for r in records],
            top_k=2,
            decoding=Decoding(max_new_tokens=6, seed=3),
        )
        for record, fusion in zip(records, fusions, strict=True):
            assert record.outcome == fusion.outcome
            assert record.text == fusion.text
            assert record.prompt_tokens == fusion.prompt_tokens
            assert record.completion_tokens == fusion.completion_tokens

    before = _records(run)
    part_paths(run.stage_folder("fuse"))[1].unlink()
    assert _records(go(fusers)) == before


def _records(run) -> list[FusedAnswer]:
    return [replace(r, seconds=0.0) for r in read_parts(run.stage_folder("fuse"), FusedAnswer)]


def test_a_pairwise_guard_compares_both_orders(go, tiny_encoder, tmp_path) -> None:
    from blender_med.data.pairs import source_text
    from blender_med.rankers.pairranker import PairRanker

    folder = tmp_path / "ranker"
    lengths = {"source_maxlength": 16, "candidate_maxlength": 38}
    PairRanker.from_backbone(str(tiny_encoder), **lengths).save_pretrained(folder)
    ranker = {"type": "pairranker", "model": str(folder), "strategy": "bubble"}
    run = go([{"type": "concatenation", "guard": "ranker"}], ranker)
    texts = {
        (c.question_id, c.key): c.text for c in read_parts(run.stage_folder("generate"), Candidate)
    }
    stored = stored_fusions(run)
    loaded, questions = PairRanker.from_pretrained(folder), {q.id: q for q in run.questions}
    for plain, guarded in zip(
        stored["concatenation"], stored["concatenation-guarded"], strict=True
    ):
        top = texts[plain.question_id, plain.top]
        source = source_text(questions[plain.question_id])
        logits = loaded.pairwise_logits(source, [top, plain.text])
        expected = (logits[1, 0] - logits[0, 1]) / 2
        assert guarded.margin == pytest.approx(float(expected), abs=1e-4)
        assert guarded.kept == ("fused" if guarded.margin > 0 else "candidate")
        assert guarded.guard_tokens > 0
    # Both orders, though the recipe's strategy would do with less; texts that are cut to the same
    # tokens are compared once.
    assert {guarded.comparisons for guarded in stored["concatenation-guarded"]} <= {1, 2}
    assert any(guarded.comparisons == 2 for guarded in stored["concatenation-guarded"])


def test_an_empty_generation_falls_back_to_the_top_candidate(go, tiny_t5, monkeypatch) -> None:
    from blender_med.fusers.base import Generation
    from blender_med.fusers.generation import TransformersEngine

    def silent(self, prompts, decoding, *, advance=None):
        return [Generation("", 1, "stop")] * len(prompts)

    monkeypatch.setattr(TransformersEngine, "generate", silent)
    fuser = MODEL_KEYS | {"model": str(tiny_t5), "guard": "ranker"}
    run = go([fuser], {"type": "bm25"})
    stored = stored_fusions(run)
    for plain, guarded in zip(stored["genfuser"], stored["genfuser-guarded"], strict=True):
        assert (plain.outcome, plain.candidate) == ("empty_generation", plain.top)
        assert (guarded.kept, guarded.margin) == ("candidate", 0.0)
        assert guarded.text == plain.text


def test_a_tokenizer_that_does_not_fit_names_the_fuser(go, tiny_t5, tmp_path) -> None:
    import shutil

    from transformers import AutoTokenizer

    folder = tmp_path / "mismatched"
    shutil.copytree(tiny_t5, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"word{i}" for i in range(40)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"fuse.fusers.0.tokenizer.*embeddings"):
        go([MODEL_KEYS | {"model": str(folder)}])
