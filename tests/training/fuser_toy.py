"""A toy fusion task, tokenizers trained on it, and tiny random models of both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from blender_med.data.fusion import FusionExample
from blender_med.training.examples import TrainingExamples

_WORDS = (
    "fever cough pain dose liver heart lung skin bone nerve blood brain kidney rash tumor virus"
)
WORDS = tuple(_WORDS.split())
TRUE, FALSE = "sure", "maybe"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_fusion(number: int) -> FusionExample:
    """Three answers of two words; the target is that of the one that is ``sure``.

    Which of the three that is, and which words there are, is drawn anew for every question.
    """
    rng = np.random.default_rng(number)
    marks = rng.permutation([TRUE, FALSE, FALSE])
    firsts, seconds = rng.choice(WORDS, 3, replace=False), rng.choice(WORDS, 3, replace=False)
    answers = [f"{a} {b}" for a, b in zip(firsts, seconds, strict=True)]
    candidates = tuple(f"{mark} : {text}" for mark, text in zip(marks, answers, strict=True))
    target = answers[list(marks).index(TRUE)]
    return FusionExample(f"q{number}", "which one ?", "", candidates, target)


def toy_fusions(train: int, dev: int) -> TrainingExamples[FusionExample]:
    """Examples of the toy task."""
    made = [toy_fusion(number) for number in range(train + dev)]
    return TrainingExamples(made[:train], made[train:], {}, "toy task")


def exact_matches(texts: list[str], examples: list[FusionExample]) -> float:
    """Share of texts that are the target."""
    pairs = zip(texts, examples, strict=True)
    return float(np.mean([text.strip() == example.target for text, example in pairs]))


def toy_tokenizer(special: tuple[str, ...], **roles: str) -> Any:
    """Byte-level BPE, trained on the prompts of the task."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    frame = (
        "Instruction: Input: Candidate 0 Candidate 1: Candidate 2 Candidate 3 user assistant "
        "Summarize candidates into a better one for the given instruction: Write one better "
        "answer from the candidates. State only what they support, leave out what is wrong, "
        "and reply with the answer alone."
    )
    examples = [toy_fusion(number) for number in range(300)]
    texts = [frame] * 300 + [" ".join((e.instruction, *e.candidates, e.target)) for e in examples]
    tokenizer.train_from_iterator(texts, trainer)
    others = [token for token in special if token not in roles.values()]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=others, **roles
    )


def save_t5(folder: Path, *, size: int = 32, **changes: Any) -> Path:
    """A random T5 with its tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    special = ("<pad>", "</s>", "<unk>", *(f"<extra_id_{i}>" for i in range(5)))
    roles = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = toy_tokenizer(special, **roles)
    fields = {
        "vocab_size": len(tokenizer),
        "d_model": size,
        "d_kv": size // 4,
        "d_ff": 2 * size,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(T5Config(**(fields | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_llama(folder: Path, **changes: Any) -> Path:
    """A random Llama with a tokenizer that has a chat template."""
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
    tokenizer = toy_tokenizer(special, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = CHAT_TEMPLATE
    fields = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "initializer_range": 0.2,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(fields | changes)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
