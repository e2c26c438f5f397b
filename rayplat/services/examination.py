"""The platform's own part in a promotion: the bundle is verified and custom gates are run, and the record is told.

What it finds is written in the platform's name. Each step is left out where it has been done, so this can be repeated.
"""

from __future__ import annotations

from rayplat.registry import documents, release_schemas, verification
from rayplat.registry.gates import custom
from rayplat.registry.promotion import OPEN
from rayplat.registry.record import artifacts, promotions, versions
from rayplat.registry.record.promotion_rows import PLATFORM
from rayplat.services.verbs import Context
from rayplat.types import Principal, PrincipalKind, Promotion, Role, Verdict

_SCHEMA = "schema_compatible"
_PLATFORM = Principal(PLATFORM, Role.ADMIN, PrincipalKind.SERVICE)


def examine(context: Context, asked: Promotion, again: bool = False) -> Promotion:
    """``asked`` as far as what the platform finds carries it. A closed promotion is left as it is.

    ``again``: the bundle is verified also where it has been. Raises `Unavailable` where the artifact store does not
    answer: the promotion stays, and the call can be repeated."""
    if asked.state not in OPEN:
        return asked
    if again or asked.verification is None:
        asked = _verified(context, asked)
    if asked.evidence is not None:
        _keep_report(context, asked)
    return _with_custom_gates(context, asked)


def check_release(context: Context, asked: Promotion) -> None:
    """Raises `SchemaMismatch` where the schema gate would not pass any more, because of a release that began since.
    Who waived that gate has seen to it."""
    passed = any(r.gate.partition("#")[0] == _SCHEMA and r.verdict is Verdict.PASS for r in asked.gates)
    if passed and asked.state in OPEN:
        release_schemas.check_move(context.registry, context.artifacts, asked.model, asked.alias, asked.version)


def _verified(context: Context, asked: Promotion) -> Promotion:
    found = verification.verify_promotion(context.registry, context.artifacts, context.settings, asked)
    return context.registry.write(promotions.record_verification, asked.promotion_id, found, by=_PLATFORM)


def _keep_report(context: Context, asked: Promotion) -> None:
    """The evidence as an artifact of the run that made the version: its address is the digest that approvals bind."""
    report = context.artifacts.put_bytes(documents.text(asked.evidence).encode(), "report")
    run_id = context.registry.read(versions.get, asked.model, asked.version).run_id
    context.registry.write(artifacts.add, report, run_id, by=_PLATFORM)


def _with_custom_gates(context: Context, asked: Promotion) -> Promotion:
    specs = asked.policy.gates if asked.policy is not None else ()
    decided = any(result.stage == "evaluate" for result in asked.gates)
    if asked.state not in OPEN or asked.evidence is None or asked.custom_results or decided:
        return asked
    results = custom.run(specs, asked.evidence)
    if not results:
        return asked
    seen = documents.digest(asked.evidence)
    return context.registry.write(promotions.record_custom_results, asked.promotion_id, results, seen, by=_PLATFORM)
