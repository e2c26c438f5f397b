"""Scoring a whole table with a registered model: pinned, by serving's own model code, parts committed once."""

from rayplat.serve.batch_scoring.job import Backends, Workers, score
from rayplat.serve.batch_scoring.plan import Plan, ScoreRequest

__all__ = ["Backends", "Plan", "ScoreRequest", "Workers", "score"]
