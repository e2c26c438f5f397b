from __future__ import annotations

import json

import pytest
from rich.console import Console

from rayplat.cli import render
from rayplat.services.tokens import NewToken
from rayplat.types import Column, Endpoint, FeatureParity, ParityReport, Role, TableInfo, TableVersion, TokenInfo
from tests.api.fakes import NOW

SECRET = "rpt_" + "a" * 12 + "_" + "b" * 64
TOKEN = NewToken(TokenInfo("t1", "ada", Role.VIEWER, NOW, "owner"), SECRET)
TABLE = TableInfo("flights", (Column("carrier", "string"),), TableVersion("flights", "/x", "id", 3, "m", "s", 336_776))
ENDPOINT = Endpoint("m", "champion", "/v2/models/m", "http://h/v2/models/m", 2, 5, "running", {"r": 5})


def test_a_secret_is_never_broken_over_lines(capsys: pytest.CaptureFixture[str]) -> None:
    render.show(TOKEN, as_json=False)
    assert SECRET in capsys.readouterr().out


def test_rows_show_plain_values_and_those_of_a_nested_value(capsys: pytest.CaptureFixture[str]) -> None:
    render.show((TABLE,), as_json=False)
    out = capsys.readouterr().out
    assert "flights" in out
    assert "336776" in out
    render.show((ENDPOINT,), as_json=False)
    assert "champion" in capsys.readouterr().out


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    render.show((ENDPOINT,), as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["replicas"] == {"r": 5}


def test_markup_in_values_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    render.show({"name": "[red]x[/red]"}, as_json=False)
    assert "[red]x[/red]" in capsys.readouterr().out


def test_online_features_show_in_their_rows(capsys: pytest.CaptureFixture[str]) -> None:
    read = {"key": "a", "found": True, "status": {"sizes": "present"}, "features": {"size": 10.5}}
    render.show((read,), as_json=False)
    names, values = (line.split() for line in capsys.readouterr().out.splitlines())
    assert (names, values) == (["key", "found", "sizes", "size"], ["a", "yes", "present", "10.5"])


def test_parity_is_a_row_per_feature_and_a_sum(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "OUT", Console(width=200))
    example = {"key": "f2", "at": "2013-11-01T02:10:00+00:00", "online": 0.0, "offline": None}
    features = (
        FeatureParity("distance", 4, 0),
        FeatureParity("late", 4, 1, (example,)),
        FeatureParity("bags", 0, 0),
    )
    render.show(ParityReport("m", 2, 4, 1, 1e-9, features, ()), as_json=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines[1:4]] == ["late", "distance", "bags"]
    assert lines[1][1:4] == ["4", "1", "25.00%"]
    assert lines[2][1:] == ["4", "0", "0.00%"]
    assert " ".join(lines[-1]).startswith("1 of 4 vectors differ (25.00%; m version 2")
