"""What rankers do to texts before they are tokenised."""

from __future__ import annotations

import re
from collections.abc import Iterable


def neutralise(text: str, tokens: Iterable[str]) -> str:
    """``text`` with every special token of ``tokens`` replaced by a space.

    llm-blender does so for the separator only; a ``<|candidate|>`` in an answer made it fail.
    """
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True) if token)
    return re.sub(pattern, " ", text) if pattern else text
