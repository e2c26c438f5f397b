"""Which requests are logged: by a hash of their id, so that everybody who knows the id agrees. Pure.

The log of a primary and of its shadows therefore hold the same requests, whatever process wrote them.
"""

from __future__ import annotations

from rayplat.errors import InvalidInput
from rayplat.serve.routing import split

SALT = "log"


class Sample:
    """A sample of ``share`` (0 to 1) of all requests. A larger share holds every request of a smaller one."""

    def __init__(self, share: float, salt: str = SALT) -> None:
        if not 0 <= share <= 1:
            raise InvalidInput("log.sample", f"{share} is no share between 0 and 1")
        self._all = share == 1
        self._below, self._salt = split.threshold(share), salt

    def holds(self, request_id: str) -> bool:
        """Whether a request is in it."""
        return self._all or split.position(self._salt, request_id) < self._below
