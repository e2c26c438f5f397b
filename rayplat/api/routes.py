"""Turn marked verbs into FastAPI routes: path and query parameters from the signature, bodies as strict objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Response
from pydantic import ConfigDict, TypeAdapter, create_model

from rayplat.api.ongoing import Ongoing
from rayplat.services.verbs import Context, Noun, Verb, verbs
from rayplat.types import Role

Contexts = Callable[[Role], Callable[..., Context]]


def register(router: APIRouter, nouns: list[type[Noun]], context_for: Contexts) -> None:
    """One route per verb. ``context_for(role)`` is a dependency that checks the caller and yields the context."""
    ongoing = Ongoing()
    for noun in nouns:
        for verb in verbs(noun):
            router.add_api_route(
                verb.route.path,
                _endpoint(noun, verb, context_for, ongoing),
                methods=[verb.route.method],
                operation_id=f"{noun.NAME}_{verb.name}",
                name=f"{noun.NAME}.{verb.name}",
                tags=[noun.NAME],
                summary=verb.doc.partition("\n")[0].replace("`", ""),
                description=f"{verb.doc}\n\nNeeds the role `{verb.route.role}`.",
                response_model=verb.signature.return_annotation,
            )


def _endpoint(noun: type[Noun], verb: Verb, context_for: Contexts, ongoing: Ongoing) -> Callable[..., Response]:
    parameters = [p for p in verb.signature.parameters.values() if p.name != "self"]
    answer: TypeAdapter[Any] = TypeAdapter(verb.signature.return_annotation)
    body_names = [p.name for p in parameters if verb.route.has_body and p.name not in verb.route.path_params]

    def endpoint(**given: Any) -> Response:
        context = given.pop("_context")
        body = given.pop("_body", None)
        if body is not None:
            given |= {name: getattr(body, name) for name in body_names}
        call = getattr(noun(context), verb.name)
        if verb.route.long:
            what = f"{noun.NAME} {verb.name}"
            key = repr((what, context.principal.name, sorted(given.items())))
            result = ongoing.run(key, what, lambda: call(**given))
        else:
            result = call(**given)
        return Response(answer.dump_json(result), media_type="application/json")

    exposed = [
        inspect.Parameter(p.name, p.KEYWORD_ONLY, annotation=p.annotation)
        if p.name in verb.route.path_params
        else inspect.Parameter(
            p.name,
            p.KEYWORD_ONLY,
            annotation=Annotated[p.annotation, Query()],
            default=p.default,
        )
        for p in parameters
        if p.name not in body_names
    ]
    if body_names:
        fields: Any = {
            p.name: (p.annotation, ... if p.default is p.empty else p.default)
            for p in parameters
            if p.name in body_names
        }
        model = create_model(
            f"{noun.NAME.title()}{verb.name.title()}",
            __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
            **fields,
        )
        optional = all(default is not ... for _, default in fields.values())
        exposed.append(
            inspect.Parameter(
                "_body",
                inspect.Parameter.KEYWORD_ONLY,
                annotation=Annotated[model, Body()],
                default=model() if optional else inspect.Parameter.empty,
            )
        )
    exposed.append(
        inspect.Parameter(
            "_context",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[Context, Depends(context_for(verb.route.role))],
        )
    )
    endpoint.__signature__ = inspect.Signature(exposed)  # type: ignore[attr-defined]
    endpoint.__name__ = f"{noun.NAME}_{verb.name}"
    return endpoint
