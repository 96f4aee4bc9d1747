"""The fetcher against a provider in memory: what is fetched, deleted and recorded; and the line or the server gone at
every point there is, over as many calls as it takes."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from appliance.call import JobReport, OpenCall, Reason
from appliance.config.model import Tls
from appliance.mail.store.fetched import FetchedRecord, delivery_key, record_name
from appliance.mail.upstream.fetcher import FetchJob
from appliance.mail.upstream.pop3_fetch import HEADERS_ASKED
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from fakes.clock import NOON, FakeClock
from fakes.fetching import ACCOUNT, house, mails, message
from fakes.inbox import FakeInbox
from fakes.provider import Pop3Provider, Provider, Wire, run_job

BODIES = {
    "empty": b"",
    "header": b"Subject: x\r\n\r\n",
    "dots": b"\r\n.\r\n..\r\n...\r\n",
    "bare": b"a\nb\rc\r\n",
    "nul": b"\x00\xff\r\n",
    "big": message(1, 300_000),
    "long": b"x" * 100_000 + b"\r\n",
}


# ---- fetching
@pytest.mark.parametrize("capabilities", [("PIPELINING", "SASL PLAIN"), ("PIPELINING",), ()], ids=str)
async def test_everything_is_fetched_byte_for_byte_and_deleted(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=dict(BODIES), capabilities=capabilities)
        call, report = await home.fetch(provider)
        assert report == JobReport()
        assert sorted(home.inbox.messages) == sorted(BODIES.values())
        assert provider.mails == {}
        assert provider.connections == 1
        assert call.tally.fetched == len(BODIES)
        assert set(home.states().values()) == {"fetched"}
        assert {k for k, _ in home.inbox.delivered} == {delivery_key("hanako", home.account, uid) for uid in BODIES}
        # The server no longer lists them: the record goes with the next call.
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert home.states() == {}


async def test_few_round_trips(tmp_path: Path) -> None:
    """With PIPELINING: CAPA, AUTH, UIDL with STAT, then all of RETR before the first message is answered."""
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(20))
        await home.fetch(provider)
        verbs = [c.split()[0] for c in provider.commands]
        assert verbs[:4] == ["CAPA", "AUTH", "UIDL", "STAT"]
        assert verbs.count("RETR") == verbs.count("DELE") == 20
        assert [c for c in provider.commands if c.startswith("RETR")] == [f"RETR {n}" for n in range(20, 0, -1)]
        assert "LIST" not in verbs
        assert verbs[-1] == "QUIT"


@pytest.mark.parametrize(
    ("after_s", "reason", "asked"),
    [
        (0.5 * 3600, Reason.AT, False),
        (0.95 * 3600, Reason.AT, True),  # a little early is in time
        (1.0 * 3600, Reason.URGENT, True),
        (60, Reason.BY_HAND, True),
    ],
)
async def test_an_account_that_is_not_asked_at_each_call(
    tmp_path: Path, after_s: float, reason: Reason, asked: bool
) -> None:
    async with house(tmp_path, check_every_s=3600.0) as home:

        async def job(call: OpenCall) -> JobReport:
            call.reason = reason
            return await home.job.run(call)

        async def asks() -> int:
            provider = Pop3Provider(mails={})
            _, report = await run_job(job, {"pop": provider})
            assert report == JobReport()
            return provider.connections

        broken = OSError("no way")
        reason_before, reason = reason, Reason.AT
        assert (await run_job(job, {"pop": broken}))[1] != JobReport()  # one that failed is asked at the next call
        assert await asks() == 1
        home.restart()  # it is remembered
        home.clock.advance(after_s)
        reason = reason_before
        assert await asks() == asked


async def test_what_is_asked_for_is_bounded(tmp_path: Path) -> None:
    """No more than the window is asked for beyond the message that is coming."""
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(10, 40_000))
        most = [0]

        def point(name: str) -> None:
            if name == "half a message":
                asked = sum(c.startswith("RETR") for c in provider.commands)
                most[0] = max(most[0], asked - len(home.inbox.delivered))
            Pop3Provider.point(provider, name)

        provider.point = point  # type: ignore[method-assign]
        _, report = await home.fetch(provider, unbuffered=True)
        assert report == JobReport()
        assert len(home.inbox.delivered) == 10
        assert most[0] <= 4


async def test_durable_before_dele(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(5, 100_000))

        def answer(verb: str, argument: str) -> None:
            if verb == "DELE":
                uid = list(provider.mails)[int(argument) - 1]
                on_disk = (home.folder / "fetched" / record_name("hanako", home.account)).read_text()
                assert f'"{uid}"' in on_disk
                assert provider.mails[uid] in home.inbox.messages

        provider.answer = answer  # type: ignore[assignment]
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert provider.mails == {}


async def test_keep_leaves_all_and_fetches_once(tmp_path: Path) -> None:
    async with house(tmp_path, keep=True) as home:
        provider = Pop3Provider(mails=mails(3))
        await home.fetch(provider)
        provider.mails["uid3"] = message(3)
        home.restart()
        call, report = await home.fetch(provider)
        assert report == JobReport()
        assert call.tally.fetched == 1
        assert len(provider.mails) == 4
        assert sorted(home.inbox.messages) == [message(i) for i in range(4)]
        assert [c for c in provider.commands if c.startswith("LIST")] == ["LIST", "LIST 4"]
        assert not any(c.startswith("DELE") for c in provider.commands)


async def test_a_full_mailbox_leaves_mail_upstream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails={"a": message(0), "b": message(1, 50_000), "c": message(2)})
        home.inbox.room = 1000
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert list(provider.mails) == ["b"]
        assert "mailbox of hanako is full; left upstream: 1" in caplog.text
        home.inbox.room = None
        await home.fetch(provider)
        assert provider.mails == {}
        assert len(home.inbox.messages) == 3


async def test_a_message_that_the_server_will_not_give(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(3))
        provider.answer = lambda verb, argument: "-ERR damaged" if (verb, argument) == ("RETR", "2") else None
        call, report = await home.fetch(provider)
        assert not report.left
        assert "damaged" in report.detail
        assert (call.tally.fetched, call.tally.failed) == (2, 1)
        assert list(provider.mails) == ["uid1"]


# ---- the first fetch
async def test_backlog_nothing_old_is_fetched_or_deleted(tmp_path: Path) -> None:
    async with house(tmp_path, backlog_s=0.0) as home:
        provider = Pop3Provider(mails=mails(3))
        for _ in range(2):
            call, report = await home.fetch(provider)
            assert report == JobReport()
            assert call.tally.fetched == 0
            home.restart()
        provider.mails["new"] = message(9)
        call, _ = await home.fetch(provider)
        assert home.inbox.messages == [message(9)]
        assert sorted(provider.mails) == ["uid0", "uid1", "uid2"]
        assert set(home.states()) == {"uid0", "uid1", "uid2", "new"}


async def test_backlog_of_an_empty_mailbox_counts_as_the_first_fetch(tmp_path: Path) -> None:
    async with house(tmp_path, backlog_s=0.0) as home:
        provider = Pop3Provider()
        await home.fetch(provider)
        home.restart()
        provider.mails = mails(2)
        await home.fetch(provider)
        assert len(home.inbox.messages) == 2


async def test_backlog_by_date(tmp_path: Path) -> None:
    async with house(tmp_path, backlog_s=5 * 86400.0) as home:
        provider = Pop3Provider(
            mails={
                "old": message(0, date="Wed, 31 Dec 2025 11:59:59 +0000"),
                "new": message(1, date="Wed, 31 Dec 2025 12:00:01 +0000"),
                "odd": message(2, date="yesterday"),
            }
        )
        await home.fetch(provider)
        assert sorted(home.inbox.messages) == sorted(
            [message(1, date="Wed, 31 Dec 2025 12:00:01 +0000"), message(2, date="yesterday")]
        )
        assert list(provider.mails) == ["old"]
        assert home.record.first_fetch == NOON


# ---- unique-ids
@pytest.mark.parametrize("top", [True, False])
async def test_without_uidl(tmp_path: Path, top: bool) -> None:
    """Told apart by Message-ID and size, before a body is fetched where there is TOP."""
    async with house(tmp_path, keep=True) as home:
        provider = Pop3Provider(mails=mails(3))
        refused = {"UIDL"} if top else {"UIDL", "TOP"}
        provider.answer = lambda verb, argument: "-ERR unknown command" if verb in refused else None
        for _ in range(3):
            _, report = await home.fetch(provider)
            assert report == JobReport()
            home.restart()
        assert sorted(home.inbox.messages) == [message(i) for i in range(3)]
        retrieved = sum(c.startswith("RETR") for c in provider.commands)
        assert retrieved == (3 if top else 9)
        provider.mails["more"] = message(9)
        await home.fetch(provider)
        assert home.inbox.messages[3:] == [message(9)]


async def test_without_uidl_and_message_id(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails={"a": b"Subject: a\r\n\r\nx\r\n", "b": b"Subject: b\r\n\r\nx\r\n", "c": b""})
        provider.answer = lambda verb, argument: {"UIDL": "-ERR no", "QUIT": "drop"}.get(verb)
        want = sorted(provider.mails.values())
        await home.fetch(provider)
        assert sorted(home.inbox.messages) == want
        provider.answer = lambda verb, argument: "-ERR no" if verb == "UIDL" else None
        await home.fetch(provider)
        assert sorted(home.inbox.messages) == want
        assert provider.mails == {}


@pytest.mark.parametrize("account", [{"keep": True}, {"backlog_s": 0.0}], ids=["kept", "skipped"])
async def test_changed_unique_ids_fetch_nothing_twice(tmp_path: Path, account: dict[str, object]) -> None:
    async with house(tmp_path, **account) as home:
        provider = Pop3Provider(mails=mails(3))
        await home.fetch(provider)
        before = len(home.inbox.messages)
        provider.mails = {f"other{uid}": data for uid, data in provider.mails.items()}
        provider.mails["new"] = message(9, date="Mon, 05 Jan 2026 13:00:00 +0000")
        home.restart()
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert home.inbox.messages[before:] == [message(9, date="Mon, 05 Jan 2026 13:00:00 +0000")]
        assert {"otheruid0", "otheruid1", "otheruid2"} <= set(provider.mails)
        assert set(home.states()) == {"otheruid0", "otheruid1", "otheruid2", "new"}


async def test_what_lies_in_the_mailbox_is_not_fetched_again(tmp_path: Path) -> None:
    """As after a power cut between the delivery and its record."""
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(2))
        draft = home.inbox.draft()
        await draft.write(message(0))
        await home.inbox.deliver(draft, key=delivery_key("hanako", home.account, "uid0"))
        call, report = await home.fetch(provider)
        assert report == JobReport()
        assert call.tally.fetched == 1
        assert home.inbox.messages == [message(0), message(1)]
        assert provider.mails == {}


def refusing(*verbs: str) -> Callable[[str, str], str | None]:
    return lambda verb, argument: "-ERR unknown command" if verb in verbs else None


@pytest.mark.parametrize("uidl", [True, False])
async def test_what_was_skipped_stays_though_headers_are_refused_later(tmp_path: Path, uidl: bool) -> None:
    async with house(tmp_path, backlog_s=0.0) as home:
        provider = Pop3Provider(mails=mails(3))
        if not uidl:
            provider.answer = refusing("UIDL")
        await home.fetch(provider)
        home.restart()
        provider.mails["new"] = message(9, date="Mon, 05 Jan 2026 13:00:00 +0000")
        provider.answer = refusing("UIDL", "TOP")
        for _ in range(2):
            _, report = await home.fetch(provider)
            assert report == JobReport()
        assert home.inbox.messages == [message(9, date="Mon, 05 Jan 2026 13:00:00 +0000")]
        assert list(provider.mails) == ["uid0", "uid1", "uid2"]


@pytest.mark.parametrize("backlog_s", [0.0, 5 * 86400.0])
async def test_backlog_where_nothing_has_a_name(tmp_path: Path, backlog_s: float) -> None:
    async with house(tmp_path, backlog_s=backlog_s) as home:
        old = {f"old{i}": message(i, date="Wed, 31 Dec 2025 11:59:59 +0000") for i in range(100)}
        provider = Pop3Provider(mails={**old, "big": message(500, 200_000)}, answer=refusing("UIDL", "TOP"))
        want = [provider.mails["big"]] if backlog_s else []
        for _ in range(2):
            _, report = await home.fetch(provider)
            assert report == JobReport()
            assert home.inbox.messages == want
            assert list(provider.mails) == [*old, *([] if want else ["big"])]
            home.restart()
        provider.mails["new"] = message(900)
        await home.fetch(provider)
        assert home.inbox.messages == [*want, message(900)]
        assert "new" not in provider.mails


@pytest.mark.parametrize("cut", [False, True])
async def test_a_first_fetch_that_could_not_see_all(tmp_path: Path, cut: bool) -> None:
    """Broken before all was seen it was no first fetch; what the server will not give it leaves alone."""
    async with house(tmp_path, backlog_s=0.0) as home:
        provider = Pop3Provider(mails=mails(3))
        reply = "drop" if cut else "-ERR damaged"
        no = refusing("UIDL", "TOP")
        provider.answer = lambda verb, argument: reply if (verb, argument) == ("RETR", "2") else no(verb, argument)
        _, report = await home.fetch(provider)
        assert report.left is cut
        assert (home.record.first_fetch is None) is cut
        assert len(provider.mails) == 3
        if cut:
            provider.answer = no
            for _ in range(2):
                _, report = await home.fetch(provider)
                assert report == JobReport()
        assert home.inbox.messages == []
        assert len(provider.mails) == 3


async def test_changed_unique_ids_after_a_lost_quit(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(3), answer=lambda verb, argument: "drop" if verb == "QUIT" else None)
        assert (await home.fetch(provider))[1].left
        provider.mails = {f"other{uid}": data for uid, data in provider.mails.items()} | {"new": message(9)}
        provider.answer = lambda verb, argument: None
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert sorted(home.inbox.messages) == [*map(message, range(3)), message(9)]
        assert provider.mails == {}


async def test_no_headers_are_asked_for_in_ordinary_calls(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider()
        for n in range(4):
            provider.mails = {f"call{n}": message(n), f"more{n}": message(n + 10)}
            await home.fetch(provider)
        assert len(home.inbox.messages) == 8
        assert not any(c.startswith("TOP") for c in provider.commands)


async def test_what_is_recorded_of_a_message_is_its_own_size(tmp_path: Path) -> None:
    """Though LIST was not asked: unique-ids that change in a later call are matched by it."""
    async with house(tmp_path) as home:
        want = {"a": message(0, 90), "b": message(1, 3000), "c": message(2, 600)}
        provider = Pop3Provider(mails=dict(want), answer=lambda verb, argument: "drop" if verb == "QUIT" else None)
        await home.fetch(provider)
        assert not any(c.startswith("LIST") for c in provider.commands)
        assert {uid: known.size for uid, known in home.record.known.items()} == {u: len(d) for u, d in want.items()}


async def test_headers_are_asked_for_a_few_at_a_time(tmp_path: Path) -> None:
    async with house(tmp_path, backlog_s=86400.0) as home:
        provider = Pop3Provider(mails={f"u{i}": message(i) for i in range(3 * HEADERS_ASKED)})
        answered, most = 0, 0

        def point(name: str) -> None:
            nonlocal answered, most
            if name == "half a message":
                answered += 1
                waiting = Pop3Wire.last.buffer.count(b"TOP")
                most = max(most, waiting)

        class Pop3Wire(Wire):
            last: Wire

        session = provider.session

        async def watched(wire: Wire) -> None:
            Pop3Wire.last = wire
            await session(wire)

        provider.session, provider.point = watched, point  # type: ignore[method-assign]
        await home.fetch(provider)
        assert len(home.inbox.messages) == 3 * HEADERS_ASKED
        assert 1 < most < HEADERS_ASKED


# ---- room
def listing(size: int) -> type[Pop3Provider]:
    """A server whose LIST says `size` of every message."""

    class Liar(Pop3Provider):
        @staticmethod
        def _many(wire: Wire, lines: list[str]) -> None:
            numbers = all(line.partition(" ")[2].isdigit() for line in lines)
            Pop3Provider._many(wire, [f"{line.split()[0]} {size}" for line in lines] if numbers else lines)

    return Liar


@pytest.mark.parametrize("what", ["quota", "disk"])
async def test_a_body_that_outgrows_the_room(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    async with house(tmp_path) as home:
        provider = listing(100)(mails={"a": message(0), "b": message(1, 3_000_000), "c": message(2)})
        room = 400_000
        if what == "quota":
            home.inbox.room = room
        else:
            home.inbox.disk = lambda: room - sum(f.stat().st_size for f in (tmp_path / "mail").iterdir())
        _, report = await home.fetch(provider, unbuffered=True)
        assert report.left
        assert "no room for more of message b" in report.detail
        assert home.inbox.messages == [message(2)]  # the newest first
        assert ("left upstream: 1" if what == "quota" else "1 messages of") in caplog.text
        assert ("mailbox of hanako is full" in caplog.text) is (what == "quota")
        assert ("the disk is full" in caplog.text) is (what == "disk")
        assert list((tmp_path / "mail").iterdir()) == []
        # It does not stand in the way of the others again.
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert home.inbox.messages == [message(2), message(0)]
        assert list(provider.mails) == ["b"]
        room = 8_000_000
        if what == "quota":
            home.inbox.room = room
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert provider.mails == {}
        assert len(home.inbox.messages) == 3


async def test_a_full_disk_leaves_mail_upstream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a message has on the disk already is not asked for a second time."""
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails={"a": message(0, 1_000_000), "b": message(1, 1_500_000), "c": message(2)})
        home.inbox.disk = lambda: 1_300_000 - sum(f.stat().st_size for f in (tmp_path / "mail").iterdir())
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert list(provider.mails) == ["b"]
        assert "the disk is full: 1 messages of fetch hanako@pop:110" in caplog.text


