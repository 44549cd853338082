"""The Hugging Face transformers engine, as it runs inside its process."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from blender_med.errors import ExpertError
from blender_med.experts.base import Completion
from blender_med.experts.config import LAST_LAYER, ExpertConfig, Sampling, StateConfig
from blender_med.experts.drawing import SeededDraw
from blender_med.experts.engines import resolved_dtype
from blender_med.experts.pooling import pooled
from blender_med.experts.requests import (
    ChoiceRequest,
    EngineSpec,
    GenerateRequest,
    StateRequest,
    Tick,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_R = TypeVar("_R", GenerateRequest, ChoiceRequest, StateRequest)


class TransformersEngine:
    """``generate`` in batches sorted by length, behind the protocol of ``requests.Engine``."""

    def __init__(self, spec: EngineSpec) -> None:
        import torch
        from transformers import AutoTokenizer, GenerationConfig

        config = spec.config
        self._device = torch.device("cuda" if spec.cuda else "cpu")
        self._model = _load_model(spec).to(self._device).eval()
        own = self._model.generation_config
        # The model's own sampling settings must not mix with the recipe's.
        self._model.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id
        )
        source, commit = (
            (config.tokenizer, None) if config.tokenizer else (spec.model, spec.revision)
        )
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            source, revision=commit, trust_remote_code=config.trust_remote_code
        )
        self._stops = _stop_ids(own.eos_token_id, self._tokenizer.eos_token_id)
        self._adapters = {path: f"adapter{i}" for i, path in enumerate(spec.loras)}
        if spec.loras:
            self._model = _with_adapters(self._model, self._adapters)
        self._batch_size = config.batch_size
        self._states = spec.states

    def generate(
        self, requests: Sequence[GenerateRequest], sampling: Sampling, n: int, tick: Tick
    ) -> list[list[Completion]]:
        """Completions, [n_requests][n]; every sample has a random generator of its own."""
        rows: list[list[Completion]] = [[] for _ in requests]
        samples = [(i, k) for i in range(len(requests)) for k in range(n)]
        drawn = [replace(requests[i], seed=requests[i].seed + k) for i, k in samples]
        done: dict[int, Completion] = {}
        for positions in self._batches(drawn):
            batch = [drawn[p] for p in positions]
            done |= zip(positions, self._generate_batch(batch, sampling, tick), strict=True)
        for position, (i, _) in enumerate(samples):
            rows[i].append(done[position])
        return rows

    def _generate_batch(
        self, batch: Sequence[GenerateRequest], sampling: Sampling, tick: Tick
    ) -> list[Completion]:
        import torch
        from transformers import LogitsProcessorList

        ids, mask = self._left_padded([request.token_ids for request in batch])
        stops = self._stops.union(*(request.stop_token_ids for request in batch))
        draw = SeededDraw(sampling, [request.seed for request in batch], ids.shape[1], tick)
        arguments: dict[str, Any] = {"stop_strings": list(sampling.stop)} if sampling.stop else {}
        with torch.inference_mode(), self._adapter(batch[0].lora):
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=sampling.max_tokens,
                eos_token_id=sorted(stops),
                pad_token_id=self._pad,
                logits_processor=LogitsProcessorList([draw]),
                tokenizer=self._tokenizer,
                **arguments,
            )
        new = output[:, ids.shape[1] :].tolist()
        losses = draw.logprobs()
        return [
            self._completion(request, tokens, losses[row], sampling)
            for row, (request, tokens) in enumerate(zip(batch, new, strict=True))
        ]

    def _completion(
        self, request: GenerateRequest, tokens: list[int], losses: list[float], sampling: Sampling
    ) -> Completion:
        stops = self._stops.union(request.stop_token_ids)
        end = next((i + 1 for i, token in enumerate(tokens) if token in stops), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        cut = _cut_at_stop(text, sampling.stop)
        if end is None and cut is not None:
            # Behind the stop text the batch went on with padding.
            end = _length_until_stop(self._tokenizer, tokens, sampling.stop)
        reason = "length" if end is None and cut is None else "stop"
        tokens = tokens[:end]
        # As vLLM does, leave out a character whose bytes the limit cut in two.
        text = text.rstrip("\ufffd") if cut is None else cut
        loss = float(sum(losses[: len(tokens)]))
        return Completion(text, reason, len(request.token_ids), len(tokens), loss)

    def choice_logprobs(self, requests: Sequence[ChoiceRequest], tick: Tick) -> list[list[float]]:
        """Log-likelihoods, [n_requests][n_choices].

        Rows are padded on the right and masked by causality alone, so a row is computed as if
        it stood alone. Choices of one token share one pass of their prompt.
        """
        passes = [one for i, request in enumerate(requests) for one in _passes(i, request)]
        flat = [ChoiceRequest(tokens, targets, lora) for _, _, tokens, targets, lora in passes]
        rows = [[0.0] * len(request.choices) for request in requests]
        for positions in self._batches(flat):
            values = self._score_batch([flat[p] for p in positions])
            for p, own in zip(positions, values, strict=True):
                i, first, *_ = passes[p]
                rows[i][first : first + len(own)] = own
            tick()
        return rows

    def _score_batch(self, batch: Sequence[ChoiceRequest]) -> list[list[float]]:
        """Each row's ``choices`` are the wanted tokens of its last positions, one list a choice."""
        import torch

        inputs = [_model_input(request) for request in batch]
        ids = self._right_padded(inputs)
        wanted = [
            range(len(own) - len(_columns(request)), len(own))
            for own, request in zip(inputs, batch, strict=True)
        ]
        kept = sorted({position for own in wanted for position in own})
        with torch.inference_mode(), self._adapter(batch[0].lora):
            logits = self._logits(ids, kept)
        place = {position: column for column, position in enumerate(kept)}
        return [
            _summed(logits[row, [place[p] for p in own]].float(), request)
            for row, (own, request) in enumerate(zip(wanted, batch, strict=True))
        ]

    def hidden_states(
        self, requests: Sequence[StateRequest], tick: Tick
    ) -> list[NDArray[np.float32]]:
        """States, [slots, width] for each request; rows are padded and masked as for choices."""
        import torch

        done: dict[int, NDArray[np.float32]] = {}
        for positions in self._batches(requests):
            batch = [requests[p] for p in positions]
            ids = self._right_padded([request.token_ids for request in batch])
            with torch.inference_mode(), self._adapter(batch[0].lora):
                states = self._layer(ids)
            for p, request, row in zip(positions, batch, states, strict=True):
                own = row[: len(request.token_ids)].float()
                done[p] = pooled(own, _required(self._states)).cpu().numpy()
            tick()
        return [done[p] for p in range(len(requests))]

    def _layer(self, ids: torch.Tensor) -> torch.Tensor:
        """Hidden states of the layer that is asked for, [batch, tokens, width]."""
        layer = _required(self._states).layer
        whole = layer != LAST_LAYER
        output = self._base.base_model(ids, use_cache=False, output_hidden_states=whole)
        if not whole:
            last: torch.Tensor = output.last_hidden_state
            return last
        if not -len(output.hidden_states) <= layer < len(output.hidden_states):
            fix = f"set states.layer to 0 ... {len(output.hidden_states) - 1}, or -1 for the last"
            raise ExpertError("the model has no such layer", value=layer, fix=fix)
        chosen: torch.Tensor = output.hidden_states[layer]
        return chosen

    @property
    def _base(self) -> Any:
        """The causal language model without the wrapper of its adapters."""
        return self._model.get_base_model() if self._adapters else self._model

    def _logits(self, ids: torch.Tensor, kept: list[int]) -> torch.Tensor:
        """Logits at the positions ``kept``, [batch, len(kept), vocabulary]."""
        import torch

        positions = torch.tensor(kept, device=ids.device)
        if "logits_to_keep" in inspect.signature(self._base.forward).parameters:
            logits = self._model(ids, logits_to_keep=positions, use_cache=False).logits
        else:
            logits = self._model(ids, use_cache=False).logits[:, positions]
        return logits

    @property
    def _pad(self) -> int:
        return int(self._tokenizer.pad_token_id or min(self._stops, default=0))

    def _batches(self, requests: Sequence[_R]) -> Iterator[list[int]]:
        """Positions in batches: one adapter each, longest first, so that memory fails at once.

        And one set of tokens that end a text.
        """

        def adapter(position: int) -> tuple[str, tuple[int, ...]]:
            request = requests[position]
            return request.lora or "", getattr(request, "stop_token_ids", ())

        order = sorted(
            range(len(requests)), key=lambda p: (adapter(p), -len(requests[p].token_ids), p)
        )
        for _, group in groupby(order, key=adapter):
            own = list(group)
            for start in range(0, len(own), self._batch_size):
                yield own[start : start + self._batch_size]

    def _left_padded(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        width = max(map(len, rows))
        ids = [[self._pad] * (width - len(row)) + row for row in rows]
        mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _right_padded(self, rows: list[list[int]]) -> torch.Tensor:
        import torch

        width = max(map(len, rows))
        padded = [row + [self._pad] * (width - len(row)) for row in rows]
        return torch.tensor(padded, device=self._device)

    def _adapter(self, lora: str | None) -> AbstractContextManager[Any]:
        if not self._adapters:
            return nullcontext()
        if lora is None:
            context: AbstractContextManager[Any] = self._model.disable_adapter()
            return context
        self._model.set_adapter(self._adapters[lora])
        return nullcontext()


def _required(states: StateConfig | None) -> StateConfig:
    if states is None:
        raise ExpertError("the engine was not started for states", fix="load it with 'states'")
    return states


def _load_model(spec: EngineSpec) -> Any:
    from transformers import AutoModelForCausalLM

    config = spec.config
    if config.quantization == "int8_per_channel_weight_only":
        fix = "set 'engine: vllm', or remove 'quantization'"
        raise ExpertError(
            "transformers has no such quantisation", value=config.quantization, fix=fix
        )
    arguments: dict[str, Any] = {"quantization_config": _bitsandbytes(config)}
    # The keys of engine_options are from_pretrained's, such as attn_implementation.
    arguments |= config.engine_options
    return AutoModelForCausalLM.from_pretrained(
        spec.model,
        revision=spec.revision,
        dtype=_dtype(config, spec.cuda),
        trust_remote_code=config.trust_remote_code,
        use_safetensors=None if config.allow_pickle else True,
        **{key: value for key, value in arguments.items() if value is not None},
    )


def _dtype(config: ExpertConfig, cuda: bool) -> Any:
    import torch

    name = resolved_dtype(config, cuda=cuda)
    return name if name == "auto" else getattr(torch, name)


def _bitsandbytes(config: ExpertConfig) -> Any:
    if not (config.quantization or "").startswith("bitsandbytes"):
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _with_adapters(model: Any, adapters: dict[str, str]) -> Any:
    from peft import PeftModel

    (first, name), *others = adapters.items()
    wrapped = PeftModel.from_pretrained(model, first, adapter_name=name)
    for path, own in others:
        wrapped.load_adapter(path, adapter_name=own)
    return wrapped.eval()


def _stop_ids(*sources: int | list[int] | None) -> set[int]:
    ids: set[int] = set()
    for source in sources:
        ids |= set(source) if isinstance(source, list) else set() if source is None else {source}
    return ids


def _cut_at_stop(text: str, stops: Sequence[str]) -> str | None:
    """``text`` up to the first stop text, or None where it holds none."""
    found = [text.find(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else None


def _length_until_stop(tokenizer: Any, tokens: list[int], stops: Sequence[str]) -> int:
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if _cut_at_stop(tokenizer.decode(tokens[:middle], skip_special_tokens=True), stops) is None:
            low = middle + 1
        else:
            high = middle
    return low


_Pass = tuple[int, int, list[int], list[list[int]], "str | None"]


def _passes(index: int, request: ChoiceRequest) -> list[_Pass]:
    """Forward passes that score a request: (request, first choice, prompt, choices, adapter)."""
    if request.single_token:
        return [(index, 0, request.token_ids, request.choices, request.lora)]
    return [
        (index, k, request.token_ids, [choice], request.lora)
        for k, choice in enumerate(request.choices)
    ]


def _model_input(request: ChoiceRequest) -> list[int]:
    """Prompt, and of a longer choice all but its last token, which nothing is predicted from."""
    longest = max(request.choices, key=len)
    return request.token_ids + longest[:-1]


def _columns(request: ChoiceRequest) -> list[int]:
    """One entry for each position whose prediction is read."""
    return max(request.choices, key=len)


def _summed(logits: torch.Tensor, request: ChoiceRequest) -> list[float]:
    """Log-likelihood of each choice from the logits [positions, vocabulary] that predict it."""
    import torch

    table = torch.log_softmax(logits, dim=-1)
    return [
        float(sum(table[position, token] for position, token in enumerate(choice)))
        for choice in request.choices
    ]
