"""The docs say what is true."""

import re
from pathlib import Path

import pytest

from schemas.http import ErrorCode

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    if ".venv" not in page.relative_to(ROOT).parts
)


def test_every_error_code_is_explained_and_every_explained_code_exists():
    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    explained = set(
        re.findall(
            r"`([a-z_]+)`",
            "\n".join(
                line.split("|")[1] for line in (ROOT / "docs/errors.md").read_text().splitlines() if line.startswith("| `")
            ),
        )
    )
    assert explained == codes


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_that_is_mentioned_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets, f"{page.name} mentions make {target}"
