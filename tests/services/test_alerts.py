"""`[alerts]`: mail of Posthouse's own that causes no call; each kind once in its time; what lasts is told of."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from email import message_from_bytes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from appliance import events
from appliance.app.alerts import AGAIN_S, NO_CALL_S, Alarms, AlertsPart, Told
from appliance.config.model import Alerts, Config
from appliance.mail import alerts
from appliance.storage.disk import Disk
from fakes.office import FAR, HANAKO, SITE, USERS, FakeOffice

DAY = 86400.0


async def post(it: FakeOffice, to: str = FAR, kind: str = "status", text: str = "All is well.\n") -> str:
    return await alerts.post(
        it.office, it.clock, kind=kind, sender=HANAKO, to=to, site="harbour", subject="harbour: x", text=text
    )


# ---- the message
async def test_it_waits_for_the_next_call_and_causes_none(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path, warn_after_s=DAY).running() as it:
        assert await post(it) == ""
        (envelope,) = it.spool.messages.values()
        assert it.office.pending() == it.office.pending(bulk=False) == [envelope]
        prospect = it.office.prospect()
        assert (prospect.messages, prospect.bulk_messages, prospect.deferred, prospect.oldest) == (0, 0, 0, None)
        it.clock.advance(30 * DAY)
        await it.office.warn_late()
        assert it.mailbox("hanako") == []  # nobody is told that it is late
        assert it.office.prospect() == prospect
    again = FakeOffice(tmp_path, clock=it.clock)
    again.spool.recover()
    async with again.running():
        assert again.office.prospect() == prospect, "counts after a restart"


async def test_a_user_has_it_at_once(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        assert await post(it, to=HANAKO, text="Überfällig: 3\n") == ""
        assert it.spool.messages == {}
        (data,) = it.mailbox("hanako")
        message = message_from_bytes(data)
        assert (message["Auto-Submitted"], message["To"], message["Subject"]) == (
            "auto-generated",
            HANAKO,
            "harbour: x",
        )
        assert message.get_payload(decode=True) == "Überfällig: 3\r\n".encode()
        assert data.isascii() and b"\n" not in data.replace(b"\r\n", b"")


async def test_the_newest_of_its_kind_alone_waits(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        await post(it)
        await post(it, kind="pin-refused gsm")
        held = next(e for e in it.spool.messages.values() if e.alert == "pin-refused gsm")
        it.spool.set_sending(held, True)
        await post(it, kind="pin-refused gsm")
        await post(it)
        assert sorted(e.alert for e in it.spool.messages.values()) == ["pin-refused gsm"] * 2 + ["status"]
        assert held.id in it.spool.messages  # it is on its way


async def test_an_address_that_nobody_has_is_said(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        assert "nobody" in await post(it, to="nobody@harbour.example")
        assert it.spool.messages == {} and list(it.spool.paths.incoming.iterdir()) == []


# ---- at most so often
def test_a_kind_is_told_once_in_its_time_also_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "alerts"
    Told(Disk(), file).keep(["no-call", "status"], 1000.0)
    told = Told(Disk(), file)
    assert told.within("no-call", AGAIN_S, 1000.0 + AGAIN_S - 1)
    assert not told.within("no-call", AGAIN_S, 1000.0 + AGAIN_S)
    assert not told.within("no-call", AGAIN_S, 999.0)  # by a clock that was wrong
    assert not told.within("budget-gone", AGAIN_S, 1000.0)
    told.keep(["budget-gone"], 1000.0 + 2 * AGAIN_S)
    again = Told(Disk(), file)
    assert again.within("status", 7 * DAY, 1000.0 + 2 * AGAIN_S), "the state is told of by a time of its own"
    assert not again.within("no-call", float("inf"), 1000.0 + 2 * AGAIN_S), "what is over is forgotten"


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"a": "x"}', b"\x00\x00"])
def test_a_torn_record_is_none(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "alerts").write_bytes(torn)
    assert not Told(Disk(), tmp_path / "alerts").within("a", AGAIN_S, 0.0)


# ---- alarms
class Mailing:
    """The part over a real post office; alarms go to hanako's mailbox or, with `to`, into the spool."""

    def __init__(self, it: FakeOffice, to: str = HANAKO) -> None:
        core = SimpleNamespace(office=it.office, clock=it.clock, spool=it.spool)
        config = Config(site=SITE, user=USERS, mail=it.mail, alerts=Alerts(to=to))
        self.part = AlertsPart(SimpleNamespace(core=core, config=config))  # type: ignore[arg-type]
        self.told = Told(Disk(), it.paths.alerts)
        self.it = it

    async def alarm(self, *events_: tuple[Any, dict[str, object]]) -> list[str]:
        """-> the texts of the mails that are in hanako's mailbox since."""
        before = len(self.it.mailbox())
        handler = Alarms(self.part._heard)
        logging.getLogger("posthouse").addHandler(handler)
        try:
            for event, fields in events_:
                events.emit(event, **fields)
        finally:
            logging.getLogger("posthouse").removeHandler(handler)
        await wait_all_tasks_blocked()
        await self.part._post_alarms(self.told)
        return [str(message_from_bytes(m).get_payload()) for m in self.it.mailbox()[before:]]


