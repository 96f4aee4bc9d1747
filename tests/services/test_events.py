"""The table of events against the code that emits them, the fields' names, and journald's rules."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

import pytest

from appliance import events
from appliance.events.event import Event
from appliance.events.fields import FIELDS
from appliance.events.folding import KINDS_LIMIT, WINDOW_S, FoldingHandler

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = events.table()
BY_NAME = {name: value for name, value in vars(events).items() if isinstance(value, Event)}

# systemd.journal-fields(7), systemd.directives(7): what journald, systemd and syslog themselves mean by these.
RESERVED = {
    "message", "message_id", "priority", "code_file", "code_line", "code_func", "errno", "invocation_id",
    "user_invocation_id", "syslog_facility", "syslog_identifier", "syslog_pid", "syslog_timestamp", "syslog_raw",
    "documentation", "tid", "unit", "user_unit", "object_pid", "job_id", "job_type", "job_result", "event",
}  # fmt: skip


def emits() -> list[tuple[str, ast.expr, set[str]]]:
    """Where, which, with which fields: every call of `emit` in the package."""
    out = []
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.parent.name == "events" or "emit(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name == "emit" and isinstance(node, ast.Call):
                out.append((f"{path.name}:{node.lineno}", node.args[0], {k.arg or "**" for k in node.keywords}))
    return out


def named(expression: ast.expr) -> list[Event]:
    """`events.X`, or either of `events.X if … else events.Y`."""
    if isinstance(expression, ast.IfExp):
        return named(expression.body) + named(expression.orelse)
    return [BY_NAME[expression.attr]] if isinstance(expression, ast.Attribute) and expression.attr in BY_NAME else []


def test_fields_in_the_code_are_those_of_the_table() -> None:
    found = emits()
    assert len(found) > 100
    wrong = [
        f"{where}: {event.id} with {sorted(fields)}, the table has {sorted(event.fields)}"
        for where, expression, fields in found
        for event in named(expression)
        if fields != set(event.fields)
    ]
    assert wrong == []
    # There it depends which event it is: one of two with the same fields, or one whose fields are looked at.
    indirect = sorted(where.partition(":")[0] for where, expression, _ in found if not named(expression))
    assert indirect == ["house.py", "sender.py", "tell.py"]


def tells() -> list[tuple[str, str, set[str]]]:
    """The same of `tell` in the programs of the image."""
    out = []
    for path in sorted((ROOT / "rootfs-overlay/usr/lib/posthouse").iterdir()):
        found = re.findall(r'\btell ([a-z-]+)((?: "[a-z_]+=[^"]*")*)', path.read_text(encoding="utf-8"))
        out += [(path.name, id, set(re.findall(r'"([a-z_]+)=', fields))) for id, fields in found]
    return out


def test_fields_in_the_image_s_programs_are_those_of_the_table() -> None:
    found = [row for row in tells() if row[1] in TABLE]
    assert len(found) >= 6
    assert [row for row in found if row[2] != set(TABLE[row[1]].fields)] == []


def test_every_event_is_emitted_somewhere() -> None:
    text = "".join(
        p.read_text(encoding="utf-8") for p in (ROOT / "appliance").rglob("*.py") if p.parent.name != "events"
    )
    told = {id for _, id, _ in tells()}
    silent = {name for name, event in BY_NAME.items() if event.id not in told}
    assert sorted(silent - set(re.findall(r"\bevents\.([A-Z_]+)\b", text))) == []
    assert set(BY_NAME.values()) == set(TABLE.values())


def test_every_field_has_its_meaning_and_none_is_journald_s_own() -> None:
    used = {field for event in TABLE.values() for field in event.fields} | {"repeated"}
    assert sorted(used - set(FIELDS)) == []
    assert sorted(set(FIELDS) - used) == []
    assert sorted(set(FIELDS) & RESERVED) == []
    assert [f for f in FIELDS if not re.fullmatch("[a-z][a-z0-9_]{0,63}", f)] == []


def test_every_event_that_is_shown_has_an_id_of_its_own_and_says_what_follows() -> None:
    shown = [e for e in TABLE.values() if e.level > logging.DEBUG]
    wrong = [e.id for e in shown if not re.fullmatch("[0-9a-f]{32}", e.message_id)]
    assert wrong == [], "draw one for each with: systemd-id128 new"
    assert len({e.message_id for e in shown}) == len(shown)
    assert [e.id for e in shown if not e.follows.endswith(".")] == []
    assert [e.id for e in shown if e.action and not e.action.endswith((".", "?"))] == []
    assert [e.id for e in TABLE.values() if e.level == logging.DEBUG and (e.message_id or e.action)] == []


@pytest.mark.parametrize("event", [e for e in TABLE.values() if e.fold is not None], ids=lambda e: e.id)
def test_what_is_folded_is_folded_by_fields_that_it_has(event: Event) -> None:
    assert event.fold is not None
    assert set(event.fold) <= set(event.fields)
    assert event.level >= logging.INFO


# ---- repeats
class Written(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.repeated: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.repeated.append(getattr(record, "posthouse_fields", {}).get("repeated", ""))


class Folded:
    """The logger `posthouse` through a FoldingHandler whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.written = Written()
        self.handler = FoldingHandler(self.written, lambda: self.now)

    def fail(self, user: str, client: str = "192.168.77.9") -> None:
        events.emit(events.LOGIN_FAILED, service="smtp", client=client, user=user)


