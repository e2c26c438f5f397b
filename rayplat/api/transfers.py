"""Bytes of artifacts over HTTP. Uploads come in parts, so each request is short, and a broken transfer goes on.

Parts are collected (`rayplat.services.spool`) and handed to the artifact store, which hashes them, with the last one.
A download is one stream, from where the receiver's file ends; the receiver checks the digest.
"""

from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from rayplat.errors import BadRequest
from rayplat.services.artifacts import Artifacts, Transfer
from rayplat.services.verbs import Context
from rayplat.types import Role

PATH = "/transfers/"
TYPE = "application/octet-stream"
Contexts = Callable[[Role], Callable[..., Context]]


def register(router: APIRouter, context_for: Contexts) -> None:
    """``GET``, ``PUT`` and ``GET …/bytes`` below `PATH`, for one object each."""
    reader, sender = Depends(context_for(Role.VIEWER)), Depends(context_for(Role.DEVELOPER))

    @router.get(PATH + "{digest}", tags=["artifacts"], summary="How much of an object has been sent")
    def progress(digest: str, context: Annotated[Any, sender]) -> Transfer:
        """Needs the role `developer`."""
        return Artifacts(context).progress(digest)

    @router.put(PATH + "{digest}", tags=["artifacts"], summary="Send a part of an object, at the end of what is there")
    def send(
        digest: str,
        context: Annotated[Any, sender],
        part: Annotated[bytes, Depends(_part)],
        offset: Annotated[int, Query()],
        size: Annotated[int, Query()],
    ) -> Transfer:
        """``size`` is of the whole object; a part has at most 8 MiB. Needs the role `developer`."""
        return Artifacts(context).receive(digest, offset, size, part)

    @router.get(PATH + "{digest}/bytes", tags=["artifacts"], summary="The bytes of an object")
    def fetch(
        digest: str, context: Annotated[Any, reader], offset: Annotated[int, Query(ge=0)] = 0
    ) -> StreamingResponse:
        """From ``offset`` on; whoever reads them checks their digest. Needs the role `viewer`."""
        chunks = Artifacts(context).chunks(digest, offset)
        first = next(chunks, b"")  # an object that is not there is told before the answer begins
        return StreamingResponse(chain((first,), chunks), media_type=TYPE)


async def _part(request: Request) -> bytes:
    if request.headers.get("content-type", "") != TYPE:
        raise BadRequest("send the part as it is, with Content-Type: " + TYPE)
    return await request.body()
