"""An expert of the run as the model of a fuser, through its own engine and cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from hashlib import sha256
from typing import Any

from blender_med.errors import ConfigError
from blender_med.experts.base import Prompt
from blender_med.experts.cached import Answered, CachedExpert, cache_identity
from blender_med.experts.config import ExpertConfig, Sampling
from blender_med.experts.engines import engine_choice, on_cuda, resolved_dtype
from blender_med.experts.loading import load_expert
from blender_med.fusers.applied import WritingFuser
from blender_med.fusers.base import Advance, Generation
from blender_med.fusers.config import Decoding
from blender_med.fusers.prompts import (
    CANDIDATE_MAXLENGTH,
    MAX_LENGTH,
    ChatLayout,
    FusionPrompt,
    Layout,
    PromptFormatter,
    Wording,
)
from blender_med.fusers.servers import MessagesLayout, WordTokenizer
from blender_med.prompts.marks import SERVER_MARKS
from blender_med.store.cache import GenerationCache

_WITHOUT_TOKENIZER = ("openai", "fake")
_TOKENS_PER_WORD = 2  # at most, in prose


@contextmanager
def asked_expert(
    config: ExpertConfig, *, cache: bool, verbose: bool = False
) -> Iterator[CachedExpert]:
    """The expert, ready to be asked; its engine stops at the end.

    Args:
        config: Its recipe.
        cache: Whether answers are kept in, and taken from, the generation cache.
        verbose: Let the engine's own log through.
    """
    expert = load_expert(config, verbose=verbose)
    engine, _ = engine_choice(config)
    identity = cache_identity(expert, engine, resolved_dtype(config, cuda=on_cuda()))
    kept = closing(GenerationCache(identity)) if cache else nullcontext()
    try:
        with kept as opened:
            yield CachedExpert(expert, opened)
    finally:
        expert.close()


class ExpertEngine:
    """Runs the prompts of a fuser on an expert.

    Args:
        expert: The expert.
        stop_token_ids: Tokens that end a text beside those that its model names.
    """

    def __init__(self, expert: CachedExpert, stop_token_ids: Sequence[int] = ()) -> None:
        self._expert, self._stops = expert, tuple(stop_token_ids)

    def generate(
        self,
        prompts: Sequence[FusionPrompt],
        decoding: Decoding,
        *,
        advance: Advance | None = None,
    ) -> list[Generation]:
        """One text for each prompt, in their order; ``advance(n)`` reports n prompts done."""
        if not prompts:
            return []
        asked = [
            Prompt(
                p.text,
                len(p.ids),
                p.truncated_tokens,
                add_special_tokens=False,
                stop_token_ids=self._stops,
            )
            for p in prompts
        ]
        seeds = [_seed(decoding.seed, p.text) for p in prompts]
        settings = sampling_of(decoding, self._expert.expert.config)
        answers = self._expert.generate(asked, settings, n=1, seeds=seeds)
        if advance is not None:
            advance(len(prompts))
        return [_generation(answer) for answer in answers]


def _generation(answer: Answered) -> Generation:
    [made] = answer.completions
    return Generation(made.text.strip(), made.completion_tokens, made.finish_reason, answer.seconds)


def _seed(seed: int, prompt: str) -> int:
    """Depends on the seed and the prompt alone, not on what else is asked."""
    digest = sha256(f"{seed}|{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def sampling_of(decoding: Decoding, expert: ExpertConfig) -> Sampling:
    """Sampling settings: what the fuser's recipe names, then the expert's own, then defaults."""
    names = {
        "temperature": "temperature",
        "top_p": "top_p",
        "sample_top_k": "top_k",
        "repetition_penalty": "repetition_penalty",
        "max_new_tokens": "max_tokens",
    }
    named = {own: getattr(decoding, name) for name, own in names.items()}
    chosen = {own: named[own] for name, own in names.items() if name in decoding.model_fields_set}
    return Sampling.model_validate(named | expert.sampling | chosen)


def expert_formatter(
    config: ExpertConfig, fuser: WritingFuser, wording: Wording, key: str
) -> PromptFormatter:
    """Makes the prompts of a fuser for an expert; loads its tokenizer where it has one here.

    For a server the words are counted, two tokens each.

    Args:
        config: The expert.
        fuser: Lengths and decoding.
        wording: The turns.
        key: Of the fuser in its recipe, for messages.

    Raises:
        ConfigError: The answer leaves no room for a prompt.
        ExpertError: The tokenizer cannot be loaded.
    """
    tokenizer, layout = _words(config, wording)
    room = prompt_room(config, fuser, key)
    if config.engine in _WITHOUT_TOKENIZER:
        room //= _TOKENS_PER_WORD
    return PromptFormatter(
        tokenizer,
        layout,
        min(fuser.max_length or MAX_LENGTH, room),
        fuser.candidate_maxlength or CANDIDATE_MAXLENGTH,
        SERVER_MARKS if config.engine in _WITHOUT_TOKENIZER else None,
    )


def _words(config: ExpertConfig, wording: Wording) -> tuple[Any, Layout]:
    if config.engine == "openai" and config.chat is not False:
        return WordTokenizer(), MessagesLayout(wording)
    if config.engine in _WITHOUT_TOKENIZER:
        tokenizer: Any = WordTokenizer()
    else:
        from blender_med.experts.local import load_tokenizer

        tokenizer = load_tokenizer(config)
    return tokenizer, ChatLayout(tokenizer, wording)


def prompt_room(config: ExpertConfig, fuser: WritingFuser, key: str) -> int:
    """Tokens that the answer of an expert leaves for the prompt.

    Raises:
        ConfigError: There are none.
    """
    longest = sampling_of(fuser.decoding, config).max_tokens
    if longest >= config.max_model_len:
        problem = f"no room for a prompt in the {config.max_model_len} tokens of '{config.name}'"
        fix = "lower it, or raise the expert's max_model_len"
        raise ConfigError(problem, key=f"{key}.decoding.max_new_tokens", value=longest, fix=fix)
    return config.max_model_len - longest
