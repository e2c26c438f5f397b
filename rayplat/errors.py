"""Every error the platform raises on purpose, in one tree.

::

    RayplatError                    500
    ├── BadRequest                  400   the request cannot be understood at all
    │   └── UnsupportedMediaType    415   a content type or encoding that is not taken here
    ├── InvalidInput                422   a value breaks a rule: which field, which rule
    │   ├── InvalidName             422   a name outside the permitted alphabet
    │   └── SchemaMismatch          422   columns or dtypes differ from what the table declares
    ├── BadRows                     422   rows that break the checks of a table: which rules, how many, examples
    ├── Unauthenticated             401   no token, or one that is not known
    ├── Forbidden                   403   the token's role, or a rule, does not allow it
    │   ├── NeedsWaiver             403   a model whose loading runs code from its files
    │   └── NotTrusted              403   a signed statement that does not hold for what it is shown for
    ├── NotFound                    404   a thing named in the request does not exist
    ├── TooLarge                    413   a body over the limit
    ├── Conflict                    409   the state does not allow it (any more)
    │   ├── AlreadyExists           409
    │   └── StaleGeneration         409   the alias moved between reading and writing
    ├── Corrupt                     500   stored bytes do not match their digest
    ├── Unavailable                 503   retryable: a part is down or overloaded
    │   ├── StillRunning            503   work that goes on; the same call again waits for its end
    │   └── Unschedulable           503   the cluster lacks the resources that were asked for
    ├── Overloaded                  429   retryable: more is asked than can be answered in time
    ├── DeadlineExceeded            504   retryable: no answer within the time that was left
    └── PartFailed                  500   a part of the platform, or a model, failed

An error's ``args`` are its constructor arguments and its text is built in ``__str__``: that way it
crosses an actor call, a pickle and the HTTP API (``code`` + ``args``) as the same class.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RayplatError(Exception):
    """Base of all errors of the platform. ``http_status`` and ``retryable`` belong to the class."""

    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    @property
    def code(self) -> str:
        return type(self).__name__


class BadRequest(RayplatError):
    """``BadRequest(reason)``: malformed JSON, wrong content type, a missing body."""

    http_status = 400

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class UnsupportedMediaType(BadRequest):
    """``UnsupportedMediaType(reason)``: which one it is, and which are taken."""

    http_status = 415


class InvalidInput(RayplatError):
    """``InvalidInput(field, reason)``: ``field`` names what is wrong, ``reason`` says what is expected."""

    http_status = 422

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class InvalidName(InvalidInput):
    """``InvalidName(field, reason)``: a name that breaks the rule for its kind."""


class SchemaMismatch(InvalidInput):
    """``SchemaMismatch(field, reason)``: data that does not fit the declared columns."""


class BadRows(RayplatError):
    """``BadRows(what, rows, violations)``: a batch of ``rows`` rows that was not written. Each violation is an object
    with ``rule``, ``column``, ``count``, ``rows`` (positions in the batch, where known) and ``samples`` (values of at
    most 5 of the rows)."""

    http_status = 422

    def __init__(self, what: str, rows: int, violations: list[dict[str, Any]]) -> None:
        super().__init__(what, rows, violations)
        self.what, self.rows, self.violations = what, rows, violations

    def __str__(self) -> str:
        rules = "; ".join(
            f"{v['count']} of {self.rows} rows break {v['rule']!r} of {v['column']}"
            + (f", such as {_short(v['samples'][0])}" if v["samples"] else "")
            for v in self.violations
        )
        return f"{self.what}: {rules}; nothing was written"


class Unauthenticated(RayplatError):
    """``Unauthenticated(reason)``: no token or an unknown one (the answer never says which token)."""

    http_status = 401

    def __init__(self, reason: str = "a platform token is needed: send 'Authorization: Bearer <token>'") -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Forbidden(RayplatError):
    """``Forbidden(who, reason)``: the rule that stands against it."""

    http_status = 403

    def __init__(self, who: str, reason: str) -> None:
        super().__init__(who, reason)
        self.who, self.reason = who, reason

    def __str__(self) -> str:
        return f"{self.who} may not do this: {self.reason}"


class NeedsWaiver(Forbidden):
    """``NeedsWaiver(digest, file, reason)``: loading ``file`` of the tree ``digest`` would run code that it brings."""

    def __init__(self, digest: str, file: str, reason: str) -> None:
        RayplatError.__init__(self, digest, file, reason)
        self.who, self.digest, self.file, self.reason = f"model {digest}", digest, file, reason

    def __str__(self) -> str:
        return (
            f"{self.digest} was not loaded: {self.file}: {self.reason}. Save it in a format that is only data, or ask "
            f"an approver who did not make it for: rayplat waiver create {self.digest} --reason '...'"
        )


class NotTrusted(Forbidden):
    """``NotTrusted(what, reason)``: a signature or statement, and the rule that it breaks."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is not trusted: {self.reason}"


