"""All nouns, in the order of the documentation."""

from __future__ import annotations

from rayplat.services.aliases import Aliases
from rayplat.services.artifacts import Artifacts
from rayplat.services.audit import Audit
from rayplat.services.endpoints import Endpoints
from rayplat.services.features import Features
from rayplat.services.lineage import Lineage
from rayplat.services.models import Models
from rayplat.services.monitors import Monitors
from rayplat.services.owners import Owners
from rayplat.services.policies import Policies
from rayplat.services.promotions import Promotions
from rayplat.services.releases import Releases
from rayplat.services.runs import Runs
from rayplat.services.scoring import Scoring
from rayplat.services.status import Status
from rayplat.services.tables import Tables
from rayplat.services.tokens import Tokens
from rayplat.services.verbs import Noun
from rayplat.services.verdicts import Verdicts
from rayplat.services.waivers import Waivers
from rayplat.services.webhooks import Webhooks

NOUNS: tuple[type[Noun], ...] = (
    Tables,
    Features,
    Runs,
    Artifacts,
    Models,
    Aliases,
    Policies,
    Promotions,
    Waivers,
    Audit,
    Lineage,
    Endpoints,
    Releases,
    Verdicts,
    Scoring,
    Monitors,
    Owners,
    Webhooks,
    Tokens,
    Status,
)
