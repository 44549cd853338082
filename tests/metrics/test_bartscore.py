"""BARTScore of tiny random models against a plain loop over single pairs."""

import itertools
import pickle
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from blender_med.errors import ConfigError, DataError  # noqa: E402
from blender_med.metrics.bartscore import (  # noqa: E402
    BartScorer,
    bart_score,
    multi_ref_bart_score,
)
from blender_med.metrics.likelihood import VocabularyHead  # noqa: E402

# Sums of float32 in another order.
TOLERANCE = 2e-5


def plain_scores(folder, sources, targets, limit=40):
    """The definition, one pair at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    scores = []
    for source, target in zip(sources, targets, strict=True):
        ids, labels = (
            torch.tensor([tokenizer(t, truncation=True, max_length=limit)["input_ids"]])
            for t in (source, target)
        )
        with torch.inference_mode():
            log_probs = model(input_ids=ids, labels=labels).logits.log_softmax(dim=-1)
        scores.append(float(log_probs.gather(2, labels[..., None]).mean()))
    return scores


@pytest.fixture(scope="module")
def t5(save_model):
    config = transformers.T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, pad_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, tie_word_embeddings=False, initializer_factor=0.5,
    )  # fmt: skip
    return save_model(transformers.T5ForConditionalGeneration, config)


@pytest.mark.parametrize("architecture", ["bart", "t5"])
@pytest.mark.parametrize("batch_tokens", [None, 1, 60])
def test_equal_to_single_pairs_whatever_the_batch(request, texts, architecture, batch_tokens):
    folder = request.getfixturevalue(architecture)
    sources, targets = zip(*itertools.product(texts, texts), strict=True)
    scores = bart_score(sources, targets, model=folder, batch_tokens=batch_tokens, max_length=40)
    assert scores == pytest.approx(plain_scores(folder, sources, targets), abs=TOLERANCE)
    assert max(scores) < 0


def test_texts_of_100000_words_are_cut(bart):
    long = " ".join(["fever", "cough"] * 50_000)
    pair = [long[:1000]], [long[:1000]]
    scores = bart_score([long], [long], model=bart, max_length=40)
    assert scores == pytest.approx(plain_scores(bart, *pair), abs=TOLERANCE)


def test_bfloat16_is_close(bart, texts):
    sources, targets = texts, list(reversed(texts))
    exact = bart_score(sources, targets, model=bart)
    rough = bart_score(sources, targets, model=bart, dtype="bfloat16")
    # Log-probabilities of about 6 with 8 bits, averaged over the tokens of a text.
    assert rough == pytest.approx(exact, abs=0.1)
    assert rough != exact


def test_no_pair_no_score(bart):
    assert bart_score([], [], model=bart) == []


def test_lists_of_different_lengths_are_refused(bart):
    with pytest.raises(ValueError, match="argument 2 is"):
        bart_score(["a"], [], model=bart)


def test_each_distinct_source_is_encoded_and_each_pair_scored_once(bart, monkeypatch):
    scorer = BartScorer.load(bart)
    inner = scorer._likelihood._encoder
    encoded = []
    forward = inner.forward
    monkeypatch.setattr(
        inner, "forward", lambda **k: encoded.append(len(k["input_ids"])) or forward(**k)
    )
    shares = []
    scores = scorer.score(["a", "b", "a", "a"], ["x", "x", "y", "x"], advance=shares.append)
    assert sum(encoded) == 2
    assert scores[0] == scores[3]
    assert sum(shares) == pytest.approx(1)


def test_the_padding_token_in_a_target_counts_zero(bart):
    with_mark, without = bart_score(["flu"] * 2, ["a<pad>", "a"], model=bart)
    # <s> a <pad> </s> and <s> a </s>: another token stands before </s>, so only bounds are known.
    assert 0 > with_mark > without * 3 / 4 - 5


def test_a_token_that_the_model_cannot_read_is_left_out(bart, tmp_path):
    """As <mask> of bart-large-cnn: its tokenizer has one token more than the model."""
    folder = shutil.copytree(bart, tmp_path / "bart")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<stranger>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    marked = bart_score(["flu<stranger>"] * 2, ["fever", "a<stranger>"], model=folder)
    assert marked == pytest.approx(bart_score(["flu"] * 2, ["fever", "a"], model=bart), abs=1e-6)


def test_a_pickle_is_refused_unless_allowed(bart, tmp_path):
    folder = shutil.copytree(bart, tmp_path / "bart")
    weights = transformers.BartForConditionalGeneration.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*pickle.*allow_pickle"):
        bart_score(["flu"], ["fever"], model=folder)
    allowed = bart_score(["flu"], ["fever"], model=folder, allow_pickle=True)
    assert allowed == pytest.approx(bart_score(["flu"], ["fever"], model=bart), abs=1e-6)


def test_several_references(bart, texts):
    pairs = bart_score(["flu"] * 2, texts[:2], model=bart)
    best, mean = (
        multi_ref_bart_score(["flu"], [texts[:2]], agg=agg, model=bart) for agg in ("max", "mean")
    )
    assert best == [pytest.approx(max(pairs))]
    assert mean == [pytest.approx(sum(pairs) / 2)]
    ragged = multi_ref_bart_score(["flu", "a"], [texts[:2], ["b"]], model=bart)
    assert ragged == pytest.approx([max(pairs), *bart_score(["a"], ["b"], model=bart)], abs=1e-5)
    for targets in ([[]], [["a"], ["b"]]):
        with pytest.raises(ValueError, match="at least one target"):
            multi_ref_bart_score(["flu"], targets, model=bart)


def test_both_directions_by_name(bart):
    scorer = BartScorer.load(bart)
    shares = []
    found = scorer.scores(["a b"], ["c"], ["bartscore_reverse", "bartscore"], shares.append)
    assert found == {
        "bartscore": scorer.score(["a b"], ["c"]),
        "bartscore_reverse": scorer.score(["c"], ["a b"]),
    }
    assert sum(shares) == pytest.approx(1)


@pytest.fixture(scope="module")
def llama(save_model):
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, initializer_range=0.4,
        bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return save_model(transformers.LlamaForCausalLM, config)


class TestDecoderOnly:
    def test_equal_to_single_pairs(self, llama, texts):
        tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
        model = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()

        def ids(text):
            return tokenizer(text, add_special_tokens=False)["input_ids"]

        def score(source, target):
            newline = ids("\n")
            prompt = [0, *ids(source)[: 20 - 1 - len(newline)], *newline]
            answer = [*ids(target)[:19], 2]
            with torch.inference_mode():
                logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
            log_probs = logits.log_softmax(dim=-1)[len(prompt) - 1 : -1]
            return float(log_probs.gather(1, torch.tensor(answer)[:, None]).mean())

        pairs = list(itertools.product(texts[:3] + texts[-6:], repeat=2))
        found = bart_score(*zip(*pairs, strict=True), model=llama, batch_tokens=90)
        assert found == pytest.approx([score(*pair) for pair in pairs], abs=TOLERANCE)

    def test_logits_that_are_no_projection_are_refused(self, save_model):
        config = transformers.Gemma2Config(
            vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, intermediate_size=24, initializer_range=2.0,
            final_logit_softcapping=1.0, bos_token_id=0, eos_token_id=2, pad_token_id=1,
        )  # fmt: skip
        folder = save_model(transformers.Gemma2ForCausalLM, config)
        with pytest.raises(ConfigError, match="changes its logits"):
            BartScorer.load(folder)


@pytest.fixture(scope="module")
def tuned(bart):
    model = transformers.BartForConditionalGeneration.from_pretrained(bart)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    return model


class TestStateDict:
    @pytest.mark.parametrize("name", ["bart.pth", "bart.safetensors"])
    def test_fine_tuned_weights_replace_the_models(self, bart, tuned, tmp_path, name):
        file = tmp_path / name
        if file.suffix == ".pth":
            torch.save(tuned.state_dict(), file)
        else:
            tuned.save_pretrained(tmp_path)
            (tmp_path / "model.safetensors").rename(file)
        tuned.save_pretrained(tmp_path / "whole")
        for part in bart.iterdir():
            if part.name not in ("model.safetensors", "config.json"):
                (tmp_path / "whole" / part.name).write_bytes(part.read_bytes())
        expected = bart_score(["flu"], ["fever"], model=tmp_path / "whole")
        assert bart_score(["flu"], ["fever"], model=bart, state_dict=file) == expected
        assert bart_score(["flu"], ["fever"], model=bart) != expected

    def test_missing_and_unknown_weights_are_named(self, bart, tuned, tmp_path):
        state = tuned.state_dict()
        moved = {k.replace("encoder.layers.0.fc1", "zork"): v for k, v in state.items()}
        torch.save(moved, tmp_path / "bart.pth")
        with pytest.raises(DataError, match=r"2 weights are missing and 2 are unknown.*fc1"):
            bart_score(["a"], ["b"], model=bart, state_dict=tmp_path / "bart.pth")

    def test_weights_of_another_shape_are_named(self, bart, tuned, tmp_path):
        state = tuned.state_dict()
        state["model.encoder.layers.0.fc1.weight"] = torch.zeros(2, 2)
        torch.save(state, tmp_path / "bart.pth")
        with pytest.raises(DataError, match="cannot load the state dict"):
            bart_score(["a"], ["b"], model=bart, state_dict=tmp_path / "bart.pth")

    @pytest.mark.parametrize(
        "content", [None, b"damaged", pickle.dumps({"a": pytest.raises}, protocol=2)]
    )
    def test_a_file_of_no_tensors_is_refused(self, bart, tmp_path, content):
        file = tmp_path / "bart.pth"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot load the state dict.*bart\.pth|bart\.pth"):
            bart_score(["a"], ["b"], model=bart, state_dict=file)


def test_a_tokenizer_without_an_end_of_text_is_refused():
    from blender_med.metrics.bartscore import CausalEncoding

    class Tokenizer:
        eos_token_id = None

    with pytest.raises(ConfigError, match="no end of text"):
        CausalEncoding(Tokenizer(), 10, 300)


class TestVocabularyHead:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("rows", [0, 1, 300])
    def test_equal_to_log_softmax(self, dtype, rows):
        torch.manual_seed(0)
        weight, bias = torch.randn(5000, 8, dtype=dtype), torch.randn(1, 5000, dtype=dtype)
        hidden, targets = torch.randn(rows, 8, dtype=dtype), torch.randint(0, 5000, (rows,))
        logits = hidden.float() @ weight.float().T + bias.float()
        expected = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
        # bfloat16 rounds each logit, of up to 20, to 8 bits; a sum of 5000 evens much of it out.
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        with torch.inference_mode():
            found = VocabularyHead(weight, bias).log_probs(hidden, targets)
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)

    def test_far_logits_do_not_overflow(self):
        weight = torch.tensor([[1000.0], [-1000.0], [999.0]])
        found = VocabularyHead(weight).log_probs(torch.ones(2, 1), torch.tensor([0, 1]))
        # log(1 / (1 + e^-1)) and 2000 below it.
        assert found.tolist() == pytest.approx([-0.31326, -2000.31326], abs=1e-3)
