"""Fused answers per second against llm-blender's own ``fuse`` with the same T5 weights.

    python bench/fuser.py --data ../shared/data/medquad                    # some ten minutes
    python bench/fuser.py --data ../shared/data/medquad --new-tokens 128

The peer is llm-blender 0.0.2 with transformers 4.46.3 in an environment of its own, which the
first run installs; it keeps its own batches of four. The model has the shape of Flan-T5-base. Its
weights are random as T5 draws them (wider ones amplify rounding until beams that nearly tie fall
either way), with a wider output layer; its tokenizer is trained on the data. Every MedQuAD
question gets three candidates made of the data; four beams, 64 new tokens. With 128 the texts of
three in sixteen questions differ, probably where beams of a random model lie closer together than
the rounding of their sums. The questions are taken in slices, and on each slice the sides run one
after the other in changing order, so that a change of the machine's speed meets all of them.
Results go to bench/results/fuser.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peer import Peer

from blender_med import load_questions
from blender_med.fusers.config import Decoding
from blender_med.fusers.genfuser import GenFuser

RESULTS = Path(__file__).parent / "results" / "fuser.json"
SCRIPT = Path(__file__).with_name("fuser_peer.py")
PACKAGES = ("llm-blender==0.0.2", "transformers==4.46.3")
VOCABULARY = 32128
REQUIRED = {"float32": 1.5, "bfloat16": 3.0}  # times as fast as the peer in float32
INSTRUCTION = "Answer this question truthfully"

Rows = tuple[list[str], list[str], list[list[str]]]  # instructions, inputs, candidates
Side = Callable[[Rows], tuple[float, list[str]]]


def material(path: Path, count: int) -> tuple[list[str], list[Rows]]:
    """Texts to train a tokenizer on, and ``count`` questions with three candidates each."""
    questions = [q for q in load_questions("medquad", path) if q.reference]
    texts = [str(question.reference) for question in questions]
    draws = random.Random(0)
    rows = [
        ([INSTRUCTION], [question.question], [_candidates(str(question.reference), texts, draws)])
        for question in draws.sample(questions, count)
    ]
    return texts, rows


def _candidates(answer: str, texts: Sequence[str], draws: random.Random) -> list[str]:
    words = answer.split()
    return [answer, " ".join(words[len(words) // 2 :]), draws.choice(texts)]


def joined(rows: Sequence[Rows]) -> Rows:
    instructions, inputs, candidates = (
        [entry for row in rows for entry in row[column]] for column in range(3)
    )
    return instructions, inputs, candidates


def write_model(folder: Path, texts: Sequence[str], layers: int, width: int) -> None:
    """A T5 of random weights that transformers 4 and 5 read alike, and its tokenizer."""
    from safetensors.torch import save_file
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=width, d_kv=64, d_ff=width * 8 // 3, num_layers=layers,
        num_heads=width // 64, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(folder)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    weights["lm_head.weight"] = torch.randn(VOCABULARY, width) / width**0.5 * 4
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # transformers 5 writes "true" here, which transformers 4 takes for a T5 with scaled outputs.
    written = json.loads((folder / "config.json").read_text())
    written["tie_word_embeddings"] = False
    (folder / "config.json").write_text(json.dumps(written))
    write_tokenizer(folder, texts)


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    marks = [f"<extra_id_{i}>" for i in range(100)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(marks),
        special_tokens=["<pad>", "</s>", "<unk>", *marks],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=marks, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    # The name that both major versions know.
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def ours(folder: Path, dtype: str, decoding: Decoding) -> Side:
    fuser = GenFuser.from_pretrained(folder, dtype=dtype, device="cpu")

    def run(rows: Rows) -> tuple[float, list[str]]:
        started = time.perf_counter()
        fusions = fuser.fusions(*rows, decoding=decoding)
        return time.perf_counter() - started, [fusion.text for fusion in fusions]

    return run


def peers(peer: Peer, folder: Path, dtype: str, decoding: Decoding) -> Side:
    peer.ask(load=str(folder), dtype=dtype)

    def run(rows: Rows) -> tuple[float, list[str]]:
        instructions, inputs, candidates = rows
        answer = peer.ask(
            dtype=dtype, instructions=instructions, inputs=inputs, candidates=candidates,
            num_beams=decoding.num_beams, max_new_tokens=decoding.max_new_tokens,
        )  # fmt: skip
        return answer["seconds"], answer["texts"]

    return run


def measure(sides: Mapping[str, Side], slices: Sequence[Rows]) -> dict[str, Any]:
    """Seconds and texts of every side over all slices."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {name: [] for name in sides}
    for number, rows in enumerate(slices):
        turn = number % len(sides)
        for name in [*list(sides)[turn:], *list(sides)[:turn]]:
            spent, written = sides[name](rows)
            seconds[name].append(spent)
            texts[name] += written
            print(f"slice {number + 1} {name}: {spent:.1f} s", flush=True)
    return {"seconds": seconds, "texts": texts}


def summary(measured: Mapping[str, Any], questions: int) -> dict[str, Any]:
    """Answers per second, times as fast as the peer, and whether texts are equal."""
    totals = {name: sum(own) for name, own in measured["seconds"].items()}
    texts = measured["texts"]
    equal = sum(a == b for a, b in zip(texts["float32"], texts["peer float32"], strict=True))
    base = totals["peer float32"]
    result = {
        "answers_per_second": {name: questions / total for name, total in totals.items()},
        "times_as_fast_as_peer_float32": {name: base / total for name, total in totals.items()},
        "float32_texts_equal_to_peer": [equal, questions],
        "distinct_texts": len(set(texts["float32"])),
        "seconds": measured["seconds"],
    }
    if "peer bfloat16" in totals:
        result["bfloat16_times_as_fast_as_peer_bfloat16"] = (
            totals["peer bfloat16"] / totals["bfloat16"]
        )
    speed = result["times_as_fast_as_peer_float32"]
    met = {
        f"{side}: {least} times as fast": speed[side] >= least for side, least in REQUIRED.items()
    }
    return result | {"requirements": met | {"float32: equal texts": equal == questions}}


def run(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    texts, rows = material(chosen.data, chosen.questions)
    write_model(folder, texts, chosen.layers, chosen.width)
    decoding = Decoding(num_beams=chosen.beams, max_new_tokens=chosen.new_tokens)
    peer = Peer(SCRIPT, PACKAGES)
    sides = {f"peer {dtype}": peers(peer, folder, dtype, decoding) for dtype in chosen.peer_dtypes}
    sides |= {dtype: ours(folder, dtype, decoding) for dtype in REQUIRED}
    for side in sides.values():  # unmeasured
        side(rows[0])
    starts = range(0, len(rows), chosen.slice)
    slices = [joined(rows[start : start + chosen.slice]) for start in starts]
    result = summary(measure(sides, slices), chosen.questions)
    peer.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="MedQuAD in its original format")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--slice", type=int, default=8, help="questions fused in one call")
    parser.add_argument("--layers", type=int, default=12, help="of encoder and decoder each")
    parser.add_argument("--width", type=int, default=768, help="a multiple of 192")
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--peer-dtypes", nargs="+", default=["float32", "bfloat16"])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(chosen, Path(folder))
    settings = {k: v for k, v in vars(chosen).items() if k != "data"} | {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "peer": PACKAGES,
        "machine": platform.machine(),
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"settings": settings, **result}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
