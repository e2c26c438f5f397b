"""Requests to a remote platform: what goes wrong comes back as an error of our tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rayplat.errors import InvalidInput, RayplatError, Unavailable, by_code

if TYPE_CHECKING:
    import httpx


def request(http: httpx.Client, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """Send it; an HTTP error becomes the error of our tree that it describes."""
    with _reached(http):
        answer = http.request(method, path, **kwargs)
    if answer.status_code >= 400:
        raise _described(answer)
    return answer


def streamed(http: httpx.Client, path: str, params: dict[str, Any], chunk_bytes: int = 1 << 20) -> Iterator[bytes]:
    """The body of a ``GET``, piece by piece; errors as those of `request`."""
    with _reached(http), http.stream("GET", path, params=params) as answer:
        if answer.status_code >= 400:
            answer.read()
            raise _described(answer)
        yield from answer.iter_bytes(chunk_bytes)


@contextmanager
def _reached(http: httpx.Client) -> Iterator[None]:
    import httpx

    try:
        yield
    except httpx.TimeoutException as e:
        raise Unavailable("the platform", f"no answer from {http.base_url} within its time") from e
    except httpx.HTTPError as e:
        raise Unavailable("the platform", f"{http.base_url} cannot be reached ({e}); is it up?") from e
    except ValueError as e:
        raise InvalidInput("request", f"cannot be sent as JSON: {e}") from e


def _described(answer: httpx.Response) -> RayplatError:
    try:
        body = answer.json()
    except ValueError:
        body = {"error": answer.text[:300] or answer.reason_phrase}
    return by_code(body.get("code", ""), body.get("args", []), str(body.get("error")), answer.status_code)
