"""The online store: its rows, reading them for a request, bringing them up to date, pushing fresh events."""

from rayplat.data.online.read import OnlineFeatures, OnlineRows
from rayplat.data.online.states import EXPIRED, FUTURE, MISSING, PRESENT, UNKEPT
from rayplat.data.online.store import OnlineStore, open_store

__all__ = [
    "EXPIRED",
    "FUTURE",
    "MISSING",
    "PRESENT",
    "UNKEPT",
    "OnlineFeatures",
    "OnlineRows",
    "OnlineStore",
    "open_store",
]
