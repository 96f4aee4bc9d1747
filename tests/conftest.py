"""What every test has: an ERROR in the log that no test expected fails it, --long, and tests of what is given from outside."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("posthouse", deadline=None)  # a busy machine is no fault
settings.load_profile("posthouse")

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # where the tests run in the background the shell has it ignored


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run what takes many minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects, and so counts, what only --long runs, and what works on something that is not given: nothing is skipped
    silently."""
    left = [i for i in items if i.get_closest_marker("long") and not config.getoption("--long")]
    lacking = [i for i in items if i not in left and _lacks(i)]
    for variable in sorted({name for i in lacking for name in _lacks(i)}):
        count = sum(variable in _lacks(i) for i in lacking)
        config.stash.setdefault(_lacking, []).append(
            f"{variable} is not set: {count} tests of what it names are not run"
        )
    if left or lacking:
        config.hook.pytest_deselected(items=[*left, *lacking])
        out = {*left, *lacking}
        items[:] = [i for i in items if i not in out]


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return config.stash.get(_lacking, [])


_lacking = pytest.StashKey[list[str]]()


def _lacks(item: pytest.Item) -> list[str]:
    marker = item.get_closest_marker("given")
    return [name for name in marker.args if name not in os.environ] if marker else []


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
