"""Gates on what the evidence is about: the pinned holdout, its size, the features' parity."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rayplat.registry.gates.gate import EVALUATE, Case, Finding, Gate, is_count, require_param, seen

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class PinnedDataset:
    """``dataset``: the digest the evidence must be about; None accepts any pinned one."""

    dataset: str | None = None

    def __post_init__(self) -> None:
        fits = self.dataset is None or bool(_DIGEST.fullmatch(self.dataset))
        require_param("dataset", fits, f"{self.dataset!r} is no digest: 'sha256:' and 64 lower-case hex digits")


@dataclass(frozen=True)
class EnoughRows:
    min_rows: int = 1000

    def __post_init__(self) -> None:
        require_param("min_rows", self.min_rows >= 1, "at least 1")


@dataclass(frozen=True)
class FeatureParity:
    """``max_mismatch``: the largest share of logged vectors that may differ from the point-in-time join."""

    max_mismatch: float = 0.0
    min_vectors: int = 100

    def __post_init__(self) -> None:
        require_param("max_mismatch", 0 <= self.max_mismatch <= 1, "a share between 0 and 1")
        require_param("min_vectors", self.min_vectors >= 1, "at least 1")


def _pinned(params: PinnedDataset, case: Case) -> Finding:
    found = seen(case).dataset
    if not isinstance(found, str) or not _DIGEST.fullmatch(found):
        return False, f"{found!r} is not the digest of a data set"
    if params.dataset is not None and found != params.dataset:
        return False, f"evaluated on {found}, but the policy asks for exactly {params.dataset}"
    return True, f"evaluated on {found}"


def _rows(params: EnoughRows, case: Case) -> Finding:
    rows = seen(case).rows
    return is_count(rows) and rows >= params.min_rows, f"{rows} rows, at least {params.min_rows} are needed"


def _parity(params: FeatureParity, case: Case) -> Finding:
    parity = seen(case).parity
    if parity is None:
        return False, "no parity was measured: run `rayplat features parity` and hand its result in"
    if not is_count(parity.vectors, parity.mismatched) or parity.mismatched > parity.vectors:
        return False, f"{parity.mismatched!r} of {parity.vectors!r} vectors is no count"
    if parity.vectors < params.min_vectors:
        return False, f"{parity.vectors} vectors compared, at least {params.min_vectors} are needed"
    rate, most = parity.mismatched / parity.vectors, params.max_mismatch
    reason = f"{parity.mismatched} of {parity.vectors} feature vectors differ ({rate:.4%}), at most {most:.4%} may"
    return rate <= most, reason


GATES = (
    Gate("pinned_dataset", EVALUATE, PinnedDataset, _pinned),
    Gate("enough_rows", EVALUATE, EnoughRows, _rows),
    Gate("feature_parity", EVALUATE, FeatureParity, _parity),
)
