"""The docs say what is true."""

import importlib.util
import re
from pathlib import Path

import msgspec
import pytest

from schemas.http import ErrorCode
from schemas.reasons import WaitReason
from schemas.records import ScalingSettings

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    if ".venv" not in page.relative_to(ROOT).parts
)


def explained(*, waits: bool):
    """First cells of the tables of docs/errors.md: of the one about waits, or of the others."""
    sections = (ROOT / "docs/errors.md").read_text().split("\n## ")
    rows = [
        line.split("|")[1]
        for section in sections
        if section.startswith("Why a request waits") is waits
        for line in section.splitlines()
        if line.startswith("| `") and not line.startswith("| `wait_reason`")
    ]
    return set(re.findall(r"`([a-z_0-9]+)`", "\n".join(rows)))


def test_every_error_code_is_explained_and_every_explained_code_exists():
    assert explained(waits=False) == {value for name, value in vars(ErrorCode).items() if name.isupper()}


def test_every_reason_to_wait_is_explained_and_every_explained_reason_exists():
    assert explained(waits=True) == set(WaitReason)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def conformance():
    """(row, linked file of tests, name or beginning of a name) of every test that docs/conformance.md names; "" where it names none."""
    for line in (ROOT / "docs/conformance.md").read_text().splitlines():
        if not re.match(r"\| \d", line):
            continue
        row, tests = line.split("|")[1].strip(), line.rsplit("|", 2)[1]
        for file, words in re.findall(r"\]\(\.\./(tests/[^)]+)\)(.*?)(?=\[|$)", tests):
            for name in re.findall(r"`(test_\w+…?)`", words) or [""]:
                yield row, file, name


def test_every_test_that_conformance_names_is_there_and_every_row_names_one():
    named = list(conformance())
    rows = re.findall(r"^\| (\d[\d, ]*) \|", (ROOT / "docs/conformance.md").read_text(), re.MULTILINE)
    assert {row for row, _, _ in named} == set(rows) and len(rows) >= 30
    for row, file, name in named:
        there = re.findall(r"^(?:async )?def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
        found = [test for test in there if (test.startswith(name[:-1]) if name.endswith("…") else test == name)]
        assert len(found) == 1, f"pain {row}: {name or 'no test'} of {file} is {found or 'not there'}"


def test_every_make_target_that_is_mentioned_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name} mentions make {target}"


def generator():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_parameters_is_not_stale():
    assert (ROOT / "docs/parameters.md").read_text() == generator().page(), (
        "stale: run `make schemas` and commit docs/parameters.md"
    )


def test_every_parameter_that_people_set_has_its_default_and_a_meaning():
    rows = {}
    for line in generator().page().partition("## Of the scaler")[0].splitlines():
        if line.startswith("| `"):
            name, default, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            assert meaning, f"{name} says nothing"
            rows.setdefault(name.strip("`"), default)  # the endpoint's come first; groups share some names
    for field in msgspec.structs.fields(ScalingSettings):
        assert rows[field.name] == ("unset" if field.default is None else f"`{field.default:g}`")
    assert rows["reason"] == "required", "the command line and the API refuse an override without"
    assert {"cron", "hot_max", "usd_per_hour", "start_timeout_s"} <= rows.keys()
