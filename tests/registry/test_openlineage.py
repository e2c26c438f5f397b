"""Events for lineage servers: each validates, pairs begin and end, and the same happening gives the same run."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from rayplat.errors import InvalidInput, Unavailable
from rayplat.registry.lineage_server import Sender
from rayplat.registry.local import LocalRegistry
from rayplat.registry.openlineage import FACET_SCHEMA, Events, to_json
from rayplat.registry.record import aliases, decisions, happenings, lineage, policies, promotions, versions
from rayplat.settings import LineageSettings
from rayplat.types import AliasPolicy, Edge, Evidence, Node, NodeKind, RunInfo, parse_node
from rayplat.types.lineage import table_node, training_set_node
from tests.registry.desk import ALIAS, ANN, BOB, HOLDOUT, MODEL, PIN, ROOT, Desk, candidate

FREE = "canary"
URI = {"type": "string", "format": "uri", "pattern": "^[a-z][a-z0-9+.-]*:"}
FACETS = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["_producer", "_schemaURL"],
        "properties": {"_producer": URI, "_schemaURL": URI},
    },
}
NAMED = {"type": "object", "required": ["namespace", "name"], "properties": {"facets": FACETS}}
# What specification 2-0-2 asks of a RunEvent, and of the facets that are used here.
RUN_EVENT = {
    "type": "object",
    "required": ["eventType", "eventTime", "producer", "schemaURL", "run", "job"],
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"},
        "producer": URI,
        "schemaURL": URI,
        "run": {
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "format": "uuid"}, "facets": FACETS},
        },
        "job": NAMED,
        "inputs": {"type": "array", "items": NAMED},
        "outputs": {"type": "array", "items": NAMED},
    },
    "additionalProperties": False,
}
OF_FACET = {
    "version": {"required": ["datasetVersion"], "properties": {"datasetVersion": {"type": "string"}}},
    "schema": {
        "properties": {
            "fields": {
                "items": {
                    "required": ["name"],
                    "properties": {"ordinal_position": {"type": "integer", "minimum": 1}, "type": {"type": "string"}},
                }
            }
        }
    },
    "dataSource": {"properties": {"name": {"type": "string"}, "uri": URI}},
    "jobType": {"required": ["processingType", "integration"]},
    "parent": {"required": ["run", "job"], "properties": {"run": {"required": ["runId"]}, "job": NAMED}},
    "errorMessage": {"required": ["message", "programmingLanguage"]},
    "test": {
        "required": ["tests"],
        "properties": {
            "tests": {
                "items": {
                    "required": ["name", "status"],
                    "properties": {
                        "status": {"enum": ["pass", "fail", "skip"]},
                        "severity": {"enum": ["error", "warn"]},
                    },
                }
            }
        },
    },
}


def own_schema() -> dict[str, Any]:
    """The schema of our own facet, as the documentation prints it."""
    page = (Path(__file__).parents[2] / "docs" / "lineage.md").read_text()
    found: dict[str, Any] = json.loads(page.split("```json\n")[1].split("```")[0])
    return found


def validated(event: Any) -> dict[str, Any]:
    """The event as it is sent, after every check."""
    sent: dict[str, Any] = json.loads(to_json(event))
    check = FormatChecker(["uuid"])
    Draft202012Validator(RUN_EVENT, format_checker=check).validate(sent)
    facets = [*sent["run"].get("facets", {}).items(), *sent["job"].get("facets", {}).items()]
    facets += [one for d in [*sent["inputs"], *sent["outputs"]] for one in d.get("facets", {}).items()]
    for name, facet in facets:
        schema = own_schema() if name == "rayplat_model" else OF_FACET[name]
        Draft202012Validator(schema).validate({name: facet} if name == "rayplat_model" else facet)
    return sent


def told(desk: Desk, after: int = 0) -> list[dict[str, Any]]:
    """All events after an entry of the audit log, validated."""
    events = Events("test", columns=lambda v: [("distance", "numeric")])
    return [validated(e) for one in desk.read(happenings.after, after) for e in events.of(one)]


def short(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(e["eventType"], e["job"]["name"]) for e in events]


def named(datasets: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(d["namespace"], d["name"], d["facets"]["version"]["datasetVersion"]) for d in datasets]


def point(desk: Desk, version: int) -> None:
    """Move a free alias."""
    desk.write(policies.set, AliasPolicy(MODEL, FREE, False, ()), by=ROOT)
    desk.write(aliases.set, MODEL, FREE, version, by=ANN)


# --- events -----------------------------------------------------------------------------------------


def test_a_registration_tells_of_builds_training_and_the_version(either: Desk) -> None:
    facts = {"uri": "s3://lake/features/schedule", "columns": [["flight", "string"]], "at": "2026-01-02T03:04:05+00:00"}
    table, data = "table:feature_schedule@id-9/4", training_set_node("sha256:" + "c" * 64)
    legs = replace(PIN, table="legs", uri="/lake/legs")
    edges = [Edge(table_node(legs), table, lineage.SOURCE_OF), Edge(table, data, lineage.PINNED_BY)]
    edges.append(Edge("table:training_set_x@id-8/0", data, lineage.HOLDS))
    nodes = [replace(parse_node(table), facts=facts), Node(data, NodeKind.TRAINING_SET, "", facts={"name": "x"})]
    either.write(lineage.add, edges, nodes, by=ANN)
    made = replace(candidate(7), pins=(legs,), training_set="sha256:" + "c" * 64)
    either.write(versions.register, made, by=ANN)
    events = told(either)[-8:]
    jobs = ["features/feature_schedule", "training_set/x", f"train/{MODEL}", f"register/{MODEL}"]
    assert short(events) == [(kind, job) for job in jobs for kind in ("START", "COMPLETE")]
    build, joined, trained, registered = events[1], events[3], events[5], events[7]
    assert build["eventTime"] == facts["at"]
    assert named(build["inputs"]) == [("file", "/lake/legs", "3")]
    assert build["inputs"][0]["facets"]["dataSource"]["uri"] == "file:///lake/legs"
    assert named(build["outputs"]) == [("s3://lake", "features/schedule", "4")]
    assert build["outputs"][0]["facets"]["schema"]["fields"] == [
        {"name": "flight", "type": "string", "ordinal_position": 1}
    ]
    assert ("file", "training_set_x", "0") in named(joined["outputs"])
    assert {d["name"] for d in joined["inputs"]} == {"/lake/legs", "features/schedule"}
    assert trained["run"]["runId"] == str(uuid.UUID(made.run_id))
    assert trained["inputs"][0]["name"] == f"training_sets/{made.training_set}"
    assert trained["outputs"][0]["name"] == registered["inputs"][0]["name"] == f"artifacts/{made.digest}"
    assert registered["run"]["facets"]["parent"]["run"]["runId"] == trained["run"]["runId"]
    [model] = registered["outputs"]
    assert named([model]) == [("test", f"models/{MODEL}", "4")]
    about = model["facets"]["rayplat_model"]
    assert (about["digest"], about["run"], about["author"], about["version"]) == (made.digest, made.run_id, "ann", 4)
    assert about["metrics"] == made.metrics
    assert about["_schemaURL"] == FACET_SCHEMA
    assert model["facets"]["schema"]["fields"][0]["name"] == "distance"


def test_a_tracked_run_gives_its_own_times(desk: Desk) -> None:
    run = f"{8:032x}"
    desk.change(
        "insert into runs (run_uuid, name, status, start_time, end_time, lifecycle_stage) "
        f"values ('{run}', 'r', 'FINISHED', 1000, 61000, 'active')"
    )
    desk.write(versions.register, replace(candidate(8), run_id=run), by=ANN)
    started, ended = (e for e in told(desk)[-6:] if e["job"]["name"] == f"train/{MODEL}")
    assert (started["eventTime"], ended["eventTime"]) == ("1970-01-01T00:00:01+00:00", "1970-01-01T00:01:01+00:00")


def test_a_move_ends_what_was_served_before(either: Desk) -> None:
    point(either, 1)
    point(either, 2)
    events = told(either)[-7:]
    names = [f"{job}/{MODEL}@{FREE}" for job in ("alias", "serve")]
    assert (
        short(events)
        == [
            ("START", names[0]),
            ("COMPLETE", names[0]),
            ("START", names[1]),
            ("COMPLETE", names[1]),
            ("START", names[0]),
            ("COMPLETE", names[0]),
            ("START", names[1]),
        ][-8:]
        or len(events) == 8
    )
    serving = [e for e in events if e["job"]["name"] == names[1]]
    assert serving[0]["run"] == serving[1]["run"]
    assert serving[1]["run"]["runId"] != serving[2]["run"]["runId"]
    assert serving[0]["job"]["facets"]["jobType"]["processingType"] == "SERVICE"
    assert named(serving[2]["inputs"]) == [("test", f"aliases/{MODEL}@{FREE}", "2")]
    assert named(serving[2]["outputs"]) == [("test", f"inference_log/{MODEL}", "2")]


def test_a_promotion_that_went_live_is_complete_and_the_move_is_its_child(either: Desk) -> None:
    [promotion] = either.go_live(1)
    events = [e for e in told(either) if e["job"]["name"] == f"promote/{MODEL}@{ALIAS}"]
    assert short(events)[0][0] == "START"
    assert [kind for kind, _ in short(events)].count("COMPLETE") == 1
    assert {e["run"]["runId"] for e in events} == {events[0]["run"]["runId"]}
    done = events[-1]
    assert named(done["outputs"]) == [("test", f"aliases/{MODEL}@{ALIAS}", "1")]
    assert {d["name"] for d in done["inputs"]} == {f"models/{MODEL}", f"training_sets/{HOLDOUT}"}
    tests = done["run"]["facets"]["test"]["tests"]
    assert [t["name"] for t in tests] == [g.gate for g in promotion.gates]
    assert {t["status"] for t in tests} == {"pass"}
    [move] = [e for e in told(either) if e["job"]["name"] == f"alias/{MODEL}@{ALIAS}" and e["eventType"] == "COMPLETE"]
    assert move["run"]["facets"]["parent"]["run"]["runId"] == done["run"]["runId"]


def test_a_promotion_that_its_gates_stopped_failed_and_says_why(either: Desk) -> None:
    bad = Evidence(HOLDOUT, 50_000, {"auc": float("nan")})
    asked = either.verify(either.write(promotions.request, MODEL, 1, ALIAS, bad, by=ANN))
    if asked.state.value != "rejected":
        either.write(decisions.reject, asked.promotion_id, "a gate failed", by=BOB)
    events = [e for e in told(either) if e["job"]["name"].startswith("promote/")]
    assert (events[0]["eventType"], events[-1]["eventType"]) == ("START", "FAIL")
    assert events[-1]["run"]["facets"]["errorMessage"]["message"]
    failed = [t for t in events[-1]["run"]["facets"]["test"]["tests"] if t["status"] == "fail"]
    assert failed


def test_the_same_happenings_are_the_same_runs_and_everything_that_begins_has_a_name(desk: Desk) -> None:
    desk.go_live(1, 2)
    desk.roll_back()
    once, again = told(desk), told(desk)
    assert once == again
    for event in once:
        if event["eventType"] != "START":
            begun = [e for e in once if e["run"]["runId"] == event["run"]["runId"] and e["eventType"] == "START"]
            assert begun, event["job"]["name"]


def test_a_training_that_failed_is_told_from_its_tracked_run() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    tags = {"rayplat.model": MODEL, "rayplat.training_set.digest": HOLDOUT, "rayplat.error": "Boom: no rows"}
    run = RunInfo("r1", "flights", "n", "FAILED", at, at + timedelta(seconds=5), {}, {}, tags)
    started, failed = map(validated, Events().of_failed_run(run))
    assert (started["eventType"], failed["eventType"]) == ("START", "FAIL")
    assert started["run"]["runId"] == failed["run"]["runId"]
    assert failed["run"]["facets"]["errorMessage"]["message"] == "Boom: no rows"
    assert failed["inputs"][0]["name"] == f"training_sets/{HOLDOUT}"
    assert Events().of_failed_run(replace(run, status="FINISHED")) == []


def test_happenings_are_read_in_pages_and_from_a_moment_on(desk: Desk) -> None:
    point(desk, 1)
    everything = desk.read(happenings.after, 0)
    assert [h.entry.seq for h in everything] == list(range(1, len(everything) + 1))
    assert desk.read(happenings.after, 0, 2) == everything[:2]
    assert desk.read(happenings.after, 2) == everything[2:]
    assert desk.read(happenings.after, 0, since=everything[-1].entry.at)[-1] == everything[-1]
    assert desk.read(happenings.after, 0, since=datetime(2999, 1, 1, tzinfo=UTC)) == []
    with pytest.raises(InvalidInput, match="limit"):
        desk.read(happenings.after, 0, 0)
    with pytest.raises(InvalidInput, match="no time zone"):
        desk.read(happenings.after, 0, since=datetime(2026, 1, 1))


# --- sending ----------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """A lineage server that keeps what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answers: list[int] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def settings(self) -> LineageSettings:
        return LineageSettings(url=f"http://127.0.0.1:{self.server_port}", api_key="secret", namespace="test")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.answers.pop(0) if self.server.answers else 201
        if status == 201:
            self.server.got.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def server() -> Iterator[Server]:
    with Server() as made:
        Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_everything_is_sent_once_and_again_only_what_did_not_arrive(desk: Desk) -> None:
    registry = LocalRegistry(desk.record)
    point(desk, 1)
    with server() as there:
        sender = Sender(registry, there.settings)
        assert sender.tick() == len(there.got) == len(told(desk))
        assert sender.tick() == 0
        assert set(there.keys) == {"Bearer secret"}
        point(desk, 2)
        before = len(there.got)
        there.answers = [201, 503]
        with pytest.raises(Unavailable, match="503"):
            sender.tick()
        assert len(there.got) == before + 1
        Sender(registry, there.settings).tick()  # another incarnation goes on where the record says
        assert short(there.got[before + 1 :]) == short(told(desk))[-4:]
    assert desk.read(happenings.sent) == desk.read(happenings.after, 0)[-1].entry.seq


def test_an_event_that_the_server_refuses_does_not_hold_up_the_others(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with server() as there:
        there.answers = [400]
        assert Sender(LocalRegistry(desk.record), there.settings).tick() == len(there.got) == len(told(desk)) - 1
    assert "refused" in caplog.text


def test_a_server_that_is_away_leaves_the_record_as_it_is(desk: Desk) -> None:
    with server() as there:
        gone = there.settings
    with pytest.raises(Unavailable, match="lineage server"):
        Sender(LocalRegistry(desk.record), gone).tick()
    assert desk.read(happenings.sent) == 0


def test_without_an_address_there_is_nothing_to_send_to(desk: Desk) -> None:
    with pytest.raises(InvalidInput, match=r"lineage\.url"):
        Sender(LocalRegistry(desk.record), LineageSettings())
