"""The command ``rayplat``."""
