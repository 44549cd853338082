"""Stage fuse with an embedding fuser, which writes from the states of stage embed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blender_med.errors import BlenderMedError, ConfigError
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.hidden_states import QUESTION_ENCODER, StateStore
from blender_med.fusers.state_batches import StateBatches
from blender_med.records import Answer, FusedAnswer, HiddenState
from blender_med.stages.base import Run
from blender_med.stages.fuse import stored_fusions
from blender_med.stages.fusing.lineup import Lineup
from blender_med.stages.fusing.states import _example
from blender_med.store.shards import read_parts

DECODER = {"vocabulary": 300, "width": 16, "layers": 1, "attention_heads": 2}
NEW = {"type": "generate", "decoder": DECODER, "tuning": "full"}
WRITER: dict[str, Any] = {
    "name": "writer",
    "embedding_fuser": {
        "width": 8,
        "gate": {"type": "topk_softmax", "k": 1},
        "head": NEW,
    },
    "training": {"epochs": 8, "batch_size": 4, "micro_batch_size": 4, "learning_rate": 0.02,
                 "target_maxlength": 12},
}  # fmt: skip
FUSE: dict[str, Any] = {
    "type": "fuse",
    "shard_size": 5,
    "fusers": [{"type": "embedding", "trained": "writer", "guard": "ranker", "batch_size": 2,
                "decoding": {"max_new_tokens": 5}}],
}  # fmt: skip


@pytest.fixture
def tree(recipe_tree: dict[str, Any], tiny_encoder: Path) -> dict[str, Any]:
    prepare, generate, score, evaluate, report = recipe_tree["stages"]
    recipe_tree["stages"] = [
        prepare | {"splits": {"train": 0.5, "dev": 0.2, "test": 0.3}},
        generate | {"mcq": {"protocols": ["lm_eval"]}},
        score,
        {"type": "embed", "texts": ["question"], "question_encoder": str(tiny_encoder)},
        {"type": "train-gate", "fusers": [WRITER]},
        {"type": "rank", "rankers": ["bm25"]},
        FUSE,
        {"type": evaluate, "faithfulness": {"model": str(tiny_encoder)}},
        report,
    ]
    return recipe_tree


def answers_of(run: Run, method: str) -> dict[str, Answer]:
    rows = read_parts(run.stage_folder("evaluate"), Answer)
    return {row.question_id: row for row in rows if row.method == method}


def test_it_writes_from_the_states_and_costs_what_the_chosen_expert_read(tree, go) -> None:
    run, _ = go(tree)
    fuser = EmbeddingFuser.from_pretrained(run.stage_folder("train-gate") / "writer")
    assert fuser.tokenizer.decode(fuser.tokenizer("Fever, 38 °C?").input_ids) == "Fever, 38 °C?"
    store = StateStore(run.stage_folder("embed"))
    batches, decoding = StateBatches(store, fuser.config), Decoding(max_new_tokens=5, seed=3)
    records = list(stored_fusions(run)["writer"])
    long = {q.id: q for q in run.questions if q.task == "long"}
    assert {r.question_id for r in records} == set(long)
    spent = {
        (row.question_id, row.expert): row
        for row in read_parts(run.stage_folder("embed"), HiddenState)
    }
    for record in records:
        example = _example(Lineup(long[record.question_id], None, ()))  # type: ignore[arg-type]
        inputs = batches.inputs([example])
        made = fuser.write(inputs["states"], inputs["questions"], decoding)
        [generation], [weights] = made.generations, made.weights.tolist()
        chosen = tuple(n for n, w in zip(fuser.config.experts, weights, strict=True) if w > 0)
        assert record.experts_used == chosen and len(chosen) == 1
        assert (record.outcome, record.text) == ("fused", generation.text)
        read = spent[record.question_id, chosen[0]]
        encoded = spent[record.question_id, QUESTION_ENCODER]
        assert record.prompt_tokens == read.tokens + encoded.tokens > 0
        assert record.completion_tokens == generation.completion_tokens
        assert record.seconds > read.seconds + encoded.seconds
    answers = answers_of(run, "writer")
    for record in records:
        answer = answers[record.question_id]
        # No candidate was read and no ranker asked, so none is paid for.
        assert answer.tokens == record.prompt_tokens + record.completion_tokens
        assert answer.comparisons == 0 and answer.experts_used == record.experts_used
        assert "rougeL" in answer.scores
        assert json.loads(answer.support or "[]")  # held against all candidates of the question
    guarded = answers_of(run, "writer-guarded")
    assert guarded.keys() == answers.keys()
    assert all(guarded[key].tokens > answers[key].tokens for key in guarded)


def test_it_resumes_and_a_bare_name_will_do(tree, go) -> None:
    tree["stages"][6] = FUSE | {"fusers": ["writer"]}
    run, _ = go(tree)
    before = [(r.question_id, r.text) for r in stored_fusions(run)["writer"]]
    parts = sorted(run.stage_folder("fuse").glob("part-*"))
    parts[1].unlink()
    again, actions = go(tree)
    assert actions["fuse"] == "resume"
    assert [(r.question_id, r.text) for r in stored_fusions(again)["writer"]] == before


def test_where_it_writes_nothing_the_top_candidate_stands_in(tree, go, monkeypatch) -> None:
    from blender_med.fusers import embedding
    from blender_med.fusers.base import Generation

    def silent(decoder: Any, tokenizer: Any, memory: Any, decoding: Any) -> list[Generation]:
        return [Generation("", 1, "stop")] * len(memory)

    monkeypatch.setattr(embedding, "decode", silent)
    run, _ = go(tree)
    candidates = answers_of(run, "bm25")
    for record in stored_fusions(run)["writer"]:
        assert record.outcome == "empty_generation" and record.candidate == record.top
        assert record.shown == (record.top,) and record.rankers == ("bm25",)
        assert record.text == candidates[record.question_id].text
    for key, answer in answers_of(run, "writer").items():
        assert answer.tokens > candidates[key].tokens  # the candidates, the ranker and the writer


def test_a_route_spares_experts(tree, go) -> None:
    run, _ = go(tree)
    folder = run.stage_folder("train-gate") / "writer"
    encoder = tree["stages"][3]["question_encoder"]
    tree["name"] = "routed"
    del tree["stages"][4]
    route = {"type": "route", "fuser": str(folder), "question_encoder": encoder}
    tree["stages"].insert(1, route)
    fuser = FUSE["fusers"][0] | {"trained": None, "model": str(folder), "name": "writer"}
    tree["stages"][6] = FUSE | {"fusers": [fuser]}
    routed, _ = go(tree)
    stored = {
        (row.question_id, row.expert)
        for row in read_parts(routed.stage_folder("embed"), HiddenState)
    }
    texts = {r.question_id: r.text for r in stored_fusions(run)["writer"]}
    records = list(read_parts(routed.stage_folder("fuse"), FusedAnswer))
    assert len(records) == 2 * len(texts) > 0
    assert all(len(record.experts_used) == 1 for record in records)  # the other one is spared
    for record in records:
        own = {expert for question, expert in stored if question == record.question_id}
        assert own == {*record.experts_used, QUESTION_ENCODER}
        if record.method == "writer":
            assert record.text == texts[record.question_id]


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        (3, {"texts": ["option"]}, "add 'question' to 'texts' of stage embed"),
        (3, {"splits": ["train", "dev"]}, "stage embed leaves out split test"),
        (6, {"fusers": [{"type": "embedding", "trained": "rwiter"}]}, "writer"),
        (4, {"fusers": [{"name": "writer", "embedding_fuser": {
            "head": NEW | {"decoder": {"width": 130}}}}]}, "width.*multiple of 'attention_heads'"),
        (6, {"fusers": [{"type": "embedding"}]}, "give either 'model' or 'trained'"),
        (6, {"fusers": [FUSE["fusers"][0] | {"decoding": {"temperature": 1}}]}, "beam search"),
        (4, {"fusers": [{"name": "writer", "embedding_fuser": {"head": NEW | {"tuning": "lora"}}}]},
         "set 'tuning' to full"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_runs(tree, go, stage, changes, said) -> None:
    tree["stages"][stage] = tree["stages"][stage] | changes
    with pytest.raises(BlenderMedError, match=said):
        go(tree)


def test_a_fuser_that_chooses_is_refused(tree, go, tmp_path) -> None:
    from blender_med.fusers.embedding_config import EmbeddingFuserSettings

    settings = EmbeddingFuserSettings(width=4)
    built = EmbeddingFuser.build(settings, {"good": 16, "poor": 16}, question_width=32)
    built.save_pretrained(tmp_path / "chooses")
    del tree["stages"][4]
    fuser = {"type": "embedding", "name": "chooses", "model": str(tmp_path / "chooses")}
    tree["stages"][5] = FUSE | {"fusers": [fuser]}
    with pytest.raises(ConfigError, match="this fuser chooses options") as caught:
        go(tree)
    assert "fuse.fusers.0" in str(caught.value)
