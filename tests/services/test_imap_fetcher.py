"""The fetcher over IMAP against a provider in memory: what is asked for, fetched, deleted and recorded; and the line or
the server gone at every point there is, over as many calls as it takes."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from pathlib import Path

import pytest
import trio
import trustme

from appliance.call import JobReport, OpenCall
from appliance.config.model import Tls
from appliance.mail.store.fetched import delivery_key
from appliance.mail.upstream.imap_fetch import FEW, PACKED, WINDOW
from appliance.mail.upstream.intake import Intake
from appliance.protocol.imap_client import ImapClient
from appliance.protocol.imap_syntax import read_set
from fakes.clock import NOON
from fakes.fetching import House, house, message
from fakes.imap import ALL, ImapProvider
from fakes.provider import run_job

IMAP = {"protocol": "imap", "port": 143}
BARE = ("IMAP4rev1",)


def server(n: int = 0, size: int = 60, **more: object) -> ImapProvider:
    provider = ImapProvider(**more)  # type: ignore[arg-type]
    for i in range(n):
        provider.add(message(i, size))
    return provider


def verbs(provider: ImapProvider) -> list[str]:
    return [c.removeprefix("UID ").split()[0] for c in provider.commands]


async def fetched(home: House, provider: ImapProvider, **more: object) -> OpenCall:
    provider.commands.clear()
    provider.asked.clear()
    call, report = await home.fetch(provider, **more)
    assert report == JobReport(), report
    return call


# ---- fetching
@pytest.mark.parametrize("unbuffered", [False, True])
@pytest.mark.parametrize("uid_last", [False, True])
@pytest.mark.parametrize(
    "capabilities", [ALL, BARE, ("IMAP4rev2", "AUTH=PLAIN"), ("IMAP4rev1", "COMPRESS=DEFLATE")], ids=str
)
async def test_everything_is_fetched_byte_for_byte(
    tmp_path: Path, capabilities: tuple[str, ...], uid_last: bool, unbuffered: bool
) -> None:
    bodies = [
        b"",
        b"Subject: x\r\n\r\n",
        b"\r\n.\r\n)\r\n",
        b"a\nb\rc\r\n",
        b"\x00\xff{5}\r\n",
        message(1, 300_000),
        message(2),
    ]
    async with house(tmp_path, **IMAP) as home:
        provider = server(capabilities=capabilities, uid_last=uid_last)
        for body in bodies:
            provider.add(body)
        call = await fetched(home, provider, unbuffered=unbuffered)
        assert sorted(home.inbox.messages) == sorted(bodies)
        assert call.tally.fetched == len(bodies)
        gone = any(c in capabilities for c in ("UIDPLUS", "IMAP4rev2"))
        assert len(provider.mails) == (0 if gone else len(bodies))
        assert provider.marked == (set() if gone else set(range(1, len(bodies) + 1)))
        assert "EXPUNGE" not in verbs(provider) or gone
        assert {k for k, _ in home.inbox.delivered} == {
            delivery_key("hanako", home.account, f"1700000000.{uid}") for uid in range(1, len(bodies) + 1)
        }
        home.restart()
        call = await fetched(home, provider)
        assert call.tally.fetched == 0
        assert "FETCH" not in verbs(provider)


async def test_round_trips_do_not_grow_with_the_messages(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(20)
        await fetched(home, provider)
        assert verbs(provider) == [
            "AUTHENTICATE",
            "ENABLE",
            "SELECT",
            "SEARCH",
            "SEARCH",
            "COMPRESS",
            "FETCH",
            "STORE",
            "EXPUNGE",
            "LOGOUT",
        ]
        for i in range(100):
            provider.add(message(100 + i))
        await fetched(home, provider)
        assert verbs(provider)[:6] == ["AUTHENTICATE", "ENABLE", "SELECT", "SEARCH", "SEARCH", "COMPRESS"]
        assert set(verbs(provider)[6:-3]) == {"FETCH"}
        assert verbs(provider)[-3:] == ["STORE", "EXPUNGE", "LOGOUT"]
        assert len(home.inbox.messages) == 120
        assert "RFC822.SIZE" not in str(provider.commands)


async def test_sizes_are_asked_for_where_they_matter(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(10)
        for n in range(20, 23):
            provider.add(message(n, 20_000))
        await fetched(home, provider)
        assert [c for c in provider.commands if "RFC822.SIZE" in c] == ["UID FETCH 11:13 (RFC822.SIZE)"]
        assert len(home.inbox.messages) == 13
        for n in range(30, 30 + FEW):  # as many lines as a search has
            provider.add(message(n))
        await fetched(home, provider)
        assert [c for c in provider.commands if "RFC822.SIZE" in c] == ["UID FETCH 14:* (RFC822.SIZE)"]
        home.inbox.room = 10_000  # all are letters, but they may not fit
        for n in range(40, 50):
            provider.add(message(n))
        await fetched(home, provider)
        assert [c for c in provider.commands if "RFC822.SIZE" in c] == ["UID FETCH 18:27 (RFC822.SIZE)"]
        assert len(home.inbox.messages) == 13 + FEW + 10


async def test_a_letter_is_recorded_with_its_own_size(tmp_path: Path) -> None:
    """Though nobody asked for it: it is known by it should UIDVALIDITY change before it is deleted."""
    async with house(tmp_path, **IMAP) as home:
        provider = server(10, answer=lambda verb, argument: "drop" if verb == "STORE" else None)
        await home.fetch(provider)
        assert {k.size for k in home.record.known.values()} == {len(data) for data in provider.mails.values()}
        provider.uidvalidity += 1
        provider.answer = lambda verb, argument: None
        await fetched(home, provider)
        assert len(home.inbox.messages) == 10
        assert provider.mails == {}


@pytest.mark.parametrize(
    "more", [{"modseq": 7}, {"capabilities": ("IMAP4rev1", "UIDPLUS", "AUTH=PLAIN", "SASL-IR")}], ids=str
)
@pytest.mark.parametrize("keep", [True, False])
async def test_an_unchanged_folder_is_seen_in_two_round_trips(
    tmp_path: Path, keep: bool, more: dict[str, object]
) -> None:
    async with house(tmp_path, **IMAP, keep=keep) as home:
        provider = server(5, **more)
        await fetched(home, provider)
        for _ in range(2):
            home.restart()
            await fetched(home, provider)
            # ENABLE goes out with SELECT.
            asked = [verb for verb in verbs(provider) if verb != "ENABLE"]
            assert asked == ["AUTHENTICATE", "EXAMINE" if keep else "SELECT", "LOGOUT"]
        provider.add(message(9))
        await fetched(home, provider)
        assert len(home.inbox.messages) == 6


async def test_a_server_that_names_no_next_uid(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP, keep=True) as home:
        provider = server(capabilities=("IMAP4rev1", "AUTH=PLAIN"))
        provider.mails = {4: message(4), 9: message(9)}
        for _ in range(2):
            await fetched(home, provider)
        provider.mails[12] = message(12)
        await fetched(home, provider)
        assert home.inbox.messages == [message(4), message(9), message(12)]


async def test_small_before_large_and_many_to_a_fetch(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server()
        sizes = [500_000, 100, 3000, 80_000, 200, 40_000]
        for i, size in enumerate(sizes):
            provider.add(message(i, size))
        await fetched(home, provider)
        assert [a.partition(" ")[0] for a in provider.asked] == ["2:3,5", "6", "4", "1"]


@pytest.mark.parametrize("compress", [True, False])
async def test_what_is_asked_for_is_bounded(tmp_path: Path, compress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what has not come, however late the server says that a FETCH is done."""
    asked, most = [0], [0]
    retrieve, finish = ImapClient.retrieve, Intake.finish

    def counted(client: ImapClient, uids: Collection[int]) -> None:
        asked[0] += len(uids)
        most[0] = max(most[0], asked[0])
        retrieve(client, uids)

    async def come(self: Intake, nursery: trio.Nursery) -> None:
        asked[0] -= 1
        await finish(self, nursery)

    monkeypatch.setattr(ImapClient, "retrieve", counted)
    monkeypatch.setattr(Intake, "finish", come)
    capabilities = tuple(c for c in ALL if compress or not c.startswith("COMPRESS"))
    window = WINDOW * (PACKED if compress else 1)
    async with house(tmp_path, **IMAP) as home:
        await fetched(home, server(60, 30_000, capabilities=capabilities), unbuffered=True)
        assert len(home.inbox.messages) == 60
    assert window <= most[0] * 30_000 < window + 30_000


