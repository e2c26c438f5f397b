"""All nouns, in the order of the documentation."""

from __future__ import annotations

from rayplat.services.endpoints import Endpoints
from rayplat.services.features import Features
from rayplat.services.models import Models
from rayplat.services.monitors import Monitors
from rayplat.services.promotions import Promotions
from rayplat.services.runs import Runs
from rayplat.services.status import Status
from rayplat.services.tables import Tables
from rayplat.services.tokens import Tokens
from rayplat.services.verbs import Noun

NOUNS: tuple[type[Noun], ...] = (Tables, Features, Runs, Models, Promotions, Endpoints, Monitors, Tokens, Status)
