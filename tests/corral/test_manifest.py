"""What people write for `corral apply`: strict, with the line, and a proposal where there is one."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from corral.apply import manifest
from corral.errors import ManifestError

GOOD = """\
kind: Template
name: echo
command: python worker.py --size 'a b'
cwd: app
env: {LOAD: 0.5, FAST: true, TOKEN: }
---
# an empty document is none
---
kind: Endpoint
name: echo
min_load: 0
max_workers: 3
inactivity_timeout: -1
groups:
  - {name: local, template: echo, weight: 2}
  - {name: cheap, template: echo, tier: 1, search_params: "gpu_ram>=24"}
"""


def read(text, folder="/project", **environ):
    return manifest.read([("corral.yaml", folder, text)], environ)


def refused(text, **environ):
    with pytest.raises(ManifestError) as caught:
        read(text, **environ)
    return str(caught.value)


def test_a_good_file():
    found = read(GOOD, TOKEN="from outside")
    [template] = found.templates
    assert template.command == ("python", "worker.py", "--size", "a b")
    assert template.cwd == "/project/app"
    assert template.env == {"LOAD": "0.5", "FAST": "true", "TOKEN": "from outside"}
    [endpoint] = found.endpoints
    assert (endpoint.settings.max_workers, endpoint.settings.inactivity_timeout, endpoint.settings.target_util) == (3, -1, 0.9)
    assert [(group.name, group.tier, group.weight) for group in endpoint.groups] == [("local", 0, 2), ("cheap", 1, None)]


def test_the_working_directory_is_the_files_own_when_none_is_given():
    assert read("kind: Template\nname: t\ncommand: [x]\n").templates[0].cwd == "/project"
    assert read("kind: Template\nname: t\nimage: me/model\n").templates[0].cwd == ""  # a container has its own


def test_env_as_a_list():
    template = read("kind: Template\nname: t\ncommand: [x]\nenv: [A=1=2, B]\n", B="b").templates[0]
    assert template.env == {"A": "1=2", "B": "b"}


def test_defaults_by_merge_keys():
    text = "kind: Endpoint\nname: e\n<<: &d {max_workers: 7, min_load: 1}\nmin_load: 2\n"
    settings = read(text).endpoints[0].settings
    assert (settings.max_workers, settings.min_load) == (7, 2)


def test_a_group_without_a_weight_has_none():
    text = "kind: Endpoint\nname: e\ngroups:\n- {name: a, template: t}\n- {name: b, template: t, tier: 1, overflow_queue_s: 8, max_workers: 4}\n"
    first, second = read(text).endpoints[0].groups
    assert (first.weight, first.max_workers, first.overflow_queue_s) == (None, None, None)
    assert (second.tier, second.overflow_queue_s, second.max_workers) == (1, 8.0, 4)


def test_min_workers_is_the_guides_name_for_cold_workers():
    assert read("kind: Endpoint\nname: e\nmin_workers: 2\n").endpoints[0].settings.cold_workers == 2


SCHEDULED = "kind: Endpoint\nname: e\nmax_workers: 3\nschedules:\n- {}\n"


GROUPS = "kind: Endpoint\nname: e\ncold_workers: {}\ngroups:\n- {{name: g, template: t, {}}}\n"


def test_a_group_that_people_bring_machines_for_or_that_is_paused_sets_no_limit():
    for fields in ("provider: external, max_workers: 1", "weight: 0, max_workers: 1", "tier: 1"):
        assert read(GROUPS.format(4, fields)).endpoints[0].settings.cold_workers == 4


def test_schedules():
    text = SCHEDULED.format("{cron: 0 8 * * 1-5, lasts_s: 36000, hot_min: 2, time_zone: Europe/Berlin}")
    [schedule] = read(text).endpoints[0].schedules
    assert (schedule.cron, schedule.lasts_s, schedule.hot_min, schedule.time_zone) == ("0 8 * * 1-5", 36000, 2, "Europe/Berlin")


@pytest.mark.parametrize(
    "text,line,words",
    [
        ("kind: Endpoint\nname: e\nmin_laod: 3\n", 3, ["unknown field 'min_laod'", "did you mean 'min_load'?"]),
        ("kind: Endpoint\nname: e\ngroups:\n- name: g\n  template: t\n  wieght: 1\n", 6, ["unknown field 'wieght'", "'weight'"]),
        ("kind: Endpoint\nname: e\ngroups:\n- name: g\n  template: t\n  weight: heavy\n", 6, ["groups.0.weight", "got `str`"]),
        ("kind: Endpoint\nname: e\ngroups:\n- {name: g, template: t, weight: -1}\n", 4, ["weight must be a finite number"]),
        ("kind: Endpoint\nname: e\ngroups:\n- {name: g, template: t, max_workers: -1}\n", 4, ["max_workers must be from 0"]),
        ("kind: Endpoint\nname: e\ngroups:\n- name: g\n  template: t\n  overflow_util: 0.8\n", 6, ["in tier 0: set its tier"]),
        ("kind: Endpoint\nname: e\ngroups:\n- {name: g, template: t, tier: 1, overflow_util: 8}\n", 4, ["above 0 and at most 1"]),
        ("kind: Endpoint\nname: e\ngroups:\n- name: g\n", 4, ["missing required field `template`"]),
        (
            "kind: Endpoint\nname: e\ngroups:\n- {name: g, template: t}\n- {name: g, template: t}\n",
            5,
            ["two groups are called 'g'"],
        ),
        ("kind: Endpoint\nname: e\nmax_workers: 2\ncold_workers: 3\n", 4, ["cold_workers (3) is more than max_workers (2)"]),
        ("kind: Endpoint\nname: e\nmin_load: .nan\n", 3, ["finite"]),
        ("kind: Endpoint\nname: e\nmin_load: .inf\n", 3, ["finite"]),
        ("kind: Endpoint\nname: e\nmin_load: '3'\n", 3, ["Expected `float`"]),
        ("kind: Endpoint\nname: e\nmin_workers: 1\ncold_workers: 1\n", 3, ["the same parameter"]),
        ("kind: Endpoint\nname: e\nstate: asleep\n", 3, ["state: 'asleep' is no state", "active, suspended, stopped"]),
        ("kind: Endpoint\nname: e\nmax_workers: 2\nmin_workers: 3\n", 4, ["lower the first or raise the second"]),
        (GROUPS.format(4, "max_workers: 3"), 3, ["cold_workers (4) is more than worker group g may have (3)", "or lower cold"]),
        (GROUPS.format(4, "max_workers: 3").replace("cold", "min"), 3, ["cold_workers (4) is more than worker group g may have"]),
        (
            GROUPS.format(0, "max_workers: 1") + "schedules:\n- {cron: 0 8 * * *, lasts_s: 60, hot_min: 2}\n",
            7,
            ["schedules[0]: hot_min (2) is more than worker group g may have (1)"],
        ),
        (
            GROUPS.format(0, "max_workers: 0") + "min_load: 3\n",
            6,
            ["min_load (3) keeps some hot, and worker group g may have no worker"],
        ),
        (
            GROUPS.format(0, "price_cap_usd_per_hour: 2, usd_per_hour: 5"),
            5,
            ["usd_per_hour (5) is more than price_cap_usd_per_hour (2)"],
        ),
        (GROUPS.format(0, "weight: 1e300"), 5, ["YAML takes 1e300 for text: write 1.0e+300"]),
        (GROUPS.format(0, "weight: -1.5e-3x"), 5, ["got `str`"]),
        ("kind: Endpoint\nname: e\nmin_load: 1.5e3\n", 3, ["write 1.5e+3"]),
        ("kind: Template\nname: t\ncommand: x\nstart_timeout_s: 0\n", 4, ["start_timeout_s must be a number of seconds above 0"]),
        (
            "kind: Template\nname: t\ncommand: x\nstart_timeout_s: .nan\n",
            4,
            ["start_timeout_s must be a number of seconds above 0"],
        ),
        ("kind: Template\nname: t\ncommand: x\ngpus: -1\n", 4, ["gpus must be a finite number of at least 0"]),
        ("kind: Template\nname: t\ncommand: x\nslots: -4\n", 4, ["slots must be a finite number of at least 0"]),
        ("kind: Endpoint\nname: e\nname: f\n", 3, ["'name' is given twice"]),
        (SCHEDULED.format("{cron: '61 * * * *', lasts_s: 60, hot_min: 1}"), 5, ["schedules[0]", "bad minute"]),
        (SCHEDULED.format("{cron: '0 8 * * *', lasts_s: 60, hot_min: 9}"), 5, ["hot_min (9) is more than max_workers (3)"]),
        (SCHEDULED.format("{cron: '0 8 * * *', lasts_s: 60, hot_min: 1, timezone: UTC}"), 5, ["'timezone'", "'time_zone'?"]),
        (SCHEDULED.format("{cron: '0 8 * * *', lasts_s: 60, hot_min: 1, time_zone: Mars}"), 5, ["unknown time zone 'Mars'"]),
        (SCHEDULED.format("{cron: '0 8 * * *', hot_min: 1}"), 5, ["missing required field `lasts_s`"]),
        (SCHEDULED.format("daily"), 5, ["a schedule must be fields"]),
        ("kind: Endpoint\nname: e\nschedules: daily\n", 3, ["schedules must be a list"]),
        ("kind: Endpoint\nname: a/b\n", 2, ["not a name"]),
        ("kind: Endpoint\n", 1, ["no name"]),
        ("kind: Template\nname: has space\ncommand: x\n", 2, ["not a name for a template"]),
        ("kind: Template\nname: t\n", 1, ["has no command"]),
        ('kind: Template\nname: t\ncommand: "a \'b"\n', 3, ["command: No closing quotation"]),
        ("kind: Template\nname: t\ncommand: x\nenv: [SECRET]\n", 4, ["env SECRET has no value here"]),
        ("kind: Template\nname: t\ncommand: x\nenv: {A: [1]}\n", 4, ["env A must be text"]),
        ("kind: Cluster\nname: x\n", 1, ["unknown kind 'Cluster'", "Template or Endpoint"]),
        ("name: x\n", 1, ["no `kind`"]),
        ("- a\n- b\n", 1, ["must be fields with values"]),
        ("kind: [\n", 2, ["not YAML"]),
        ("1: x\n", 1, ["must be text, not 1"]),
        ("kind: Endpoint\nname: e\n---\n\nkind: Endpoint\nname: e\n", 6, ["'e' is described twice"]),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, line, words):
    said = refused(text)
    assert said.startswith(f"corral.yaml:{line}: "), said
    for word in words:
        assert word in said


def test_a_file_that_would_fill_the_memory_is_refused():
    assert "more than" in refused("#" * (1024 * 1024 + 1))
    assert "nested" in refused("kind: " + "[" * 60 + "]" * 60)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_reason(text):
    try:
        read(text)
    except ManifestError as error:
        assert error.message.startswith("corral.yaml")


scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
fields = st.sampled_from(
    [
        "kind",
        "name",
        "command",
        "env",
        "cwd",
        "groups",
        "state",
        "min_load",
        "max_workers",
        "weight",
        "template",
        "gpus",
        "image",
        "schedules",
        "cron",
    ]
)


@given(st.sampled_from(["Template", "Endpoint"]), st.dictionaries(fields, values, max_size=6))
def test_any_value_in_any_field_is_read_or_refused_with_a_reason(kind, document):
    text = yaml.safe_dump({"name": "n", **document, "kind": kind}, allow_unicode=True)
    try:
        found = read(text)
    except ManifestError:
        return
    for endpoint in found.endpoints:
        assert not endpoint.settings.problems()
        assert math.isfinite(endpoint.settings.min_load)
