"""GenFuser of both families on tiny random models, and on an engine of the caller's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from blender_med.errors import ConfigError, DataError
from blender_med.fusers import FUSERS
from blender_med.fusers.base import Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.generation import TransformersEngine
from blender_med.fusers.genfuser import GenFuser
from blender_med.fusers.prompts import PromptFormatter, Seq2SeqLayout

INSTRUCTIONS = ["Answer.", "", "Explain briefly.", "Answer."]
INPUTS = ["What is gout?", "Why does it hurt?" * 9, "Is it inherited?", "q"]
CANDIDATES = [["A disease.", "Pain " * 30], ["Uric acid."], ["Yes.", "No.", "Partly."], ["a", "a"]]
SHORT = {"max_new_tokens": 12}


def load(folder: Path, **settings) -> GenFuser:
    return GenFuser.from_pretrained(folder, device="cpu", **settings)


@pytest.fixture(scope="module")
def t5(tiny_t5) -> GenFuser:
    return load(tiny_t5)


@pytest.fixture(scope="module")
def llama(tiny_llama) -> GenFuser:
    return load(tiny_llama)


class ScriptedEngine:
    """Answers from a list and keeps what it was asked, as the engine of a stage would."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list = []

    def generate(self, prompts, decoding, *, advance=None):
        self.prompts += prompts
        texts = [self.texts.pop(0) for _ in prompts]
        if advance is not None:
            advance(len(prompts))
        return [Generation(text, len(text), "stop") for text in texts]


@pytest.fixture
def scripted(seq2seq_tokenizer):
    def make(*texts: str) -> GenFuser:
        formatter = PromptFormatter(seq2seq_tokenizer, Seq2SeqLayout("</s>"))
        return GenFuser(formatter, ScriptedEngine(*texts))

    return make


def test_it_is_registered():
    assert FUSERS.load("genfuser") is GenFuser


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_batch_changes_no_text_and_keeps_the_order(request, family):
    fuser = request.getfixturevalue(family)
    together = fuser.fuse(INSTRUCTIONS, INPUTS, CANDIDATES, **SHORT)
    alone = [
        fuser.fuse([i], [x], [c], **SHORT)[0]
        for i, x, c in zip(INSTRUCTIONS, INPUTS, CANDIDATES, strict=True)
    ]
    assert together == alone
    assert len(set(together)) > 1


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_llama"])
def test_the_token_budget_is_speed_only(request, family):
    folder = request.getfixturevalue(family)
    small, large = (load(folder, batch_tokens=tokens) for tokens in (1, 100_000))
    done: list[int] = []
    first = small.fuse(INSTRUCTIONS, INPUTS, CANDIDATES, advance=done.append, **SHORT)
    assert done == [1, 1, 1, 1]
    done.clear()
    assert large.fuse(INSTRUCTIONS, INPUTS, CANDIDATES, advance=done.append, **SHORT) == first
    assert done == [4]


def test_greedy_llama_writes_what_generate_writes(llama, tiny_llama):
    from transformers import AutoModelForCausalLM

    prompt = llama.formatter.encode(INSTRUCTIONS[0], INPUTS[0], CANDIDATES[0])
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids = torch.tensor([prompt.ids])
    stops = llama.formatter.tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    output = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=stops)
    expected = llama.formatter.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    assert llama.fuse(INSTRUCTIONS[:1], INPUTS[:1], CANDIDATES[:1], **SHORT) == [expected.strip()]


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_mt5", "tiny_bart"])
def test_shared_keys_equal_plain_beam_search(request, family, monkeypatch):
    folder = request.getfixturevalue(family)
    seen = []
    from blender_med.fusers import generation, shared_keys

    def watched(model, ids, *arguments):
        source = shared_keys.read_source(model, ids, *arguments)
        seen.append((len(ids), source["past_key_values"]))
        return source

    monkeypatch.setattr(generation, "read_source", watched)
    shared = load(folder).fuse(INSTRUCTIONS, INPUTS, CANDIDATES, num_beams=3, **SHORT)
    rows, cache = seen[0]
    assert cache.cross_attention_cache.layers[0].keys.shape[0] == rows == 4
    assert cache.self_attention_cache.layers[0].keys.shape[0] == 12
    plain = load(folder, attn_implementation="eager")
    assert plain.fuse(INSTRUCTIONS, INPUTS, CANDIDATES, num_beams=3, **SHORT) == shared
    assert len(seen) == 1


def test_fusing_leaves_the_models_weights_alone(t5):
    before = {name: weight.clone() for name, weight in t5.engine.model.state_dict().items()}
    t5.fuse(INSTRUCTIONS, INPUTS, CANDIDATES, **SHORT)
    after = t5.engine.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    shared = t5.engine._runner.get_input_embeddings().weight
    assert shared.data_ptr() == t5.engine.model.get_input_embeddings().weight.data_ptr()


