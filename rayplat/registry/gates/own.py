"""The gate of one's own: which function, of which source, decides. Running it is `rayplat.registry.gates.custom`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayplat.artifacts.manifest import check_digest
from rayplat.registry.gates.gate import EVALUATE, Case, Finding, Gate, require_param

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
LONGEST_S = 600.0


@dataclass(frozen=True)
class Custom:
    """``function`` is ``package.module:name``; ``digest`` the sha256 of that module's source file, so that the code
    that decides is as fixed as the policy. It has ``timeout_s`` seconds."""

    function: str
    digest: str
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        require_param("function", bool(_FUNCTION.fullmatch(self.function)), "'package.module:name' is needed")
        check_digest("params.digest", self.digest)
        require_param("timeout_s", 0 < self.timeout_s <= LONGEST_S, f"seconds above 0, at most {LONGEST_S:g}")


def _unrun(_: Custom, __: Case) -> Finding:
    return False, "its function has not been run on this evidence"


GATES = (Gate("custom", EVALUATE, Custom, _unrun),)
