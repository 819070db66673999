"""docs/public-names.md is true: every name on it is there, and every name that a room of parts offers is on it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "public-names.md"
NAMES = {
    module: re.findall(r"`(\w+)`", text)
    for module, text in re.findall(
        r"^## `([\w.]+)`\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
}
ROOMS = ("engines", "encoders", "proposers", "retrievers", "scorers", "filters", "trainers", "evaluators", "recipes")


@pytest.mark.parametrize("module", NAMES)
def test_what_is_on_the_page_can_be_imported(module: str) -> None:
    missing = [name for name in NAMES[module] if not hasattr(import_module(module), name)]
    assert NAMES[module] and not missing


@pytest.mark.parametrize("module", ["selfalign", *(f"selfalign.{room}" for room in ROOMS)])
def test_what_a_room_offers_is_on_the_page(module: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(NAMES[module])
