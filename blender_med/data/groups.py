"""Groups of rows that a split must keep together."""

from __future__ import annotations

from collections.abc import Sequence


def connected(ties: Sequence[Sequence[str]]) -> list[str]:
    """Connected components of rows that share a tie (union-find).

    Args:
        ties: For each row its ties, at least one; [n]. Rows with an equal tie belong together.

    Returns:
        For each row the name of its component: the first tie of its first row; [n]. The names
        depend on the order of the rows, the components do not.
    """
    parents: dict[str, str] = {}
    for row in ties:
        first = _root(parents, row[0])
        for tie in row[1:]:
            other = _root(parents, tie)
            if other != first:
                parents[other] = first
    names: dict[str, str] = {}
    roots = [_root(parents, row[0]) for row in ties]
    for root, row in zip(roots, ties, strict=True):
        names.setdefault(root, row[0])
    return [names[root] for root in roots]


def _root(parents: dict[str, str], tie: str) -> str:
    parents.setdefault(tie, tie)
    while parents[tie] != tie:
        parents[tie] = parents[parents[tie]]  # path halving keeps the trees flat
        tie = parents[tie]
    return tie
