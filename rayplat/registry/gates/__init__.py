"""Gates: pure functions over evidence, closed by default. `custom` alone runs something, and is imported by itself."""

from rayplat.registry.gates.catalog import BUILT_IN, check, labelled, of_stage, parse
from rayplat.registry.gates.decide import decide, passed, waivable
from rayplat.registry.gates.gate import STAGES, Case, Gate

__all__ = [
    "BUILT_IN",
    "STAGES",
    "Case",
    "Gate",
    "check",
    "decide",
    "labelled",
    "of_stage",
    "parse",
    "passed",
    "waivable",
]
