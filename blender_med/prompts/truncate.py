"""Cut the middle out of a context so that the prompt fits the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

GAP = " [...] "
_SNAP = 24  # characters: a cut moves at most this far to end between words
_PRECISION = 256  # the search stops within 1/256 of the context's length


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that was made to fit.

    Attributes:
        text: The prompt, with as much of the context as fits.
        tokens: Length of ``text`` in tokens.
        truncated_tokens: Tokens of context that were cut; 0 where nothing was.
        fits: False when the prompt is too long even without any context; ``text`` is then the
            prompt without context.
    """

    text: str
    tokens: int
    truncated_tokens: int = 0
    fits: bool = True


def fit_context(
    render: Callable[[str], str], context: str, count: Callable[[str], int], budget: int
) -> Fitted:
    """Render the prompt with the longest context that fits, cut from the middle.

    Question and options are never touched. A prompt that fits costs one call of ``count``;
    one that does not costs about ten.

    Args:
        render: The prompt for a context.
        context: The whole context; an empty text when there is none.
        count: Length of a text in tokens.
        budget: Most tokens the prompt may have.
    """
    whole = render(context)
    tokens = count(whole)
    if tokens <= budget:
        return Fitted(whole, tokens)
    bare = render("")
    best = Fitted(bare, count(bare), tokens - count(bare))
    if best.tokens > budget or not context:
        return Fitted(bare, best.tokens, best.truncated_tokens, fits=best.tokens <= budget)
    return _longest(render, context, count, budget, tokens, best)


def _longest(
    render: Callable[[str], str],
    context: str,
    count: Callable[[str], int],
    budget: int,
    tokens: int,
    best: Fitted,
) -> Fitted:
    low, high = 0, len(context)
    keep = _share(context, budget - best.tokens, tokens - best.tokens)
    while high - low > max(1, high // _PRECISION):
        text = render(cut_middle(context, keep))
        length = count(text)
        if length <= budget:
            low, best = keep, Fitted(text, length, max(1, tokens - length))
        else:
            high = keep
        keep = (low + high) // 2
    return best


def _share(context: str, room: int, needed: int) -> int:
    """First guess of the characters that fit: proportional to the tokens, a little less."""
    return min(len(context) - 1, max(1, len(context) * room * 31 // (32 * max(1, needed))))


def cut_middle(context: str, keep: int) -> str:
    """Keep about ``keep`` characters of ``context``: its beginning and its end.

    The cuts move outwards to the nearest blank within a few characters, so at most ``keep``
    characters of the context stay. ``keep`` 0 gives an empty text.
    """
    if keep >= len(context):
        return context
    if keep <= 0:
        return ""
    head, tail = context[: (keep + 1) // 2], context[len(context) - keep // 2 :]
    return _snapped(head) + GAP + _snapped(tail[::-1])[::-1]


def _snapped(text: str) -> str:
    for back, character in enumerate(reversed(text[-_SNAP:])):
        if character.isspace():
            return text[: len(text) - back].rstrip()
    return text
