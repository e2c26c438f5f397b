from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayplat.settings import Settings
from tests.serve.staging import Stage, set_up


@pytest.fixture
def stage(ray_cluster: str, settings: Settings) -> Iterator[Stage]:
    with set_up(settings) as made:
        yield made
