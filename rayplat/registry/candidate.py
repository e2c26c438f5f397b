"""What is handed in to be registered, and the rules it must meet. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rayplat.artifacts.manifest import check_digest
from rayplat.errors import InvalidInput
from rayplat.types import TableVersion, check_name

LONGEST_AUTHOR = 255  # no principal's name is longer


@dataclass(frozen=True)
class Candidate:
    """A model version before it has a number. ``digest`` is the bundle's tree, ``pins`` what its data was read from,
    ``baseline`` the digest of the profile that later windows are compared with, ``format`` how the bundle is loaded;
    the other digests and ``run_author`` are told at `ModelVersion`."""

    model: str
    digest: str
    run_id: str
    training_set: str
    pins: tuple[TableVersion, ...]
    metrics: dict[str, float]
    baseline: str | None = None
    format: str = ""
    code_digest: str | None = None
    env_digest: str | None = None
    payload_digest: str | None = None
    statement: str | None = None
    run_author: str = ""

    def check(self) -> None:
        """Nothing, or `InvalidInput` naming the field and the rule."""
        check_name("model", self.model)
        check_digest("digest", self.digest)
        for field in ("baseline", "code_digest", "env_digest", "payload_digest", "statement"):
            if getattr(self, field) is not None:
                check_digest(field, getattr(self, field))
        if self.format != "":
            check_name("format", self.format)
        for field in ("run_id", "training_set"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise InvalidInput(field, "a non-empty string is needed")
        if not isinstance(self.run_author, str) or len(self.run_author) > LONGEST_AUTHOR:
            raise InvalidInput("run_author", f"a string of at most {LONGEST_AUTHOR} characters is needed")
        if not all(isinstance(pin, TableVersion) for pin in self.pins):
            raise InvalidInput("pins", "every pin is a TableVersion")
        for name, value in self.metrics.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InvalidInput("metrics", f"{name!r} is {value!r}, a finite number is needed")