@pytest.fixture
def folded(caplog: pytest.LogCaptureFixture) -> Folded:
    caplog.set_level(logging.INFO)
    it = Folded()
    caplog.handler.setLevel(logging.CRITICAL)
    logging.getLogger("posthouse").addHandler(it.handler)
    return it


@pytest.fixture(autouse=True)
def no_handler_stays() -> object:
    log = logging.getLogger("posthouse")
    before = list(log.handlers)
    yield
    log.handlers[:] = before


def test_repeats_are_one_entry_and_a_count(folded: Folded) -> None:
    for n in range(50):
        folded.fail(f"guess{n}")
        folded.now += 0.1
    assert folded.written.lines == ["smtp: 192.168.77.9 gave a wrong name or password for guess0"]
    folded.now = WINDOW_S
    events.emit(events.STOPPED)
    assert folded.written.lines[1:] == [
        "smtp: 192.168.77.9 gave a wrong name or password for guess49 (and 48 more like it)",
        "stopped",
    ]
    assert folded.written.repeated == ["", "49", ""]
    folded.fail("guess50")
    assert len(folded.written.lines) == 4


def test_another_client_is_another_entry(folded: Folded) -> None:
    folded.fail("a")
    folded.fail("a", client="192.168.77.10")
    assert len(folded.written.lines) == 2


def test_a_single_repeat_loses_nothing(folded: Folded) -> None:
    folded.fail("a")
    folded.fail("b")
    folded.handler.close()
    assert folded.written.lines == [
        "smtp: 192.168.77.9 gave a wrong name or password for a",
        "smtp: 192.168.77.9 gave a wrong name or password for b",
    ]


def test_what_is_not_marked_is_never_folded(folded: Folded) -> None:
    for _ in range(3):
        events.emit(events.SENT, mail_id="M1", recipients="a@b.example", host="h", reply="250 ok")
    assert len(folded.written.lines) == 3


def test_many_kinds_take_bounded_memory_and_lose_no_count(folded: Folded) -> None:
    for n in range(2 * KINDS_LIMIT):
        folded.fail("a", client=f"192.168.{n // 250}.{n % 250}")
        folded.fail("b", client=f"192.168.{n // 250}.{n % 250}")
    folded.handler.close()
    assert len(folded.written.lines) == 4 * KINDS_LIMIT
