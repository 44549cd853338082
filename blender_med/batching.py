"""Batches of a bounded number of tokens with little padding."""

from __future__ import annotations

from collections.abc import Sequence


def token_budget_batches(
    lengths: Sequence[int], batch_tokens: int, max_rows: int | None = None
) -> list[list[int]]:
    """Indices grouped by similar length, longest first.

    Args:
        lengths: Tokens of each row, [n].
        batch_tokens: Most cells (rows times longest row) of a batch. A row longer than that
            stands alone.
        max_rows: Most rows of a batch; None: as many as fit.

    Returns:
        Batches of indices into ``lengths``; each index once. Equal lengths keep their order.
        No row gives no batch.

    Raises:
        ValueError: ``batch_tokens`` or ``max_rows`` is below 1.
    """
    if batch_tokens < 1 or (max_rows is not None and max_rows < 1):
        raise ValueError("a batch holds at least one token and one row")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if room == 0:
            batches.append([])
            room = max(1, batch_tokens // max(1, lengths[index]))
            room = room if max_rows is None else min(room, max_rows)
        batches[-1].append(index)
        room -= 1
    return batches
