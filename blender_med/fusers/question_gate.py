"""A gate that says from the question alone which experts will answer it best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blender_med.errors import DataError
from blender_med.store.files import atomic_path, write_json

Floats = NDArray[np.float64]

MODEL_TYPE = "question_gate"
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
# Strengths of the penalty among which leave-one-out validation chooses.
_PENALTIES = np.logspace(-3, 3, 13)
_LEAST_QUESTIONS = 20
_LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class QuestionGate:
    """A dense gate: softmax of a linear layer on the embedding of a question.

    A logit is the score that the expert is expected to have on the question above the mean of all
    experts, in units of ``deviation``.

    Attributes:
        experts: Their names, [n].
        question_encoder: Model of the embeddings.
        label: Metric that the scores are values of.
        weight: [n, width].
        bias: [n].
        deviation: Standard deviation of what the gate does not foresee of a score, by
            leave-one-out.
    """

    experts: tuple[str, ...]
    question_encoder: str
    label: str
    weight: Floats
    bias: Floats
    deviation: float

    def expected(self, questions: Floats) -> Floats:
        """Expected scores above the mean of the experts, [questions, n].

        Args:
            questions: Embeddings, [questions, width].

        Raises:
            DataError: They have another width.
        """
        if questions.shape[1] != self.weight.shape[1]:
            problem = f"the gate reads embeddings of {self.weight.shape[1]} numbers"
            fix = f"use the encoder that it was trained with, {self.question_encoder}"
            raise DataError(problem, value=questions.shape[1], fix=fix)
        found: Floats = questions @ self.weight.T + self.bias
        return found

    def weights(self, questions: Floats) -> Floats:
        """Weights of the experts, each row sums to 1, [questions, n]; higher is better."""
        logits = self.expected(questions) / self.deviation
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Floats = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration and weights.

        Raises:
            StoreError: The folder is not writable.
        """
        from safetensors.numpy import save_file

        tree = {
            "model_type": MODEL_TYPE,
            "experts": list(self.experts),
            "question_encoder": self.question_encoder,
            "label": self.label,
            "deviation": self.deviation,
        }
        path = Path(folder)
        write_json(path / _CONFIG, tree)
        # The library writes the bytes of an array in the order in which they lie in memory.
        whole = {"weight": self.weight, "bias": self.bias}
        with atomic_path(path / _WEIGHTS) as file:
            save_file({k: np.ascontiguousarray(v) for k, v in whole.items()}, file)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> QuestionGate:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            DataError: The folder holds no such gate, or a damaged one.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = Path(folder).expanduser()
        try:
            tree = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
            weights = load_file(path / _WEIGHTS)
            gate = cls(
                tuple(tree["experts"]), tree["question_encoder"], tree["label"],
                weights["weight"], weights["bias"], float(tree["deviation"]),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            fix = "name the folder of a router that stage train-router has written"
            raise DataError("no gate can be read here", file=path, fix=fix) from error
        if gate.weight.shape[0] != len(gate.experts) or gate.bias.shape != (len(gate.experts),):
            fix = "train it again"
            raise DataError("the gate's weights do not fit its experts", file=path, fix=fix)
        return gate


def is_question_gate(folder: str | Path) -> bool:
    """Whether a folder holds a :class:`QuestionGate`, by its configuration."""
    try:
        tree = json.loads((Path(folder).expanduser() / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and tree.get("model_type") == MODEL_TYPE


def fit_question_gate(
    questions: Floats,
    scores: Floats,
    experts: Sequence[str],
    *,
    question_encoder: str,
    label: str,
) -> QuestionGate:
    """Fit a gate by ridge regression of the experts' scores on the embeddings.

    The strength of the penalty is the one with the smallest leave-one-out error, the same for all
    experts; with a strong one every question goes to the experts that are best on average.

    Args:
        questions: Embeddings, [questions, width].
        scores: Higher is better, [questions, n]; a question that lacks one is left out.
        experts: Their names, [n].
        question_encoder: Model of the embeddings.
        label: Metric that the scores are values of.

    Raises:
        DataError: One expert alone, or fewer than 20 questions with all scores.
    """
    if len(experts) < 2:
        raise DataError("a gate needs at least two experts to choose from", fix="add an expert")
    whole = ~np.isnan(scores).any(axis=1)
    if whole.sum() < _LEAST_QUESTIONS:
        problem = f"only {int(whole.sum())} train questions have a score of every expert"
        fix = f"give at least {_LEAST_QUESTIONS}, or train on experts that answer them all"
        raise DataError(problem, fix=fix)
    from sklearn.linear_model import RidgeCV

    vectors, own = questions[whole].astype(np.float64), scores[whole]
    wanted = own - own.mean(axis=1, keepdims=True)
    fitted = RidgeCV(alphas=_PENALTIES).fit(vectors, wanted)
    # Of predictions for questions left out in turn: on those learned from it would be too small.
    deviation = max(float(np.sqrt(-fitted.best_score_)), _LEAST_DEVIATION)
    return QuestionGate(
        tuple(experts), question_encoder, label, fitted.coef_, fitted.intercept_, deviation
    )
