"""The online store: its rows, reading them for a request, and bringing them up to date."""

from rayplat.data.online.read import EXPIRED, FUTURE, MISSING, PRESENT, OnlineFeatures, OnlineRows

__all__ = ["EXPIRED", "FUTURE", "MISSING", "PRESENT", "OnlineFeatures", "OnlineRows"]
