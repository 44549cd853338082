"""BERTScore of a tiny random model against a plain loop over single pairs."""

import itertools
import math
import shutil

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from blender_med.errors import ConfigError, DataError  # noqa: E402
from blender_med.metrics import contextual  # noqa: E402
from blender_med.metrics.bertscore import BertScorer, bert_score  # noqa: E402
from blender_med.metrics.config import BertScoreConfig  # noqa: E402

# Sums of float32 in another order.
TOLERANCE = 2e-6


def plain_scores(folder, hypotheses, references, layer, weight=lambda token: 1.0, limit=40):
    """The definition, one pair at a time: all layers computed, the wanted one taken."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()

    def states(text):
        text = text.strip()
        ids = tokenizer(" " + text if text else "", truncation=True, max_length=limit)["input_ids"]
        with torch.inference_mode():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[layer][0]
        return ids, hidden / hidden.norm(dim=1, keepdim=True)

    def mean(best, ids):
        weights = torch.tensor([0.0 if token in (0, 2) else weight(token) for token in ids])
        return float((best * weights).sum() / weights.sum())

    scores = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        (own, left), (other, right) = states(hypothesis), states(reference)
        cosines = (left @ right.T).clamp(min=0)
        if min(len(own), len(other)) == 2:
            scores.append((0.0, 0.0, 0.0))
            continue
        p, r = mean(cosines.amax(dim=1), own), mean(cosines.amax(dim=0), other)
        scores.append((p, r, 2 * p * r / (p + r)))
    return [list(column) for column in zip(*scores, strict=True)]


def flat(scores):
    return list(itertools.chain.from_iterable(scores))


@pytest.fixture(scope="module")
def pairs(texts):
    return tuple(zip(*itertools.product(texts, texts), strict=True))


@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("batch_tokens", [None, 1, 100])
def test_equal_to_single_pairs_whatever_the_batch(roberta, pairs, layer, batch_tokens):
    found = bert_score(*pairs, model=roberta, num_layers=layer, batch_tokens=batch_tokens)
    assert flat(found) == pytest.approx(flat(plain_scores(roberta, *pairs, layer)), abs=TOLERANCE)


def test_rare_tokens_weigh_more_with_idf(roberta, texts):
    tokenizer = transformers.AutoTokenizer.from_pretrained(roberta)
    references = [*texts[:4], texts[0]]
    hypotheses = [*texts[1:5], texts[2]]
    encoded = tokenizer([" " + r for r in references], truncation=True, max_length=40)
    documents = [set(ids) for ids in encoded["input_ids"]]

    def weight(token):
        return math.log(6 / (1 + sum(token in document for document in documents)))

    found = bert_score(hypotheses, references, model=roberta, num_layers=3, idf=True)
    expected = plain_scores(roberta, hypotheses, references, 3, weight)
    assert flat(found) == pytest.approx(flat(expected), abs=TOLERANCE)


def test_tokens_weigh_the_same_where_all_weigh_nothing(roberta, texts):
    # One reference holds all its own tokens: log(2 / 2) = 0 for each of them.
    found = bert_score(texts[:1], texts[:1], model=roberta, num_layers=2, idf=True)
    assert flat(found) == pytest.approx([1, 1, 1])


def test_references_of_the_run_replace_those_of_the_call(roberta, texts):
    scorer = BertScorer.load(roberta, num_layers=3, idf=True)
    alone = scorer.score(texts[:1], texts[1:2])
    together = scorer.score(texts[:2], texts[1:3])
    scorer.use_references(texts[:4])
    assert scorer.score(texts[:1], texts[1:2]).f1 != alone.f1
    whole = scorer.score(texts[:2], texts[1:3])
    assert whole.f1 != together.f1
    assert scorer.score(texts[1:2], texts[2:3]).f1 == pytest.approx(whole.f1[1:], abs=TOLERANCE)


def test_equal_texts_score_one_and_empty_ones_zero(roberta, texts):
    found = bert_score(texts, texts, model=roberta, num_layers=3)
    expected = [1.0 if text.strip() else 0.0 for text in texts]
    for values in found:
        assert values == pytest.approx(expected, abs=TOLERANCE)


def test_exchanged_roles_exchange_precision_and_recall(roberta, pairs):
    forward = bert_score(*pairs, model=roberta, num_layers=1)
    backward = bert_score(*reversed(pairs), model=roberta, num_layers=1)
    assert forward.precision == pytest.approx(backward.recall, abs=TOLERANCE)
    assert forward.f1 == pytest.approx(backward.f1, abs=TOLERANCE)


def test_each_distinct_text_is_encoded_once_even_in_several_blocks(roberta, monkeypatch):
    scorer = BertScorer.load(roberta, num_layers=3)
    hypotheses, references = ["a", "b", "a", "x", "a"], ["x", "x", "y", "z", "x"]
    whole = scorer.score(hypotheses, references)
    scorer._encoder._kept_tokens = 6  # two pairs of one-token texts do not fit
    encoded, forward = [], scorer._encoder._forward
    monkeypatch.setattr(
        scorer._encoder, "_forward", lambda texts: encoded.extend(texts) or forward(texts)
    )
    shares = []
    blocks = scorer.score(hypotheses, references, advance=shares.append)
    assert len(encoded) == len({"a", "b", "x", "y", "z"})
    assert flat(blocks) == pytest.approx(flat(whole), abs=TOLERANCE)
    assert sum(shares) == pytest.approx(1)
    assert len(shares) > 1


def test_many_candidates_of_one_reference(roberta, texts, monkeypatch):
    monkeypatch.setattr(contextual, "_MATCHED_AT_ONCE", 2)
    references = [texts[0]] * len(texts)
    found = bert_score(texts, references, model=roberta, num_layers=2)
    expected = plain_scores(roberta, texts, references, 2)
    assert flat(found) == pytest.approx(flat(expected), abs=TOLERANCE)


def test_bfloat16_is_close(roberta, pairs):
    exact = bert_score(*pairs, model=roberta, num_layers=3)
    rough = bert_score(*pairs, model=roberta, num_layers=3, dtype="bfloat16")
    # Cosines of vectors with 8 bits per number.
    assert flat(rough) == pytest.approx(flat(exact), abs=0.03)


def test_no_pair_no_score(roberta):
    assert bert_score([], [], model=roberta, num_layers=1, idf=True) == ([], [], [])


def test_lists_of_different_lengths_are_refused(roberta):
    with pytest.raises(ValueError, match="argument 2 is"):
        bert_score(["a"], [], model=roberta, num_layers=1)


def test_the_encoder_of_a_bart(bart):
    model = transformers.BartModel.from_pretrained(bart).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bart)
    hypothesis, reference = "a b c", "flu or fever"
    with torch.inference_mode():
        left, right = (
            model.encoder(
                tokenizer(text, return_tensors="pt")["input_ids"], output_hidden_states=True
            ).hidden_states[1][0]
            for text in (hypothesis, reference)
        )
    cosines = torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=2)
    precision = float(cosines.amax(dim=1)[1:-1].clamp(min=0).mean())
    scores = bert_score([hypothesis], [reference], model=bart, num_layers=1)
    assert scores.precision == [pytest.approx(precision, abs=TOLERANCE)]


def test_a_shorter_limit_cuts_texts(roberta, texts):
    long = texts[8]
    cut = bert_score([long], [texts[0]], model=roberta, num_layers=3, max_length=6)
    expected = plain_scores(roberta, [long], [texts[0]], 3, limit=6)
    assert flat(cut) == pytest.approx(flat(expected), abs=TOLERANCE)


def test_a_text_of_100000_words_is_cut(roberta, texts):
    long = " ".join(["fever", "cough"] * 50_000)
    scores = bert_score([long], [texts[0]], model=roberta, num_layers=3)
    expected = plain_scores(roberta, [long[:1000]], [texts[0]], 3)
    assert flat(scores) == pytest.approx(flat(expected), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"no layer is tuned.*set num_layers, 0 to 3"),
        ({"num_layers": 4}, r"no such layer.*choose 0 to 3"),
        ({"num_layers": -1}, "no such layer"),
        ({"num_layers": 1, "device": "zork"}, "no such device"),
    ],
)
def test_wrong_settings_are_refused(roberta, settings, message):
    with pytest.raises(ConfigError, match=message):
        bert_score(["a"], ["b"], model=roberta, **settings)


def test_a_pickle_is_refused_unless_allowed(roberta, tmp_path):
    folder = shutil.copytree(roberta, tmp_path / "roberta")
    weights = transformers.AutoModel.from_pretrained(folder).state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    config = BertScoreConfig(model=str(folder), num_layers=2)
    with pytest.raises(DataError, match=r"pytorch_model\.bin.*pickle.*allow_pickle"):
        BertScorer.from_config(config)
    allowed = BertScorer.from_config(config.model_copy(update={"allow_pickle": True}))
    expected = bert_score(["a b"], ["a c"], model=roberta, num_layers=2)
    assert flat(allowed.score(["a b"], ["a c"])) == pytest.approx(flat(expected), abs=TOLERANCE)


def test_a_recipe_needs_a_layer_where_none_is_tuned():
    assert BertScoreConfig().num_layers is None
    assert BertScoreConfig(model="somebody/else", num_layers=3).num_layers == 3
    with pytest.raises(ValueError, match="set 'num_layers'"):
        BertScoreConfig(model="somebody/else")


def test_scores_by_name(roberta):
    scorer = BertScorer.from_config(BertScoreConfig(model=str(roberta), num_layers=2))
    found = scorer.scores(["a b"], ["a c"], ["bertscore_f1", "bertscore_p"])
    expected = scorer.score(["a b"], ["a c"])
    assert found == {"bertscore_f1": expected.f1, "bertscore_p": expected.precision}
