"""Layers of the embedding fuser: project each expert's states, combine them, score options."""

from __future__ import annotations

import torch
from torch import nn

from blender_med.errors import DataError
from blender_med.fusers.embedding_config import Mode

_FEED_FORWARD = 4  # width of a feed-forward layer in widths of the model
_CONSTANT = 1e-6  # a feature that varies less is left unscaled


class ExpertProjection(nn.Module):
    """One expert's states [..., expert_width], standardised by feature, in the common width.

    The hidden states of language models have a few features that are hundreds of times larger
    than the rest; without the scaling nothing else would be seen.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, expert_width: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(expert_width))
        self.register_buffer("deviation", torch.ones(expert_width))
        self.linear = nn.Linear(expert_width, width)

    @torch.no_grad()
    def standardise(self, states: torch.Tensor) -> None:
        """Take mean and deviation of each feature from training states [..., expert_width]."""
        rows = states.flatten(0, -2).double()
        deviation = rows.std(dim=0, correction=0)
        self.mean.copy_(rows.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > _CONSTANT, deviation, 1.0))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Projected states, [..., width]."""
        scaled = (states.to(self.mean.dtype) - self.mean) / self.deviation
        projected: torch.Tensor = self.linear(scaled)
        return projected


class SlotTransformer(nn.Module):
    """Self-attention over the slots of the chosen experts, with embeddings of expert and slot."""

    def __init__(
        self, n: int, slots: int, width: int, *, layers: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(n, 1, width) * 0.02)
        self.slots = nn.Parameter(torch.randn(slots, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, _FEED_FORWARD * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )

    def forward(self, projected: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """States [rows, n, slots, width] that have seen those of the other chosen experts.

        Args:
            projected: [rows, n, slots, width].
            chosen: Experts that take part, at least one in each row, [rows, n], bool.
        """
        marked = projected + self.experts + self.slots
        absent = ~chosen.repeat_interleave(projected.shape[2], dim=1)
        mixed = self.encoder(marked.flatten(1, 2), src_key_padding_mask=absent)
        return mixed.view_as(projected)


class Refinement(nn.Module):
    """A residual feed-forward layer behind the weighted sum."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _FEED_FORWARD * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(_FEED_FORWARD * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, fused: torch.Tensor) -> torch.Tensor:
        """States of the same shape [..., width]."""
        return fused + self.layers(fused)


class Combination(nn.Module):
    """The three steps of fusing: weighted sum, with a refining layer, with a transformer."""

    def __init__(
        self, mode: Mode, n: int, slots: int, width: int,
        *, layers: int, heads: int, dropout: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.mixer = None
        self.refinement = Refinement(width, dropout) if mode == "refined" else None
        if mode == "transformer":
            self.mixer = SlotTransformer(
                n, slots, width, layers=layers, heads=heads, dropout=dropout
            )

    def forward(
        self, projected: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """Fused slots, [rows, slots, width].

        Args:
            projected: [rows, n, slots, width]; what experts that are not chosen have there has
                no influence.
            weights: [rows, n]; 0 for experts that are not chosen.
            chosen: [rows, n], bool.
        """
        if self.mixer is not None:
            projected = self.mixer(projected, chosen)
        fused = torch.einsum("rn,rnsw->rsw", weights, projected)
        return fused if self.refinement is None else self.refinement(fused)


class ChoiceHead(nn.Module):
    """One score per option from its fused slots; higher is better."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1)

    def forward(self, fused: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
        """Scores by question, [questions, most options]; -inf where a question has fewer.

        Args:
            fused: Slots of each option, [options, slots, width].
            owners: Question of each option in ascending order, [options].
        """
        scores = self.score(self.dropout(fused.mean(dim=1)))[:, 0].float()
        sizes = owners.bincount()
        place = torch.arange(len(owners), device=owners.device)
        place = place - (sizes.cumsum(dim=0) - sizes)[owners]
        table = scores.new_full((len(sizes), int(sizes.max())), -torch.inf)
        return table.index_put((owners, place), scores)


def check_owners(owners: torch.Tensor, rows: int) -> None:
    """Check the question of each row: ascending from 0, none left out.

    Raises:
        DataError: It is not so, or there is no row.
    """
    steps = owners.diff()
    is_whole = (
        len(owners) == rows > 0 and owners[0] == 0 and bool(((steps == 0) | (steps == 1)).all())
    )
    if not is_whole:
        problem = f"{rows} rows of states do not belong to questions 0, 1, 2, ... in order"
        fix = "give one owner for each row, ascending, with at least one row for every question"
        raise DataError(problem, value=owners.tolist(), fix=fix)


def check_states(name: str, states: torch.Tensor, shape: tuple[int, int, int]) -> None:
    """Check the shape of the states of one expert.

    Args:
        name: Of the expert.
        states: What was given.
        shape: (rows, slots, width) that they must have.

    Raises:
        DataError: They have another.
    """
    if tuple(states.shape) != shape:
        problem = (
            f"states of expert '{name}' have another shape than (rows, slots, width) = {shape}"
        )
        fix = "embed the texts with the experts and slots that the fuser was trained with"
        raise DataError(problem, value=tuple(states.shape), fix=fix)


def check_finite(name: str, states: torch.Tensor) -> None:
    """Check that the states of an expert are numbers.

    Raises:
        DataError: One of them is NaN or infinite.
    """
    if not bool(states.isfinite().all()):
        fix = (
            "embed again with dtype: float32 (float16 ends at 65,504); behind a stage route, with"
            " the fuser that routes"
        )
        raise DataError(f"states of expert '{name}' are not finite, or missing", fix=fix)
