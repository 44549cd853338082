"""Rankers: models that order the candidate answers of a question. Light: none is loaded here."""

from __future__ import annotations

from blender_med.registry import Registry

RANKERS = Registry(
    "ranker",
    {
        "pairranker": "blender_med.rankers.pairranker:PairRanker",
        "simcls": "blender_med.rankers.simcls:SimCLS",
        "summareranker": "blender_med.rankers.summareranker:SummaReranker",
        "mlm": "blender_med.rankers.mlm:MLMScorer",
        "reward": "blender_med.rankers.reward:RewardRanker",
        "bm25": "blender_med.rankers.similarity:BM25Ranker",
        "embedding": "blender_med.rankers.similarity:EmbeddingRanker",
        "mean": "blender_med.rankers.mean:MeanRanker",
    },
)
