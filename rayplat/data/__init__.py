"""Data: Delta tables, features as of a moment, the feature store."""