# ---- failures
@pytest.mark.parametrize(
    ("server", "left", "part"),
    [
        (OSError(111, "Connection refused"), True, "refused"),
        ({"CONNECT": "-ERR [SYS/TEMP] busy"}, True, "busy"),
        ({"AUTH": "-ERR [AUTH] wrong"}, False, "wrong"),
        ({"AUTH": "-ERR [IN-USE] locked"}, True, "locked"),
        ({"AUTH": "drop"}, True, "closed the connection"),
        ({"UIDL": "drop"}, True, "closed the connection"),
        ({"STAT": "-ERR not now", "LIST": "-ERR not now"}, True, "not now"),
        ({"RETR": "drop"}, True, "closed the connection"),
        ({"DELE": "drop"}, True, "connection"),
        ({"QUIT": "-ERR some messages not deleted"}, True, "not deleted"),
        ({"CAPA": "what?"}, True, "what?"),
    ],
    ids=str,
)
async def test_a_failure_has_its_reason(
    tmp_path: Path, server: OSError | dict[str, str], left: bool, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    async with house(tmp_path) as home:
        provider: Provider | OSError = (
            server if isinstance(server, OSError) else Pop3Provider(mails=mails(2), answer=lambda v, a: server.get(v))
        )
        call, report = await home.fetch(provider)
        assert report.left is left
        assert part in report.detail
        assert call.tally.failed == 1
        assert ("call 7: fetch hanako@pop:110: " + report.detail in caplog.text) is not left
        assert "geheim" not in caplog.text


@pytest.mark.parametrize("size", [60, 200_000])
async def test_a_full_disk_loses_nothing(tmp_path: Path, size: int) -> None:
    async with house(tmp_path) as home:
        provider = Pop3Provider(mails=mails(3, size))
        home.inbox.fail = True
        _, report = await home.fetch(provider)
        assert report.left
        assert "no space left" in report.detail
        assert len(provider.mails) == 3
        assert list((tmp_path / "mail").iterdir()) == []
        home.inbox.fail = False
        _, report = await home.fetch(provider)
        assert report == JobReport()
        assert len(home.inbox.messages) == 3


# ---- TLS
CA = trustme.CA()


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
@pytest.mark.parametrize("name", ["pop", "other"])
async def test_tls(tmp_path: Path, tls: Tls, name: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(name).configure_cert(context)
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(ca))
    async with house(tmp_path / "home", tls=tls, ca=str(ca)) as home:
        provider = Pop3Provider(mails=mails(2), tls=context, starttls=tls is Tls.STARTTLS, login=("hanako", "geheim"))
        _, report = await home.fetch(provider)
        if name == "pop":
            assert report == JobReport()
            assert len(home.inbox.messages) == 2
        else:
            assert "mismatch" in report.detail
            assert not any(c.startswith(("AUTH", "USER", "PASS")) for c in provider.commands)


# ---- gone at every point
@pytest.mark.parametrize("who", ["server", "line"])
@pytest.mark.parametrize("capabilities", [("TOP", "UIDL", "PIPELINING", "SASL PLAIN"), ("UIDL",)], ids=["fast", "old"])
@pytest.mark.parametrize("keep", [False, True], ids=["delete", "keep"])
async def test_cut_at_every_point_nothing_is_lost_or_doubled(
    tmp_path: Path, who: str, capabilities: tuple[str, ...], keep: bool
) -> None:
    want = {**mails(3), "big": message(7, 150_000)}
    async with house(tmp_path / "whole", keep=keep) as home:
        provider = Pop3Provider(mails=dict(want), capabilities=capabilities)
        await home.fetch(provider)
        total = len(provider.points)
    assert total > 20
    for at in range(1, total + 1):
        async with house(tmp_path / str(at), keep=keep) as home:
            gone = trio.Event()
            provider = Pop3Provider(
                mails=dict(want), capabilities=capabilities, cut_at=at, on_cut=gone.set if who == "line" else None
            )
            await home.fetch(provider, cancelled=gone)
            arrived = home.inbox.messages
            # What is gone upstream lies here; what lies here is whole, and there once.
            assert all(data in arrived for uid, data in want.items() if uid not in provider.mails)
            assert all(data in want.values() for data in arrived)
            provider.cut_at = 0
            for _ in range(2):
                home.restart()
                _, report = await home.fetch(provider)
                assert report == JobReport()
            assert sorted(home.inbox.messages) == sorted(want.values()), f"cut at {at}"
            assert provider.mails == (want if keep else {})


async def test_a_whole_message_is_kept_though_the_line_goes(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        gone = trio.Event()

        class Slow(FakeInbox):
            async def deliver(self, *arguments: Any, **named: Any) -> None:
                gone.set()
                for _ in range(20):
                    await trio.sleep(0)
                await super().deliver(*arguments, **named)

        home.inbox = Slow(tmp_path / "mail")
        home.restart()
        provider = Pop3Provider(mails=mails(1))
        call, _ = await home.fetch(provider, cancelled=gone)
        assert home.inbox.messages == [message(0)]
        assert home.states() == {"uid0": "fetched"}
        assert call.tally.fetched == 1
        assert list(provider.mails) == ["uid0"]


async def test_a_silent_server_is_given_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    class Silent(Pop3Provider):
        async def session(self, wire: Wire) -> None:
            await trio.sleep_forever()

    record_folder = tmp_path / "fetched"
    record_folder.mkdir()
    disk = Disk()
    record = FetchedRecord(disk, Committer(disk, tmp_path), record_folder, "x", corrupt=tmp_path / "corrupt")
    job = FetchJob(ACCOUNT, "hanako", FakeInbox(tmp_path / "mail"), record, "geheim", FakeClock())
    _, report = await run_job(job.run, {"pop": Silent()}, wall_s=1000.0)
    assert isinstance(report, JobReport)
    assert report.left
    assert "no answer within 300 s" in report.detail


async def test_nothing_more_to_do_in_this_call(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with house(tmp_path) as home:
        with trio.move_on_after(10_000) as waited:
            await home.job.wait_work()
        assert waited.cancelled_caught
        assert home.job.name == "fetch hanako@pop:110"