async def test_one_that_is_not_given_keeps_no_other_back(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:

        def answer(verb: str, argument: str) -> str | None:
            which, _, what = argument.partition(" ")
            return "NO damaged" if "BODY.PEEK[]" in what and 3 in read_set(which) else None

        provider = server(6, answer=answer)
        call, report = await home.fetch(provider)
        assert report.detail == "message 3 was not given: damaged"
        assert (call.tally.fetched, list(provider.mails)) == (5, [3])


async def test_keep_leaves_all_and_forgets_what_has_gone(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP, keep=True) as home:
        provider = server(4)
        await fetched(home, provider)
        del provider.mails[2]
        provider.add(message(9))
        call = await fetched(home, provider)
        assert call.tally.fetched == 1
        assert sorted(home.states()) == [f"1700000000.{uid}" for uid in (1, 3, 4, 5)]
        assert "STORE" not in verbs(provider)
        assert "EXAMINE" in verbs(provider)


async def test_a_server_that_says_ok_and_deletes_nothing_sends_nothing_twice(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(3, answer=lambda verb, argument: "OK done" if verb in ("STORE", "EXPUNGE") else None)
        for _ in range(3):
            await fetched(home, provider)
            home.restart()
        assert len(home.inbox.messages) == 3


async def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(2, answer=lambda verb, argument: "NO [NOPERM] read-only" if verb == "STORE" else None)
        _, report = await home.fetch(provider)
        assert "could not be deleted" in report.detail
        assert not report.left
        _, report = await home.fetch(provider)
        assert len(home.inbox.messages) == 2


async def test_what_is_expunged_by_another_meanwhile_is_no_fault(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(3)

        def answer(verb: str, argument: str) -> None:
            if verb == "FETCH" and "BODY" in argument:
                provider.mails.pop(2, None)

        provider.answer = answer  # type: ignore[assignment]
        await fetched(home, provider)
        assert home.inbox.messages == [message(0), message(2)]


async def test_a_message_that_the_server_will_not_give(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(2)
        provider.add(message(7, 200_000))
        provider.answer = lambda verb, argument: "NO damaged" if argument.startswith("3 (UID BODY.PEEK[]") else None
        call, report = await home.fetch(provider)
        assert "message 3 was not given: damaged" in report.detail
        assert (call.tally.fetched, call.tally.failed) == (2, 1)
        assert list(provider.mails) == [3]
        provider.answer = lambda verb, argument: None
        await fetched(home, provider)
        assert len(home.inbox.messages) == 3


async def test_a_full_mailbox_leaves_mail_upstream(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(2)
        provider.add(message(7, 50_000))
        home.inbox.room = 1000
        await fetched(home, provider)
        assert list(provider.mails) == [3]
        assert "mailbox of hanako is full; left upstream: 1" in caplog.text
        home.inbox.room = None
        await fetched(home, provider)
        assert provider.mails == {}
        assert len(home.inbox.messages) == 3


# ---- the first fetch, changed UIDs
@pytest.mark.parametrize("capabilities", [ALL, BARE], ids=["all", "bare"])
async def test_backlog_nothing_old_is_fetched_or_deleted(tmp_path: Path, capabilities: tuple[str, ...]) -> None:
    async with house(tmp_path, **IMAP, backlog_s=0.0) as home:
        provider = server(300, capabilities=capabilities)
        await fetched(home, provider)
        assert "FETCH" not in verbs(provider)
        home.restart()
        provider.add(message(9))
        await fetched(home, provider)
        assert home.inbox.messages == [message(9)]
        assert set(range(1, 301)) <= set(provider.mails)


async def test_backlog_by_the_time_of_arrival(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP, backlog_s=5 * 86400.0) as home:
        provider = server(3)
        provider.arrived = {
            1: "31-Dec-2025 11:59:59 +0000",
            2: "31-Dec-2025 12:00:01 +0000",
            3: "31-Dec-2025 20:30:00 +0900",
        }
        await fetched(home, provider)
        assert home.inbox.messages == [message(1)]
        assert sorted(provider.mails) == [1, 3]
        assert home.record.first_fetch == NOON


@pytest.mark.parametrize("account", [{"keep": True}, {"backlog_s": 0.0}], ids=["kept", "skipped"])
async def test_another_uidvalidity_fetches_nothing_twice(tmp_path: Path, account: dict[str, object]) -> None:
    async with house(tmp_path, **IMAP, **account) as home:
        provider = server(3)
        provider.add(b"Date: Mon, 05 Jan 2026 11:00:00 +0000\r\nSubject: nameless\r\n\r\nx\r\n")
        await fetched(home, provider)
        before = len(home.inbox.messages)
        provider.uidvalidity = 1800000000
        provider.mails = {uid + 40: data for uid, data in provider.mails.items()}
        provider.uidnext = 50
        new = message(9, date="Mon, 05 Jan 2026 13:00:00 +0000")
        provider.add(new)
        home.restart()
        await fetched(home, provider)
        assert home.inbox.messages[before:] == [new]
        assert len(provider.asked) == 1
        assert {41, 42, 43, 44} <= set(provider.mails)
        home.restart()
        await fetched(home, provider)
        assert "FETCH" not in verbs(provider)


async def test_what_lies_in_the_mailbox_is_not_fetched_again(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(2)
        draft = home.inbox.draft()
        await draft.write(message(0))
        await home.inbox.deliver(draft, key=delivery_key("hanako", home.account, "1700000000.1"))
        call = await fetched(home, provider)
        assert call.tally.fetched == 1
        assert home.inbox.messages == [message(0), message(1)]
        assert provider.mails == {}


# ---- a message that the line cuts
class _After:
    """Cuts the line once so many bytes of one answer have come."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.gone = trio.Event()
        self.came = 0

    async def fetch(self, home: House, provider: ImapProvider) -> JobReport:
        async def job(call: OpenCall) -> object:
            plain = call.open_stream

            async def counting(host: str, port: int) -> trio.abc.HalfCloseableStream:
                stream = await plain(host, port)
                receive = stream.receive_some

                async def some(limit: int | None = None) -> bytes:
                    if self.left <= 0:
                        self.gone.set()
                        await trio.sleep_forever()
                    data = bytes(await receive(min(limit or 65536, 1 << 14, self.left)))
                    self.left -= len(data)
                    self.came += len(data)
                    return data

                stream.receive_some = some  # type: ignore[method-assign]
                return stream

            call.open_stream = counting
            return await home.job.run(call)

        _, report = await run_job(job, {"pop": provider}, cancelled=self.gone)
        assert report is None or isinstance(report, JobReport)
        return report or JobReport()


@pytest.mark.parametrize("restart", [False, True])
async def test_a_cut_message_goes_on_at_its_next_byte(tmp_path: Path, restart: bool) -> None:
    """Over as many calls as it takes: what came is not asked for again."""
    big = message(1, 1_000_000)
    async with house(tmp_path, **IMAP) as home:
        provider = server(capabilities=tuple(c for c in ALL if not c.startswith("COMPRESS")))
        provider.add(big)
        carried = calls = 0
        while provider.mails and calls < 20:
            calls += 1
            cut = _After(150_000)
            await cut.fetch(home, provider)
            carried += cut.came
            if restart:
                home.restart()
        assert home.inbox.messages == [big]
        assert 7 <= calls <= 9
        assert carried < len(big) + calls * 1000
        offsets = [int(a.partition("<")[2].partition(".")[0] or 0) for a in provider.asked]
        assert offsets == sorted(offsets)
        assert offsets[1] > 140_000
        assert not [p for p in (tmp_path / "fetched" / "parts").rglob("*") if p.is_file()]


async def test_a_part_that_was_damaged_begins_anew(tmp_path: Path) -> None:
    big = message(1, 300_000)
    async with house(tmp_path, **IMAP) as home:
        provider = server(capabilities=("IMAP4rev1", "AUTH=PLAIN", "UIDPLUS"))
        provider.add(big)
        await _After(100_000).fetch(home, provider)
        (part,) = (p for p in (tmp_path / "fetched" / "parts").rglob("*") if p.is_file())
        assert big.startswith(part.read_bytes())
        part.write_bytes(b"x" * part.stat().st_size)
        home.restart()
        _, report = await home.fetch(provider)
        assert report.left
        assert "from its beginning" in report.detail
        await fetched(home, provider)
        assert home.inbox.messages == [big]


async def test_a_message_that_changed_begins_anew(tmp_path: Path) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(capabilities=("IMAP4rev1", "AUTH=PLAIN", "UIDPLUS"))
        provider.add(message(1, 300_000))
        await _After(100_000).fetch(home, provider)
        provider.mails[1] = message(2, 200_000)
        _, report = await home.fetch(provider)
        assert report.left
        await fetched(home, provider)
        assert home.inbox.messages == [message(2, 200_000)]


# ---- failures
@pytest.mark.parametrize(
    ("answers", "left", "part"),
    [
        ({"CONNECT": "* BYE too busy"}, True, "too busy"),
        ({"AUTHENTICATE": "NO [AUTHENTICATIONFAILED] wrong"}, False, "wrong"),
        ({"AUTHENTICATE": "NO [UNAVAILABLE] later"}, True, "later"),
        ({"AUTHENTICATE": "drop"}, True, "closed the connection"),
        ({"SELECT": "NO [NONEXISTENT] no such folder"}, False, "no such folder"),
        ({"SELECT": "drop"}, True, "closed the connection"),
        ({"SEARCH": "drop"}, True, "closed the connection"),
        ({"FETCH": "drop"}, True, "closed the connection"),
        ({"STORE": "drop"}, True, "closed the connection"),
        ({"SELECT": "what?"}, True, "that is no IMAP"),
        ({"COMPRESS": "NO [COMPRESSIONACTIVE] it is"}, False, ""),
    ],
    ids=str,
)  # fmt: skip
async def test_a_failure_has_its_reason(tmp_path: Path, answers: dict[str, str], left: bool, part: str) -> None:
    async with house(tmp_path, **IMAP) as home:
        provider = server(2, answer=lambda v, a: answers.get(v))
        call, report = await home.fetch(provider)
        assert report.left is left, report
        assert part in report.detail
        assert call.tally.failed == bool(part)


CA = trustme.CA()


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
async def test_tls(tmp_path: Path, tls: Tls) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("pop").configure_cert(context)
    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(ca))
    async with house(tmp_path / "home", **IMAP, tls=tls, ca=str(ca)) as home:
        provider = server(2, tls=context, starttls=tls is Tls.STARTTLS, login=("hanako", "geheim"))
        await fetched(home, provider)
        assert len(home.inbox.messages) == 2


# ---- gone at every point
@pytest.mark.parametrize("who", ["server", "line"])
@pytest.mark.parametrize("capabilities", [ALL, BARE], ids=["all", "bare"])
@pytest.mark.parametrize("keep", [False, True], ids=["delete", "keep"])
async def test_cut_at_every_point_nothing_is_lost_or_doubled(
    tmp_path: Path, who: str, capabilities: tuple[str, ...], keep: bool
) -> None:
    want = {1: message(1), 2: message(2), 3: message(3, 150_000)}
    async with house(tmp_path / "whole", **IMAP, keep=keep) as home:
        provider = server(capabilities=capabilities)
        provider.mails = dict(want)
        await home.fetch(provider)
        total = len(provider.points)
    assert total > 15
    for at in range(1, total + 1):
        async with house(tmp_path / str(at), **IMAP, keep=keep) as home:
            gone = trio.Event()
            provider = server(capabilities=capabilities, cut_at=at, on_cut=gone.set if who == "line" else None)
            provider.mails = dict(want)
            await home.fetch(provider, cancelled=gone)
            arrived = home.inbox.messages
            assert all(data in arrived for uid, data in want.items() if uid not in provider.mails)
            assert all(data in want.values() for data in arrived)
            provider.cut_at = 0
            for _ in range(2):
                home.restart()
                _, report = await home.fetch(provider)
                assert report == JobReport()
            assert sorted(home.inbox.messages) == sorted(want.values()), f"cut at {at}"
            assert provider.mails == (want if keep or capabilities is BARE else {})


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_sessions_are_resumed_in_the_next_call(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """Towards the same server under the same authority; a new authority's file begins anew."""

    def server_context(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = version
        authority.issue_cert("pop").configure_cert(context)
        return context

    ca = tmp_path / "ca.pem"
    CA.cert_pem.write_to_path(str(ca))
    async with house(tmp_path / "home", **IMAP, tls=Tls.IMPLICIT, ca=str(ca)) as home:
        provider = server(2, tls=server_context(CA))
        for _ in range(3):
            await fetched(home, provider)
        assert provider.resumed == [False, True, True]
        other = trustme.CA()
        other.cert_pem.write_to_path(str(ca))
        provider = server(2, tls=server_context(other))
        await fetched(home, provider)
        assert provider.resumed == [False]
        _, report = await home.fetch(server(2, tls=server_context(CA)))
        assert "refused" in report.detail
