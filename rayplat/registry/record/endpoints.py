"""Operations on endpoints: how each served (model, alias) is served. Hosts and the pool are made from it.

One model at most is the default one, which answers at the root: to make another it takes that from the first.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy import Connection

from rayplat.errors import Conflict, Forbidden, InvalidInput, NotFound
from rayplat.identity import require
from rayplat.registry import documents, endpoint_rules, release_rules
from rayplat.registry.record import aliases, audit, policies, release_rows, rows, versions
from rayplat.registry.record.database import Tx
from rayplat.registry.record.schema import endpoint as table
from rayplat.types import EndpointSpec, Principal, Role


def put(tx: Tx, spec: EndpointSpec, *, by: Principal) -> EndpointSpec:
    """Serve ``spec.alias`` of ``spec.model`` like that from now on. The same again changes nothing.

    Needs a developer; an approver where it makes predictions public. Raises `InvalidInput` naming the field, and what
    `check_target` does.
    """
    require(by, Role.DEVELOPER)
    endpoint_rules.check(spec)
    said, subject = documents.plain(spec), f"{spec.model}@{spec.alias}"
    if audit.replayed(tx, "endpoint.put", subject, spec=said) is not None:
        return get(tx.connection, spec.model, spec.alias)
    check_target(tx.connection, spec)
    before = find(tx.connection, spec.model, spec.alias)
    if before == spec:
        return before
    if spec.public and not (before is not None and before.public) and not by.role.includes(Role.APPROVER):
        raise Forbidden(by.name, "to let anybody predict without a token (public) needs the role approver")
    if spec.default:
        _take_default(tx, spec, by)
    _write(tx, spec, before, by)
    return spec


def delete(tx: Tx, model: str, alias: str, *, by: Principal) -> EndpointSpec:
    """Stop serving an alias; returns how it was served. Needs a developer, an approver where the alias is protected.

    Raises `NotFound` where it is not served.
    """
    require(by, Role.DEVELOPER)
    subject = f"{model}@{alias}"
    if (earlier := audit.replayed(tx, "endpoint.delete", subject)) is not None:
        return documents.build(EndpointSpec, earlier.detail["before"], "stored endpoint")
    before = get(tx.connection, model, alias)
    is_alias = endpoint_rules.version_of(alias) is None
    if is_alias and not by.role.includes(Role.APPROVER) and policies.find(tx.connection, model, alias).protected:
        raise Forbidden(by.name, f"{subject} is protected: to stop serving it needs the role approver")
    tx.connection.execute(sa.delete(table).where(_of(model, alias)))
    tx.wrote(table, {"model": model, "alias": alias})
    audit.append(tx, by.name, "endpoint.delete", subject, {"before": documents.plain(before)})
    return before


def find(connection: Connection, model: str, alias: str) -> EndpointSpec | None:
    """How an alias is served; None where it is not."""
    text = connection.scalar(sa.select(table.c.spec).where(_of(model, alias)))
    return None if text is None else _parsed(text)


def get(connection: Connection, model: str, alias: str) -> EndpointSpec:
    """How an alias is served. Raises `NotFound`."""
    found = find(connection, model, alias)
    if found is None:
        raise NotFound("endpoint", f"{model}/{alias}", f"serve it with `rayplat serve create {model} {alias}`")
    return found


def listed(connection: Connection) -> list[EndpointSpec]:
    """Every served alias, by model and alias."""
    wanted = sa.select(table.c.spec).order_by(table.c.model, table.c.alias)
    return [_parsed(text) for text in connection.scalars(wanted)]


def check_target(connection: Connection, spec: EndpointSpec) -> None:
    """Raises `NotFound` for an alias or version that does not exist, `Conflict` for a version that was retired, and for
    a default alias that would go into the pool while a release divides or copies its requests: pooled models have
    none."""
    number = endpoint_rules.version_of(spec.alias)
    if number is None:
        aliases.get(connection, spec.model, spec.alias)
        _check_release(connection, spec)
        return
    versions.usable(connection, spec.model, number)
    if spec.default:
        raise InvalidInput("endpoint.default", "an exact version cannot be the default: name an alias")


def _check_release(connection: Connection, spec: EndpointSpec) -> None:
    if spec.placement != "pooled" or spec.alias != release_rules.PRIMARY:
        return
    before, release = find(connection, spec.model, spec.alias), release_rows.in_force(connection, spec.model)
    reached = release_rules.reached(release)
    if reached and (before is None or before.placement != "pooled"):
        raise Conflict(
            f"{spec.model}@{spec.alias} cannot go into the pool: its release sends requests to "
            f"{', '.join(reached)}, and the pool knows no splits, "
            f"shadows or canaries; end it first with `rayplat serve release {spec.model} --clear`"
        )


def _write(tx: Tx, spec: EndpointSpec, before: EndpointSpec | None, by: Principal) -> None:
    columns = {"spec": documents.text(spec), "set_by": by.name, "at": rows.to_us(tx.at)}
    key = {"model": spec.model, "alias": spec.alias}
    if before is None:
        tx.connection.execute(sa.insert(table).values(**key, **columns))
    else:
        tx.connection.execute(sa.update(table).where(_of(spec.model, spec.alias)).values(**columns))
    tx.wrote(table, {**key, **columns})
    detail = {"spec": documents.plain(spec), "before": None if before is None else documents.plain(before)}
    audit.append(tx, by.name, "endpoint.put", f"{spec.model}@{spec.alias}", detail)


def _take_default(tx: Tx, spec: EndpointSpec, by: Principal) -> None:
    for other in listed(tx.connection):
        if other.default and (other.model, other.alias) != (spec.model, spec.alias):
            _write(tx, replace(other, default=False), other, by)


def _of(model: str, alias: str) -> sa.ColumnElement[bool]:
    return (table.c.model == model) & (table.c.alias == alias)


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> EndpointSpec:
    return documents.parse(EndpointSpec, text, "stored endpoint")
