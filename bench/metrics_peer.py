"""The peers' side of bench/metrics.py; runs in the peers' own environment.

bert-score's own ``BERTScorer``, and the loop of BARTScore's scorer: batches of four in the order
given, padded to their longest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from peer import serve

BATCH = 4


class BartScore:
    """The scorer of neulab/BARTScore, reduced to ``score``."""

    def __init__(self, model: str, max_length: int) -> None:
        from transformers import BartForConditionalGeneration, BartTokenizer

        self.tokenizer = BartTokenizer.from_pretrained(model)
        self.model: Any = BartForConditionalGeneration.from_pretrained(model).eval()
        self.max_length = max_length
        self.loss = torch.nn.NLLLoss(reduction="none", ignore_index=self.model.config.pad_token_id)
        self.log_softmax = torch.nn.LogSoftmax(dim=1)

    def __call__(self, sources: list[str], targets: list[str]) -> dict[str, list[float]]:
        scores: list[float] = []
        for start in range(0, len(sources), BATCH):
            batch = slice(start, start + BATCH)
            scores += self.batch(sources[batch], targets[batch])
        return {"score": scores}

    def batch(self, sources: list[str], targets: list[str]) -> list[float]:
        with torch.no_grad():
            source, target = self.encoded(sources), self.encoded(targets)
            output = self.model(
                input_ids=source["input_ids"],
                attention_mask=source["attention_mask"],
                labels=target["input_ids"],
            )
            logits = output.logits.view(-1, self.model.config.vocab_size)
            loss = self.loss(self.log_softmax(logits), target["input_ids"].view(-1))
            loss = loss.view(target["input_ids"].shape[0], -1)
            loss = loss.sum(dim=1) / target["attention_mask"].sum(dim=1)
        return [-value.item() for value in loss]

    def encoded(self, texts: list[str]) -> Any:
        return self.tokenizer(
            texts, max_length=self.max_length, truncation=True, padding=True, return_tensors="pt"
        )


class BertScore:
    """bert-score with its own defaults: batches of 64, no baseline."""

    def __init__(self, model: str, num_layers: int) -> None:
        from bert_score import BERTScorer

        self.scorer = BERTScorer(model_type=model, num_layers=num_layers)

    def __call__(self, sources: list[str], targets: list[str]) -> dict[str, list[float]]:
        found = self.scorer.score(sources, targets)
        names = ("precision", "recall", "f1")
        return {name: values.tolist() for name, values in zip(names, found, strict=True)}


Score = Callable[[list[str], list[str]], dict[str, list[float]]]
KINDS: dict[str, Callable[..., Score]] = {"bartscore": BartScore, "bertscore": BertScore}


def respond(requests: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    loaded: dict[str, Score] = {}
    for request in requests:
        if "load" in request:
            loaded[request["load"]] = KINDS[request["load"]](**request["settings"])
            yield {"ready": request["load"]}
            continue
        started = time.perf_counter()
        values = loaded[request["metric"]](request["sources"], request["targets"])
        yield {"seconds": time.perf_counter() - started, "values": values}


if __name__ == "__main__":
    serve(respond)