class NotFound(RayplatError):
    """``NotFound(kind, name, hint)``: ``kind`` is the noun (table, model, alias, …)."""

    http_status = 404

    def __init__(self, kind: str, name: str, hint: str = "") -> None:
        super().__init__(kind, name, hint)
        self.kind, self.name, self.hint = kind, name, hint

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} does not exist" + (f"; {self.hint}" if self.hint else "")


class TooLarge(RayplatError):
    """``TooLarge(what, size, limit, unit)``: more than is accepted; nothing of it was used."""

    http_status = 413

    def __init__(self, what: str, size: int, limit: int, unit: str = "bytes") -> None:
        super().__init__(what, size, limit, unit)
        self.what, self.size, self.limit, self.unit = what, size, limit, unit

    def __str__(self) -> str:
        return f"{self.what} has {self.size} {self.unit}, the limit is {self.limit}"


class Conflict(RayplatError):
    """``Conflict(reason)``: the present state does not allow the change."""

    http_status = 409

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class AlreadyExists(Conflict):
    """``AlreadyExists(reason)``."""


class StaleGeneration(Conflict):
    """``StaleGeneration(reason)``: read the alias again and decide anew."""


class Corrupt(RayplatError):
    """``Corrupt(what, expected, actual)``: digests that do not match; nothing was loaded."""

    def __init__(self, what: str, expected: str, actual: str) -> None:
        super().__init__(what, expected, actual)
        self.what, self.expected, self.actual = what, expected, actual

    def __str__(self) -> str:
        return f"{self.what} is damaged: expected {self.expected}, found {self.actual}; it was not used"


class Unavailable(RayplatError):
    """``Unavailable(what, reason)``: try again, or see ``rayplat status``."""

    http_status = 503
    retryable = True

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(what, reason)
        self.what, self.reason = what, reason

    def __str__(self) -> str:
        return f"{self.what} is not available: {self.reason}"


class StillRunning(Unavailable):
    """``StillRunning(what)``: it outlasts one HTTP request and goes on. The same call again waits for its end."""

    def __init__(self, what: str) -> None:
        RayplatError.__init__(self, what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is still running: send the same request again to wait for its end"


class Unschedulable(Unavailable):
    """``Unschedulable(what, reason)``: ``reason`` gives demand, free resources and their holders."""


class Overloaded(RayplatError):
    """``Overloaded(what, reason, retry_after_s)``: refused at once rather than kept waiting; try again later."""

    http_status = 429
    retryable = True

    def __init__(self, what: str, reason: str, retry_after_s: float = 1.0) -> None:
        super().__init__(what, reason, retry_after_s)
        self.what, self.reason, self.retry_after_s = what, reason, retry_after_s

    def __str__(self) -> str:
        return f"{self.what} is overloaded: {self.reason}"


class DeadlineExceeded(RayplatError):
    """``DeadlineExceeded(what, timeout_s)``: the answer was not there in the time that the request had."""

    http_status = 504
    retryable = True

    def __init__(self, what: str, timeout_s: float) -> None:
        super().__init__(what, timeout_s)
        self.what, self.timeout_s = what, timeout_s

    def __str__(self) -> str:
        return f"{self.what} did not answer within {self.timeout_s:g} s"


class PartFailed(RayplatError):
    """``PartFailed(part, reason)``: a part of the platform, or a model in it, that failed, and why."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(part, reason)
        self.part, self.reason = part, reason

    def __str__(self) -> str:
        return f"{self.part} failed: {self.reason}"


def by_code(code: str, args: list[Any], message: str, status: int) -> RayplatError:
    """The error that an HTTP answer describes: the class named ``code`` rebuilt from its ``args``."""
    found = _CODES.get(code)
    if found is not None:
        try:
            return found(*args)
        except TypeError:  # a server of another version: keep its text
            return Conflict(message) if status == 409 else BadRequest(message)
    return Unavailable("the platform", message) if status >= 500 else BadRequest(message)


def _short(sample: dict[str, Any]) -> str:
    text = ", ".join(f"{name}={value}" for name, value in sample.items())
    return text if len(text) <= 200 else text[:199] + "…"


def _tree(cls: type[RayplatError]) -> dict[str, type[RayplatError]]:
    found = {cls.__name__: cls}
    for sub in cls.__subclasses__():
        found |= _tree(sub)
    return found


_CODES = _tree(RayplatError)
