"""Retrieval: features to ranked lists to the numbers that papers print."""

from reid_core.retrieval.metrics import rank_metrics
from reid_core.retrieval.protocols import Result, evaluate, top_matches

__all__ = ["Result", "evaluate", "rank_metrics", "top_matches"]
