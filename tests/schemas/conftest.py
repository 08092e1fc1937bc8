import json
from pathlib import Path

import pytest


@pytest.fixture
def golden_examples():
    """Struct name -> its golden JSON."""
    return {p.stem: json.loads(p.read_bytes()) for p in (Path(__file__).parent / "golden").glob("*.json")}
