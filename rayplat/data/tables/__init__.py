"""Versioned Delta tables: the only owner of Delta Lake."""

from rayplat.data.tables.tables import At, Tables, Transaction

__all__ = ["At", "Tables", "Transaction"]