def test_number_of_candidates(t5):
    rows = (["i"], ["q"], [["one", "two", "three", "four"]])
    shown = [t5.fusions(*rows, top_k=k, decoding=Decoding(**SHORT))[0] for k in (1, 3, 4, 99)]
    assert [fusion.candidates for fusion in shown] == [1, 3, 4, 4]
    assert shown[2] == shown[3]
    assert shown[0].prompt_tokens < shown[1].prompt_tokens < shown[2].prompt_tokens


def test_equal_candidates_are_fused_as_any(scripted):
    fuser = scripted("The same, better.")
    (fusion,) = fuser.fusions(["i"], ["q"], [["same", "same", "same"]])
    assert (fusion.text, fusion.outcome, fusion.candidates) == ("The same, better.", "fused", 3)


def test_no_question_no_answer(t5):
    assert t5.fuse([], [], []) == []


def test_an_empty_generation_falls_back_to_the_top_candidate(scripted):
    fuser = scripted("", " \n", "text")
    candidates = [["top", "second"], [" ", "second"], ["top"]]
    fusions = fuser.fusions(["i"] * 3, ["q"] * 3, candidates)
    assert [f.text for f in fusions] == ["top", "second", "text"]
    assert [f.outcome for f in fusions] == ["empty_generation", "empty_generation", "fused"]


def test_blank_candidates_alone_are_not_fused(scripted):
    fuser = scripted("fused")
    done: list[int] = []
    fusions = fuser.fusions(["i"] * 2, ["q"] * 2, [["", "  "], ["", "text"]], advance=done.append)
    assert [(f.text, f.outcome) for f in fusions] == [("", "no_candidate_text"), ("fused", "fused")]
    assert sum(done) == 2
    assert len(fuser.engine.prompts) == 1
    assert "Candidate 0: <extra_id_0>:</s>" in fuser.engine.prompts[0].text


def test_callers_lists_are_left_alone(t5):
    candidates = [["long candidate " * 40, "b", "c", "d"]]
    t5.fuse(["i"], ["q"], candidates, **SHORT)
    assert candidates == [["long candidate " * 40, "b", "c", "d"]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((["i"], ["q"], [[]]), "row 1: no candidate to fuse"),
        ((["i"], ["q"], ["text"]), "row 1: no candidate to fuse"),
        ((["i"], ["q"], [None]), "row 1: no candidate to fuse"),
        ((["i", "i"], ["q", "q"], [["a"], ["b", None]]), "row 2: a text is no string"),
        ((["i"], ["q", "q"], [["a"]]), "1 instructions, 2 inputs and 1 lists"),
    ],
)
def test_bad_rows_are_named(t5, rows, message):
    with pytest.raises(DataError, match=message):
        t5.fuse(*rows)


def test_bad_settings_are_named(t5, llama):
    with pytest.raises(ConfigError, match="did you mean 'num_beams'"):
        t5.fuse(["i"], ["q"], [["a"]], num_beam=4)
    with pytest.raises(ConfigError, match="key 'top_k'"):
        t5.fuse(["i"], ["q"], [["a"]], top_k=0)
    with pytest.raises(ConfigError, match="sampling has one beam"):
        t5.fuse(["i"], ["q"], [["a"]], num_beams=4, temperature=0.5)
    with pytest.raises(ConfigError, match=r"position \d+ of 1200.*max_new_tokens"):
        llama.fuse(["i"], ["q"], [["a"]], max_new_tokens=1100)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_sample_depends_on_its_seed_and_its_prompt_alone(request, family):
    fuser = request.getfixturevalue(family)
    settings = SHORT | {"temperature": 1.5}
    rows = (INSTRUCTIONS, INPUTS, CANDIDATES)
    first = fuser.fuse(*rows, seed=1, **settings)
    reversed_rows = [list(reversed(column)) for column in rows]
    assert fuser.fuse(*reversed_rows, seed=1, **settings) == first[::-1]
    assert fuser.fuse(INSTRUCTIONS[:1], INPUTS[:1], CANDIDATES[:1], seed=1, **settings) == first[:1]
    assert fuser.fuse(*rows, seed=2, **settings) != first


def test_sampling_draws_from_the_warped_distribution():
    from blender_med.fusers.sampling import RowSampling

    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(3000, 1)
    decoding = Decoding(temperature=0.5, sample_top_k=2)
    drawn = RowSampling(decoding, range(3000))(torch.zeros(3000, 1, dtype=torch.long), logits)
    share = (drawn.argmax(dim=1) == 0).float().mean().item()
    # At temperature 0.5 the kept two weigh 0.25 and 0.09: 0.735; three standard errors: 0.024.
    assert abs(share - 0.25 / 0.34) < 0.024
    assert not (drawn.argmax(dim=1) == 2).any()


