"""What `corral apply` would change. The law: what was applied needs no change."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from corral.apply.manifest import EndpointSpec, GroupSpec, Manifest
from corral.apply.plan import Current, CurrentEndpoint, CurrentGroup, changes_anything, missing_templates, plan
from corral.wire import records, states

ACTIVE = states.EndpointState.ACTIVE
T = records.Template(name="t", command=("run",))


def endpoint(*groups, state=ACTIVE, name="e", schedules=(), **settings):
    return EndpointSpec(
        name=name, settings=records.ScalingSettings(**settings), state=state, groups=groups, schedules=tuple(schedules)
    )


def as_it_is(wanted, templates=None):
    """The installation after a perfect apply."""
    known = {template.name: template for template in wanted.templates} | (templates or {})
    return Current(
        templates=known,
        endpoints={
            spec.name: CurrentEndpoint(
                id=1,
                name=spec.name,
                settings=spec.settings,
                state=spec.state,
                schedules=spec.schedules,
                groups=tuple(CurrentGroup(id=n, spec=g, template=known.get(g.template)) for n, g in enumerate(spec.groups)),
            )
            for spec in wanted.endpoints
        },
    )


groups = st.builds(
    GroupSpec,
    name=st.sampled_from("abc"),
    template=st.sampled_from(["t", "u"]),
    weight=st.none() | st.floats(0, 10),
    max_workers=st.none() | st.integers(0, 9),
    tier=st.integers(0, 3),
    gpu_ram=st.none() | st.floats(1, 80),
)
endpoints = st.builds(
    endpoint,
    state=st.sampled_from(list(states.EndpointState)),
    min_load=st.floats(0, 10),
    max_workers=st.integers(0, 9),
    cold_mult=st.none() | st.floats(1, 3),
    schedules=st.lists(
        st.builds(records.Schedule, cron=st.just("0 8 * * *"), lasts_s=st.just(60.0), hot_min=st.integers(1, 3)), max_size=2
    ),
).flatmap(
    lambda e: st.lists(groups, max_size=3, unique_by=lambda g: g.name).map(
        lambda gs: msgspec.structs.replace(e, groups=tuple(gs))
    )
)
templates = st.lists(
    st.builds(records.Template, name=st.sampled_from(["t", "u"]), command=st.just(("run",)), gpus=st.integers(0, 2)),
    max_size=2,
    unique_by=lambda t: t.name,
)
manifests = st.builds(lambda ts, e: Manifest(tuple(ts), (e,)), templates, endpoints)


@given(manifests)
def test_what_was_applied_needs_no_change(wanted):
    steps = plan(wanted, as_it_is(wanted))
    assert not changes_anything(steps)
    assert all(step.verb == "keep" for step in steps)


@given(manifests, manifests)
def test_templates_come_first_and_what_goes_comes_last(wanted, before):
    steps = plan(wanted, as_it_is(before))
    order = [("template", "endpoint", "group").index(step.kind) if step.verb != "delete" else 3 for step in steps]
    assert order == sorted(order)
    for step in steps:
        assert (step.verb == "update") == bool(step.changes) or step.verb in {"create", "delete"}


def test_from_nothing():
    wanted = Manifest((T,), (endpoint(GroupSpec(name="g", template="t"), max_workers=3),))
    steps = plan(wanted, Current())
    assert [(s.verb, s.kind, s.name) for s in steps] == [
        ("create", "template", "t"),
        ("create", "endpoint", "e"),
        ("create", "group", "g"),
    ]
    assert [(c.field, c.after) for c in steps[1].changes] == [("max_workers", 3)]  # what is default is not worth a line


def test_a_parameter_that_is_no_longer_written_has_its_default_again():
    [step] = plan(Manifest((), (endpoint(),)), as_it_is(Manifest((), (endpoint(cold_mult=2.0, min_load=4.0),))))
    assert {(c.field, c.before, c.after) for c in step.changes} == {("cold_mult", 2.0, None), ("min_load", 4.0, 0.0)}


def test_schedules_that_are_no_longer_written_go():
    eight = records.Schedule(cron="0 8 * * *", lasts_s=60.0, hot_min=1)
    [step] = plan(Manifest((), (endpoint(),)), as_it_is(Manifest((), (endpoint(schedules=[eight]),))))
    assert [(c.field, c.before, c.after) for c in step.changes] == [("schedules", (eight,), ())]
    [made] = plan(Manifest((), (endpoint(schedules=[eight]),)), Current())
    assert [(c.field, c.after) for c in made.changes] == [("schedules", (eight,))]


def test_a_group_that_is_no_longer_written_goes_and_says_what_that_means():
    before = Manifest((T,), (endpoint(GroupSpec(name="old", template="t")),))
    steps = plan(Manifest((T,), (endpoint(GroupSpec(name="new", template="t")),)), as_it_is(before))
    assert [(s.verb, s.name) for s in steps if s.kind == "group"] == [("create", "new"), ("delete", "old")]
    assert "destroyed" in steps[-1].note


def test_a_changed_template_makes_a_new_revision_of_the_groups_that_use_it():
    before = Manifest((T,), (endpoint(GroupSpec(name="g", template="t")),))
    newer = msgspec.structs.replace(T, command=("run", "--faster"))
    steps = plan(Manifest((newer,), before.endpoints), as_it_is(before))
    by_kind = {step.kind: step for step in steps}
    assert by_kind["template"].verb == "update"
    assert by_kind["endpoint"].verb == "keep"
    assert by_kind["group"].verb == "update"
    assert "replaced" in by_kind["group"].note


def test_values_of_the_environment_are_not_shown():
    before = Manifest((msgspec.structs.replace(T, env={"TOKEN": "old-secret", "GONE": "x", "SAME": "s"}),), ())
    after = Manifest((msgspec.structs.replace(T, env={"TOKEN": "new-secret", "SAME": "s"}),), ())
    steps = plan(after, as_it_is(before))
    assert "secret" not in repr(steps)
    assert steps[0].changes[0].after == "TOKEN, without GONE"


def test_stopping_says_so():
    before = Manifest((), (endpoint(),))
    [step] = plan(Manifest((), (endpoint(state=states.EndpointState.STOPPED),)), as_it_is(before))
    assert "stopped" in step.note


def test_templates_nobody_has():
    wanted = Manifest((T,), (endpoint(GroupSpec(name="g", template="elsewhere"), GroupSpec(name="h", template="t")),))
    assert missing_templates(wanted, Current()) == ("elsewhere",)
    assert missing_templates(wanted, Current(templates={"elsewhere": T})) == ()
