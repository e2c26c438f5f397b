from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplat.errors import InvalidInput
from rayplat.serve.deployment import plan
from rayplat.serve.deployment.plan import Present
from rayplat.types import Autoscale, EndpointSpec, Limits, PlanAction, PlanStep, ServingPlan

M, N = EndpointSpec("m"), EndpointSpec("n")


def summary(made: ServingPlan) -> list[tuple[str, str, str]]:
    return [(step.action.value, step.model, step.alias) for step in made.steps]


def only(wanted: EndpointSpec, present: EndpointSpec, problem: str = "") -> PlanStep:
    (step,) = plan.make([wanted], [Present(present, problem)]).steps
    return step


def test_what_is_as_wanted_needs_no_step() -> None:
    made = plan.make([M], [Present(M), Present(N)])
    assert made.steps == ()
    assert made.digest == plan.make([], []).digest


def test_what_is_not_there_is_created_and_the_rest_left_alone() -> None:
    made = plan.make([M, replace(N, placement="pooled")], [Present(EndpointSpec("old"))])
    assert summary(made) == [("create", "m", "champion"), ("create", "n", "champion")]
    assert [step.cost for step in made.steps] == [
        "a process of its own is started",
        "the pool loads it",
    ]


def test_what_is_not_named_goes_with_prune_last() -> None:
    made = plan.make([N], [Present(M)], prune=True)
    assert summary(made) == [("create", "n", "champion"), ("remove", "m", "champion")]
    assert made.steps[1].spec is None
    assert "refused" in made.steps[1].cost


@pytest.mark.parametrize(
    ("changes", "action", "reason", "cost"),
    [
        ({"replicas": 3}, PlanAction.CHANGE, "replicas: 1 -> 3", "those that stay do not restart"),
        ({"autoscale": Autoscale(0, 3)}, PlanAction.CHANGE, "autoscale: none -> 0 to 3 replicas", "do not restart"),
        ({"limits": Limits(queue=5)}, PlanAction.CHANGE, "limits.queue: none -> 5", "nothing restarts"),
        ({"public": True}, PlanAction.CHANGE, "public: no -> yes", "nothing restarts"),
        ({"default": True}, PlanAction.CHANGE, "default: no -> yes", "nothing restarts"),
        ({"cpus": 2.0}, PlanAction.RESTART, "cpus: none -> 2", "ready before each old one stops"),
        ({"gpus": 1.0}, PlanAction.RESTART, "gpus: 0 -> 1", "ready before each old one stops"),
        ({"placement": "pooled"}, PlanAction.MOVE, "placement: dedicated -> pooled", "nothing is refused"),
    ],
)
def test_a_change_says_what_differs_and_what_it_costs(
    changes: dict[str, object], action: PlanAction, reason: str, cost: str
) -> None:
    step = only(replace(M, **changes), M)  # type: ignore[arg-type]
    assert step.action is action
    assert step.reasons == (reason,)
    assert cost in step.cost
    assert step.restarts == (action in (PlanAction.RESTART, PlanAction.MOVE))


def test_an_endpoint_that_does_not_run_is_mended() -> None:
    step = only(M, M, "its host does not run")
    assert (step.action, step.reasons) == (PlanAction.CREATE, ("its host does not run",))


def test_the_default_is_taken_from_who_had_it() -> None:
    made = plan.make([replace(N, default=True)], [Present(replace(M, default=True))])
    assert [(s.model, s.reasons) for s in made.steps] == [
        ("m", ("default: yes -> no",)),
        ("n", ("it is not served yet",)),
    ]
    assert plan.make([N], [Present(replace(M, default=True))]).steps[0].model == "n"


def test_a_pooled_alias_below_a_dedicated_host_could_not_be_reached() -> None:
    below = EndpointSpec("m", "challenger", placement="pooled")
    with pytest.raises(InvalidInput, match="its host owns every path of the model") as caught:
        plan.make([below], [Present(M)])
    assert caught.value.field == "m/challenger.placement"
    with pytest.raises(InvalidInput):
        plan.make([M], [Present(below)])
    pooled = replace(M, placement="pooled")
    assert summary(plan.make([below], [Present(pooled)])) == [("create", "m", "challenger")]
    assert summary(plan.make([EndpointSpec("m", "challenger")], [Present(pooled)])) == [("create", "m", "challenger")]


def test_which_changes_a_running_host_is_told() -> None:
    for untold in (replace(M, replicas=2), replace(M, autoscale=Autoscale()), replace(M, default=True)):
        assert not plan.changes_host(M, untold)
    for told in (replace(M, limits=Limits(queue=1)), replace(M, public=True), replace(M, cpus=2.0)):
        assert plan.changes_host(M, told)


_specs = st.lists(
    st.builds(
        EndpointSpec,
        model=st.sampled_from(["a", "b", "c"]),
        alias=st.just("champion"),
        placement=st.sampled_from(["dedicated", "pooled"]),
        public=st.booleans(),
        default=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda s: s.model,
).filter(lambda specs: sum(s.default for s in specs) <= 1)


@given(_specs, _specs, st.booleans())
def test_a_plan_that_was_taken_leaves_nothing_to_do(
    wanted: list[EndpointSpec], present: list[EndpointSpec], prune: bool
) -> None:
    made = plan.make(wanted, [Present(spec) for spec in present], prune)
    after = {spec.model: spec for spec in present}
    for step in made.steps:
        if step.spec is None:
            del after[step.model]
        else:
            after[step.model] = step.spec
    assert plan.make(wanted, [Present(spec) for spec in after.values()], prune).steps == ()
    assert sum(spec.default for spec in after.values()) <= 1
    assert all(after[spec.model] == spec for spec in wanted)
    assert not prune or set(after) == {spec.model for spec in wanted}
