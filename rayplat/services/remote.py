"""The nouns over HTTP: the same classes, each verb replaced by a request to its route."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError

from rayplat.errors import StillRunning, Unavailable
from rayplat.services.artifacts import Artifacts
from rayplat.services.http import request
from rayplat.services.transfer import RemoteArtifacts
from rayplat.services.verbs import Noun, Verb, verbs

if TYPE_CHECKING:
    import httpx


# Nouns with methods that are no verbs, and need requests of their own.
OVER_HTTP: dict[type[Noun], type[Noun]] = {Artifacts: RemoteArtifacts}


def remote(noun: type[Noun], http: httpx.Client) -> Any:
    """An object with the verbs of ``noun`` that speaks HTTP; it returns and raises what the local one does."""
    methods = {verb.name: _method(verb, http) for verb in verbs(noun)}
    base = OVER_HTTP.get(noun, noun)
    return type(f"Remote{noun.__name__}", (base,), {"__init__": lambda self: None, "_http": http, **methods})()


def _method(verb: Verb, http: httpx.Client) -> Callable[..., Any]:
    @functools.cache
    def types() -> tuple[TypeAdapter[Any], dict[str, TypeAdapter[Any]]]:
        """Of the result and of each parameter. Made at the first call: those of all verbs take half a second."""
        given = {p.name: TypeAdapter(p.annotation) for p in verb.signature.parameters.values() if p.name != "self"}
        return TypeAdapter(verb.signature.return_annotation), given

    def method(*args: Any, **kwargs: Any) -> Any:
        result, parameters = types()
        bound = verb.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {
            name: parameters[name].dump_python(value, mode="json", warnings=False)
            for name, value in bound.arguments.items()
            if name != "self"
        }
        path = verb.route.path
        for name in verb.route.path_params:
            path = path.replace(f"{{{name}}}", quote(str(given.pop(name)), safe=""))
        if verb.route.has_body:
            answer = _ended(http, verb.route.method, path, json=given)
        else:
            answer = _ended(http, verb.route.method, path, params={k: v for k, v in given.items() if v is not None})
        try:
            return result.validate_json(answer.content)
        except ValidationError as e:
            raise Unavailable(
                "the platform", f"its answer to {path} does not fit this client: {e.errors()[0]['msg']}"
            ) from e

    method.__name__, method.__doc__ = verb.name, verb.doc
    setattr(method, "__signature__", verb.signature)  # noqa: B010 - what help() and notebooks show
    return method


def _ended(http: httpx.Client, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """The answer of a verb, asked for again as long as its work goes on."""
    while True:
        try:
            return request(http, method, path, **kwargs)
        except StillRunning:
            continue  # the platform made us wait for it already