def test_bfloat16_runs(tiny_t5):
    fuser = load(tiny_t5, dtype="bfloat16")
    assert fuser.engine.model.dtype == torch.bfloat16
    fusions = fuser.fusions(INSTRUCTIONS, INPUTS, CANDIDATES, decoding=Decoding(**SHORT))
    assert {f.outcome for f in fusions} <= {"fused", "empty_generation"}
    assert all(0 < f.completion_tokens <= 12 for f in fusions)


def test_other_limits_share_the_prepared_layers(t5):
    own = t5.formatter
    formatter = PromptFormatter(own.tokenizer, own.layout, own.max_length, 5)
    engine = t5.engine.limited(formatter, 64)
    assert engine._runner is t5.engine._runner
    limited = GenFuser(formatter, engine).fuse(["i"], ["q"], [["a" * 30]])
    again = GenFuser(formatter, TransformersEngine(t5.engine.model, formatter, 64))
    assert limited == again.fuse(["i"], ["q"], [["a" * 30]])


@pytest.mark.parametrize("family", ["tiny_t5", "tiny_llama"])
def test_saved_and_loaded_it_fuses_alike(request, family, tmp_path):
    fuser = load(request.getfixturevalue(family), max_length=600, candidate_maxlength=20)
    fuser.save_pretrained(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert (again.formatter.max_length, again.formatter.candidate_maxlength) == (600, 20)
    rows = (INSTRUCTIONS, INPUTS, CANDIDATES)
    assert again.fuse(*rows, **SHORT) == fuser.fuse(*rows, **SHORT)
    assert "attn_implementation" not in (tmp_path / "saved" / "config.json").read_text()


def test_push_uploads_model_and_tokenizer(tiny_t5, monkeypatch):
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    pushed = []
    for kind in (PreTrainedModel, PreTrainedTokenizerBase):
        monkeypatch.setattr(
            kind, "push_to_hub", lambda self, repo, **kw: pushed.append((type(self), repo, kw))
        )
    fuser = load(tiny_t5)
    fuser.push_to_hub("me/fuser", private=True)
    assert [(repo, settings) for _, repo, settings in pushed] == [
        ("me/fuser", {"private": True})
    ] * 2
    assert fuser.engine.model.config.genfuser == {"max_length": 1024, "candidate_maxlength": 128}


def test_an_engine_without_weights_cannot_be_saved(scripted, tmp_path):
    with pytest.raises(ConfigError, match="no weights"):
        scripted().save_pretrained(tmp_path)


def _with_tokenizer(folder: Path, tokenizer, target: Path) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("tokenizer*", "special*"))
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    return target


def test_a_tokenizer_that_does_not_fit_is_refused(tiny_t5, tiny_llama, tmp_path, chat_tokenizer):
    import copy

    larger = copy.deepcopy(chat_tokenizer)
    larger.add_tokens([f"word{i}" for i in range(30)])
    with pytest.raises(ConfigError, match="tokens up to 289, the model only 260"):
        load(_with_tokenizer(tiny_llama, larger, tmp_path / "a"))
    other = copy.deepcopy(chat_tokenizer)
    other.eos_token = "<|im_end|>"
    with pytest.raises(ConfigError, match="ends a text with token 3, the model with 1"):
        load(_with_tokenizer(tiny_t5, other, tmp_path / "b"))
    with pytest.raises(ConfigError, match="the tokenizer has no words"):
        load(_with_tokenizer(tiny_t5, None, tmp_path / "c"))
    endless = copy.deepcopy(chat_tokenizer)
    endless.eos_token = None
    with pytest.raises(ConfigError, match="no end-of-sequence token"):
        load(_with_tokenizer(tiny_llama, endless, tmp_path / "d"))


def test_a_decoder_that_does_not_know_its_start_is_refused(tiny_t5, tmp_path):
    import json

    folder = tmp_path / "model"
    shutil.copytree(tiny_t5, folder)
    for name in ("config.json", "generation_config.json"):
        settings = json.loads((folder / name).read_text())
        settings["decoder_start_token_id"] = None
        (folder / name).write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="how its decoder starts"):
        load(folder)


def test_a_model_that_writes_no_text_is_refused(tmp_path, seq2seq_tokenizer):
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="writes no text"):
        load(tmp_path)


def test_lengths_beyond_the_positions_are_refused(tiny_llama):
    with pytest.raises(ConfigError, match="1200 positions"):
        load(tiny_llama, max_length=1300)
