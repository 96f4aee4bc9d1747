"""What every test has: an ERROR in the log that no test expected fails it, and --long."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run what takes many minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, and so counts, what only --long runs: nothing is skipped silently."""
    if config.getoption("--long"):
        return
    long = [i for i in items if i.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [i for i in items if i not in long]


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@pytest.fixture
def expected_errors() -> list[str]:
    """A test that expects ERROR entries appends a part of each one's text."""
    return []


@pytest.fixture(autouse=True)
def no_unexpected_errors(expected_errors: list[str]) -> Iterator[None]:
    handler = _Errors()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
    surprise = [s for s in handler.seen if not any(e in s for e in expected_errors)]
    assert not surprise, f"ERROR entries that the test did not expect: {surprise}"
