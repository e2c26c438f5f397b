"""Versioned Delta tables: the only owner of Delta Lake."""

from rayplat.data.tables.log import At, Transaction
from rayplat.data.tables.tables import Tables

__all__ = ["At", "Tables", "Transaction"]
