"""Commands of release control, which take shares as people write them: ``champion=90 challenger=10``, ``1%,5%,25%``."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from rayplat.cli import connection, render
from rayplat.cli.connection import Home, Json, Url
from rayplat.errors import InvalidInput

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_STEPS = "1%,5%,25%,50%,100%"

Sticky = Annotated[
    str,
    typer.Option(help="What keeps a caller on one side: request_id, entity, header:NAME, input:NAME, parameter:NAME."),
]


def release(
    model: str,
    clear: Annotated[bool, typer.Option("--clear", help="End split, canary and shadows.")] = False,
    overrides: Annotated[
        bool | None, typer.Option(help="Obey a tester's x-rayplat-target header, or refuse it.")
    ] = None,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Who answers a model's requests now, in which part, and how that goes."""
    with connection.errors(home):
        client = connection.platform(home, url).releases
        if clear:
            client.clear(model)
        if overrides is not None:
            client.overrides(model, overrides)
        render.show(client.get(model), as_json)


def split(
    model: str,
    shares: Annotated[list[str] | None, typer.Argument(help="TARGET=WEIGHT: aliases or versions.")] = None,
    sticky: Sticky = "request_id",
    salt: Annotated[
        str | None, typer.Option(help="Another salt is another draw: give each experiment its own.")
    ] = None,
    promotion: Annotated[str | None, typer.Option(help="The promotion whose A/B test this is.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="End the split.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Divide a model's requests between aliases or versions, each caller always to the same one."""
    with connection.errors(home):
        if bool(shares) == clear:
            raise InvalidInput("shares", "give TARGET=WEIGHT for each target, or --clear")
        weights = _weights(shares or [])
        _run(home, url, as_json, "split", model, weights, sticky, salt, promotion)


def shadow(
    model: str,
    target: Annotated[str, typer.Argument(help="An alias, or an exact version such as v7.")],
    sample: Annotated[float, typer.Option(help="Of all requests, 0 to 1.")] = 1.0,
    max_pending: Annotated[int, typer.Option(help="Copies that may wait; more are dropped and counted.")] = 1024,
    off: Annotated[bool, typer.Option("--off", help="End this shadow.")] = False,
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Send copies of a model's requests to another alias or version; nobody waits for its answers."""
    with connection.errors(home):
        _run(home, url, as_json, "shadow", model, target, 0.0 if off else sample, max_pending)


def canary(
    model: str,
    target: Annotated[str | None, typer.Argument(help="An alias, or an exact version such as v7.")] = None,
    steps: Annotated[
        str, typer.Option(help="Part of the requests, step by step: 5%,25%,100%, or 1/20,1/4,1/1.")
    ] = _STEPS,
    hold: Annotated[str, typer.Option(help="How long each step takes at least: 90s, 5m, 2h.")] = "5m",
    min_requests: Annotated[int, typer.Option(help="Requests that each step needs.")] = 100,
    max_error_rate: Annotated[float, typer.Option(help="Failing share, 0 to 1, beyond which it goes back.")] = 0.01,
    max_p99_ratio: Annotated[float, typer.Option(help="p99 over that of the rest; 0: not looked at.")] = 2.0,
    watch: Annotated[str, typer.Option(help="Kinds of signals that take it back, by comma.")] = "drift",
    sticky: Sticky = "request_id",
    pause: Annotated[bool, typer.Option("--pause", help="Stay at this step.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Take its share away now.")] = False,
    reason: Annotated[str, typer.Option(help="Why it is taken back.")] = "",
    home: Home = None,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Give another alias or version a growing share of a model's requests; it goes back by itself when it fails."""
    with connection.errors(home):
        chosen = [name for name, wanted in (("pause", pause), ("resume", resume), ("rollback", rollback)) if wanted]
        if len(chosen) + (target is not None) != 1:
            raise InvalidInput("canary", "name a target, or one of --pause, --resume and --rollback")
        if chosen:
            _run(home, url, as_json, chosen[0], model, *([reason] if rollback else []))
            return
        given = {
            "steps": _steps(steps),
            "hold_s": _seconds(hold),
            "min_requests": min_requests,
            "max_error_rate": max_error_rate,
            "max_p99_ratio": max_p99_ratio or None,
            "watch": tuple(filter(None, (kind.strip() for kind in watch.split(",")))),
            "sticky": sticky,
        }
        _run(home, url, as_json, "canary", model, target, **given)


def _run(home: Any, url: Any, as_json: bool, verb: str, *args: Any, **kwargs: Any) -> None:
    client = connection.platform(home, url).releases
    with connection.wait(f"serve {verb} …"):
        made = getattr(client, verb)(*args, **kwargs)
    render.show(made, as_json)


def _weights(shares: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for share in shares:
        target, equals, weight = share.partition("=")
        if not equals or target in weights:
            problem = "is named twice" if equals else "is no TARGET=WEIGHT, such as challenger=10"
            raise InvalidInput("shares", f"{share!r} {problem}")
        weights[target] = _number("shares", weight.removesuffix("%"))
    return weights


def _steps(text: str) -> tuple[float, ...]:
    """``5%`` and ``1/20`` say what they are. Bare numbers are percentages where nobody can take them for fractions:
    none is below 1, and one is above."""
    parts = [part.strip() for part in text.split(",")]
    bare = [_number("steps", part) for part in parts if not part.endswith("%") and "/" not in part]
    if bare and (min(bare) < 1 or max(bare) == 1):
        hint = "say 0.5% or 50%, or the fraction 1/2: a bare number could be a percentage or a fraction"
        raise InvalidInput("steps", f"{text!r} can be read in two ways: {hint}")
    return tuple(_step(part) for part in parts)


def _step(part: str) -> float:
    if "/" not in part:
        return _number("steps", part.removesuffix("%")) / 100
    above, _, below = part.partition("/")
    if _number("steps", below) <= 0:
        raise InvalidInput("steps", f"{part!r} is no fraction such as 1/20")
    return _number("steps", above) / _number("steps", below)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)\s*([smhd]?)", text.strip())
    if found is None:
        raise InvalidInput("hold", f"{text!r} is no time such as 90s, 5m or 2h")
    return _number("hold", found[1]) * _UNITS_S[found[2] or "s"]


def _number(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(field, f"{text!r} is no number") from None
