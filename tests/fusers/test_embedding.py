"""The embedding fuser: values by hand, properties of its parts, checkpoints, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from blender_med.config import parse
from blender_med.errors import BlenderMedError, ConfigError, DataError
from blender_med.fusers.config import Decoding
from blender_med.fusers.embedding import EmbeddingFuser
from blender_med.fusers.embedding_config import EmbeddingFuserSettings

EXPERTS = {"small.1": 6, "large": 10}
SLOTS, QUESTION = 3, 4
MODES = ["weighted_sum", "refined", "transformer"]
GATES: list[dict[str, Any]] = [
    {"type": "dense"},
    {"type": "noisy_topk", "k": 1},
    {"type": "topk_softmax", "k": 1},
]
BASE = {"width": 8, "layers": 1, "attention_heads": 2, "dropout": 0.0}


def build(experts: dict[str, int] = EXPERTS, slots: int = SLOTS, **fields: Any) -> EmbeddingFuser:
    torch.manual_seed(0)
    settings = parse(EmbeddingFuserSettings, BASE | fields)
    fuser = EmbeddingFuser.build(settings, experts, slots=slots, question_width=QUESTION)
    for weights in fuser.gate.parameters():
        torch.nn.init.normal_(weights)
    return fuser.eval()


def states(rows: int, seed: int = 0, experts: dict[str, int] = EXPERTS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, SLOTS, w, generator=generator) for name, w in experts.items()}


def embeddings(count: int, seed: int = 9) -> torch.Tensor:
    return torch.randn(count, QUESTION, generator=torch.Generator().manual_seed(seed))


def with_decoder(folder: Path, **fields: Any) -> EmbeddingFuser:
    head = {"type": "generate", "decoder": str(folder), **fields}
    return build(head=head)


SIZES = torch.tensor([2, 26, 4])
OWNERS = torch.arange(3).repeat_interleave(SIZES)


def test_the_weighted_sum_by_hand() -> None:
    fuser = build({"a": 1, "b": 1}, slots=1, gate_input="question", width=1)
    for projection, factor in zip(fuser.projections, (2.0, 10.0), strict=True):
        projection.linear.weight.data.fill_(factor)
        projection.linear.bias.data.zero_()
    fuser.choice.score.weight.data.fill_(1.0)
    fuser.choice.score.bias.data.zero_()
    fuser.gate.w_g.weight.data.zero_()
    fuser.gate.w_g.bias.data = torch.log(torch.tensor([0.25, 0.75]))
    own = {"a": torch.tensor([[[1.0]], [[3.0]]]), "b": torch.tensor([[[1.0]], [[0.0]]])}
    output = fuser(own, torch.tensor([0, 0]), embeddings(1), labels=torch.tensor([0]))
    # 0.25 * 2 * 1 + 0.75 * 10 * 1 and 0.25 * 2 * 3
    assert torch.allclose(output.logits, torch.tensor([[8.0, 1.5]]))
    assert output.loss.item() == pytest.approx(torch.tensor(-6.5).exp().log1p().item(), rel=1e-3)


@pytest.mark.parametrize("gate_input", ["question", "experts"])
@pytest.mark.parametrize("gate", GATES, ids=lambda g: g["type"])
@pytest.mark.parametrize("mode", MODES)
def test_questions_of_2_to_26_options_are_scored_as_if_alone(
    mode: str, gate: dict[str, Any], gate_input: str
) -> None:
    fuser = build(mode=mode, gate=gate, gate_input=gate_input)
    whole = states(int(SIZES.sum()))
    logits = fuser(whole, OWNERS, embeddings(3)).logits
    assert logits.shape == (3, 26)
    for i, size in enumerate(SIZES.tolist()):
        own = {name: rows[i == OWNERS] for name, rows in whole.items()}
        alone = fuser(own, torch.zeros(size, dtype=torch.long), embeddings(3)[i : i + 1]).logits
        assert torch.allclose(logits[i, :size], alone[0], atol=1e-5)
        assert (logits[i, size:] == -torch.inf).all()
        swapped = {name: rows.flip(0) for name, rows in own.items()}
        again = fuser(swapped, torch.zeros(size, dtype=torch.long), embeddings(3)[i : i + 1])
        assert torch.allclose(again.logits, alone.flip(1), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_every_layer_learns(mode: str) -> None:
    fuser = build(mode=mode, gate={"type": "noisy_topk", "k": 2}).train()
    output = fuser(states(32), OWNERS, embeddings(3), labels=torch.tensor([1, 20, 3]))
    assert output.loss.item() > output.gate_loss.item() > 0
    output.loss.backward()
    without = [name for name, p in fuser.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["noisy_topk", "topk_softmax"])
def test_an_expert_that_is_not_chosen_is_not_read(mode: str, kind: str) -> None:
    fuser = build(mode=mode, gate={"type": kind, "k": 1})
    questions, whole = embeddings(12), states(12)
    chosen = fuser.route(questions).chosen
    assert chosen.any(dim=0).all()
    known = fuser(whole, None, questions).logits
    broken = {name: rows.clone() for name, rows in whole.items()}
    for i, name in enumerate(EXPERTS):
        broken[name][~chosen[:, i]] = torch.nan
    assert torch.equal(fuser(broken, None, questions).logits, known)
    only = chosen[:, 1]
    second = {"large": whole["large"][only]}
    assert torch.allclose(fuser(second, None, questions[only]).logits, known[only], atol=1e-6)


def test_standardising_takes_out_a_large_feature() -> None:
    fuser = build()
    own = states(50)
    own["small.1"][..., 2] = own["small.1"][..., 2] * 3000 + 500
    own["large"][..., 0] = 7.0  # constant: left unscaled
    fuser.standardise(own)
    projection = fuser.projections[0]
    scaled = (own["small.1"] - projection.mean) / projection.deviation
    assert torch.allclose(scaled.mean(dim=(0, 1)), torch.zeros(6), atol=1e-4)
    assert torch.allclose(scaled.std(dim=(0, 1), correction=0), torch.ones(6), atol=1e-4)
    assert fuser.projections[1].deviation[0] == 1


def known_to_large(own: dict[str, torch.Tensor]) -> torch.Tensor:
    return own["large"][:, :, 5].mean(dim=1).view(-1, 4).argmax(dim=1)


def test_the_gate_finds_the_expert_that_knows() -> None:
    fuser = build(gate={"type": "dense"}).train()
    own, owners = states(4 * 64), torch.arange(64).repeat_interleave(4)
    optimizer = torch.optim.Adam(fuser.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        fuser(own, owners, embeddings(64), labels=known_to_large(own)).loss.backward()
        optimizer.step()
    fresh = states(4 * 64, seed=1)
    output = fuser.eval()(fresh, owners, embeddings(64))
    assert (output.logits.argmax(dim=1) == known_to_large(fresh)).float().mean() > 0.8
    assert output.weights[:, 1].mean() > 0.6  # it began at about a half


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_choice_fuser_is_the_same(mode: str, tmp_path: Path) -> None:
    fuser = build(mode=mode, gate={"type": "topk_softmax", "k": 2})
    fuser.standardise(states(20))
    fuser.save_pretrained(tmp_path)
    again = EmbeddingFuser.from_pretrained(tmp_path, experts=dict(reversed(EXPERTS.items())))
    assert not again.training
    own = (states(32), OWNERS, embeddings(3))
    assert torch.equal(again(*own).logits, fuser(*own).logits)
    assert torch.equal(again(*own).gate_loss, fuser(*own).gate_loss)


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_a_saved_generating_fuser_is_the_same(tiny_t5: Path, tuning: str, tmp_path: Path) -> None:
    fuser = with_decoder(tiny_t5, tuning=tuning, lora_rank=2)
    optimizer = torch.optim.SGD((p for p in fuser.parameters() if p.requires_grad), lr=0.1)
    labels = torch.tensor([[30, 40, 1], [50, 1, -100]])
    before = {name: p.clone() for name, p in fuser.decoder.named_parameters()}
    for _ in range(2):  # a LoRA begins with a matrix of zeros, which hides the other
        fuser.train()(states(2), None, embeddings(2), labels=labels).loss.backward()
        optimizer.step()
    changed = {n for n, p in fuser.decoder.named_parameters() if not torch.equal(p, before[n])}
    assert {"frozen": not changed, "lora": changed and all("lora" in n for n in changed),
            "full": len(changed) > 10}[tuning]  # fmt: skip
    fuser.eval().save_pretrained(tmp_path)
    again = EmbeddingFuser.from_pretrained(tmp_path, experts=EXPERTS)
    own = (states(2), None, embeddings(2), labels)
    assert torch.equal(again(*own).logits, fuser(*own).logits)
    decoding = Decoding(max_new_tokens=6)
    texts = fuser.generate_texts(states(2), embeddings(2), decoding)
    assert again.generate_texts(states(2), embeddings(2), decoding) == texts
    assert len(texts) == 2 and any(texts)


def test_the_decoder_is_the_pretrained_one_and_reads_the_fused_slots(tiny_t5: Path) -> None:
    from transformers import T5ForConditionalGeneration

    fuser = with_decoder(tiny_t5, tuning="frozen")
    whole = T5ForConditionalGeneration.from_pretrained(tiny_t5).eval()
    fused, _, _ = fuser._fused(states(2), None, embeddings(2))
    memory = fuser.memory(fused)
    labels = torch.tensor([[30, 40, 1], [50, 1, -100]])
    expected = whole(encoder_outputs=(memory,), labels=labels)
    output = fuser(states(2), None, embeddings(2), labels=labels)
    assert torch.allclose(output.logits, expected.logits, atol=1e-5)
    assert (output.loss - output.gate_loss).item() == pytest.approx(expected.loss.item(), rel=1e-5)
    from transformers.modeling_outputs import BaseModelOutput

    source = BaseModelOutput(last_hidden_state=memory)
    ids = whole.generate(
        encoder_outputs=source, attention_mask=torch.ones(2, SLOTS), num_beams=4, max_new_tokens=6
    )
    texts = fuser.tokenizer.batch_decode(ids, skip_special_tokens=True)
    decoding = Decoding(num_beams=4, max_new_tokens=6)
    assert fuser.generate_texts(states(2), embeddings(2), decoding) == texts


def test_a_single_expert_is_a_probe() -> None:
    fuser = build({"large": 10}, gate={"type": "topk_softmax", "k": 1})
    output = fuser({"large": states(2)["large"]}, torch.tensor([0, 0]), embeddings(1))
    assert output.weights.tolist() == [[1.0]]
    assert output.logits.isfinite().all()


def spoilt(change: str) -> dict[str, torch.Tensor]:
    own = states(2)
    if change == "nan":
        own["large"][1, 0, 3] = torch.nan
    elif change == "infinite":
        own["large"][1, 0, 3] = torch.inf
    elif change == "missing":
        del own["large"]
    elif change == "none":
        own = {}
    elif change == "rows":
        own["large"] = own["large"][:1]
    elif change == "slots":
        own["large"] = own["large"][:, :2]
    elif change == "width":
        own["large"] = own["large"][..., :9]
    else:
        own["larg"] = own.pop("large")
    return own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", "'large' are not finite.*float32"),
        ("infinite", "'large' are not finite"),
        ("missing", "'large' are missing"),
        ("none", "no states"),
        ("rows", r"'large' have another shape.*\(2, 3, 10\).*\(1, 3, 10\)"),
        ("slots", "another shape"),
        ("width", "another shape"),
        ("name", "does not know this expert.*'larg'.*did you mean 'large'"),
    ],
)
def test_bad_states_are_refused(change: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build()(spoilt(change), None, embeddings(2))


@pytest.mark.parametrize("owners", [[0], [1, 1], [0, 2], [1, 0], [0, 0, 1]])
def test_rows_must_belong_to_questions_in_order(owners: list[int]) -> None:
    with pytest.raises(DataError, match=r"2 rows of states.*0, 1, 2"):
        build()(states(2), torch.tensor(owners), embeddings(2))


@pytest.mark.parametrize(
    "questions", [None, torch.zeros(2, QUESTION + 1), torch.zeros(1, QUESTION)]
)
def test_the_gate_needs_the_embedding_of_every_question(questions: Any) -> None:
    with pytest.raises(DataError, match=r"embeddings of the questions.*\(2, 4\)"):
        build()(states(2), None, questions)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ({"large": 10}, r"trained with the experts large, small\.1.*received \['large'\]"),
        (EXPERTS | {"third": 4}, "trained with the experts"),
        (EXPERTS | {"large": 12}, r"experts\.large.*width 10 of 'large'.*received 12"),
    ],
)
def test_a_checkpoint_of_other_experts_or_widths_is_refused(
    experts: dict[str, int], message: str, tmp_path: Path
) -> None:
    build().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=message):
        EmbeddingFuser.from_pretrained(tmp_path, experts=experts)


def test_other_bad_input_is_refused(tiny_t5: Path, tiny_llama: Path, tiny_bart: Path) -> None:
    for fields, message in (
        ({"gate": {"type": "noisy_topk", "k": 3}}, r"gate\.k.*only 2 experts"),
        ({"mode": "transformer", "width": 9}, "multiple of 'attention_heads'"),
        ({"experts": {}}, "needs experts"),
        ({"head": {"type": "generate", "decoder": str(tiny_bart)}}, "must be a T5"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(**fields)
    with pytest.raises(ConfigError, match="question_width"):
        EmbeddingFuser.build(EmbeddingFuserSettings(), EXPERTS)
    with pytest.raises(ConfigError, match="not an embedding fuser"):
        EmbeddingFuser.from_pretrained(tiny_llama)
    with pytest.raises(ConfigError, match="chooses options and writes no text"):
        build().generate_texts(states(2), embeddings(2), Decoding())
    with pytest.raises(ConfigError, match="beam search"):
        with_decoder(tiny_t5).generate_texts(states(2), embeddings(2), Decoding(temperature=0.5))
    with pytest.raises(ConfigError, match="can spare none"):
        build(gate_input="experts").route(embeddings(2))
    with pytest.raises(BlenderMedError):
        EmbeddingFuser.from_pretrained(tiny_t5.parent / "nowhere")