def refused(login: str) -> tuple[Any, dict[str, object]]:
    return events.ACCOUNT_REFUSED, {"call_id": 7, "host": "pop.isp.example", "login": login, "why": "-ERR no"}


async def test_an_alarm_is_mailed_with_what_follows_and_what_to_do_once_a_day(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        house = Mailing(it)
        (text,) = await house.alarm((events.PIN_REFUSED, {"line": "gsm", "why": "wrong"}), (events.STOPPED, {}))
        assert "gsm: wrong" in text and "What to do: Put the right PIN" in text and "stopped" not in text
        assert await house.alarm((events.PIN_REFUSED, {"line": "gsm", "why": "wrong"})) == []
        house = Mailing(it)  # after a restart
        assert await house.alarm((events.PIN_REFUSED, {"line": "gsm", "why": "wrong"})) == []
        assert len(await house.alarm((events.PIN_REFUSED, {"line": "sat", "why": "wrong"}))) == 1
        it.clock.advance(AGAIN_S)
        assert len(await house.alarm((events.PIN_REFUSED, {"line": "gsm", "why": "wrong"}))) == 1


async def test_what_comes_together_is_one_mail(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        (text,) = await Mailing(it).alarm(*(refused(f"u{n}") for n in range(3)), refused("u0"))
        assert [text.count(f"refuses the login u{n}") for n in range(3)] == [1, 1, 1]


async def test_what_waits_to_be_sent_is_not_told_again(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        house = Mailing(it, to=FAR)
        await house.alarm(refused("u0"), refused("u1"))
        it.clock.advance(30 * DAY)
        await house.alarm(refused("u0"), refused("u1"))
        assert len(it.spool.messages) == 1
        await house.alarm(refused("u2"))
        assert len(it.spool.messages) == 2


async def test_nothing_from_outside_is_in_a_mail_as_it_came(tmp_path: Path) -> None:
    async with FakeOffice(tmp_path).running() as it:
        why = "x\r\nBcc: all@far.example\r\n\x1b[2J"
        await Mailing(it).alarm((events.PIN_REFUSED, {"line": "gsm", "why": why}))
        (data,) = it.mailbox()
        header, _, _ = data.partition(b"\r\n\r\n")
        assert b"\r\nBcc" not in header and b"\x1b" not in data


# ---- what lasts
@dataclass
class Lasting:
    """A house in which everything can be wrong."""

    wants_money: str = ""
    failing_s: float = 0.0
    free: int = 1 << 60
    seen: list[str] = field(default_factory=list)

    def part(self, root: Path) -> Any:
        paths, office = SimpleNamespace(root=root), SimpleNamespace(free_bytes=lambda: self.free)
        return AlertsPart(SimpleNamespace(caller=self, core=SimpleNamespace(paths=paths, office=office)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ({"wants_money": "the day's budget is spent"}, {"wants_money": ""},
         "no call is made for want of money: the day's budget is spent"),
        ({"failing_s": NO_CALL_S}, {"failing_s": NO_CALL_S - 1}, "every call of the last 24 hours has failed"),
        ({"free": 1000}, {"free": 1 << 60}, "the disk is filling: 1000 bytes are free for new mail"),
    ],
)  # fmt: skip
def test_what_lasts_is_told_of_once_each_time_it_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any], right: dict[str, Any], said: str
) -> None:
    caplog.set_level(logging.INFO)
    house = Lasting()
    part = house.part(tmp_path)
    for state, told in ((right, 0), (wrong, 1), (wrong, 1), (right, 1), (wrong, 2)):
        for name, value in state.items():
            setattr(house, name, value)
        part._look()
        assert caplog.messages == [said] * told
