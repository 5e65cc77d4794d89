"""Every number of the wire page's catalogue (discord sections 1 to 5: R, C, U) is the promise of a test that names it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
ROOMS = ("dialects/discord", "discord", "simulation", "playbooks", "crash")
CATALOGUE = [f"{kind}{n}" for kind, last in (("R", 36), ("C", 15), ("U", 20)) for n in range(1, last + 1)]
_NUMBER = re.compile(r"(?<=_)([rcu]\d{1,2})(?=_|$)", re.IGNORECASE)


def named() -> Iterator[tuple[str, str]]:
    """(number, test) for each number in a name of a Discord test."""
    for room in ROOMS:
        for path in (TESTS / room).rglob("test_*.py"):
            if "node_modules" in path.parts or "discord" not in str(path.relative_to(TESTS)):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    for number in _NUMBER.findall(node.name):
                        yield number.upper(), f"{path.name}::{node.name}"


NAMED = list(named())


@pytest.mark.parametrize("number", CATALOGUE)
def test_a_test_names(number: str) -> None:
    assert [test for found, test in NAMED if found == number], f"no test names {number}"


def test_no_test_names_a_number_that_there_is_not() -> None:
    assert [each for each in NAMED if each[0] not in CATALOGUE] == []
