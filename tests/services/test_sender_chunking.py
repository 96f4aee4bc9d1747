"""Sending to servers with CHUNKING: nothing is waited for, refusals, servers that do it wrongly, and the line or the
server gone at every point there is."""

from __future__ import annotations

import email
import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.call import JobReport, OpenCall
from appliance.config.model import Smarthost, Tls
from appliance.mail.envelope import Priority
from appliance.mail.upstream.sender import SendJob
from appliance.mail.upstream.smtp_session import MAX_UNANSWERED
from fakes.outbox import FakeOutbox
from fakes.provider import FULL, Cut, SmtpProvider, run_job

HOST = Smarthost(host="mx", port=25, tls=Tls.NONE)
CHUNKING = (*FULL, "CHUNKING")


def message(n: int, size: int = 40) -> bytes:
    return b"X-Id: m%d\r\n\r\n.%b\r\nlast line" % (n, (b"." * 30 + b"\r\n") * (size // 32))


def ended(data: bytes) -> bytes:
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def sent(provider: SmtpProvider) -> list[bytes]:
    return [data for _, _, data in provider.stored]


def verbs(provider: SmtpProvider) -> list[str]:
    return [c.split()[0] for c in provider.commands]


async def send(
    outbox: FakeOutbox, provider: SmtpProvider, job: SendJob | None = None, **more: object
) -> tuple[OpenCall, JobReport]:
    job = job or SendJob(outbox, {}, "harbour")
    call, report = await run_job(job.run, {"mx": provider}, **more)  # type: ignore[arg-type]
    assert not any(m.sending for m in outbox.messages.values())
    return call, report  # type: ignore[return-value]


@pytest.fixture
def outbox(tmp_path: Path) -> FakeOutbox:
    return FakeOutbox(tmp_path, [HOST])


@pytest.mark.parametrize("unbuffered", [False, True])
async def test_byte_for_byte_and_only_the_last_line_gets_its_end(outbox: FakeOutbox, unbuffered: bool) -> None:
    bodies = [message(0), message(1, 200_000), b"", b"\x00\xff\r\n", b".\r\n", b".", b"a\r\n..\r\n", message(7, 65536)]
    for i, body in enumerate(bodies):
        outbox.put(f"m{i}", body, "b@y", "c@z")
    provider = SmtpProvider(extensions=CHUNKING)
    call, report = await send(outbox, provider, unbuffered=unbuffered)
    assert report == JobReport()
    assert sorted(sent(provider)) == sorted(map(ended, bodies))
    assert provider.connections == 1
    assert call.tally.sent == 8
    assert "DATA" not in verbs(provider)


async def test_no_reply_is_waited_for(outbox: FakeOutbox) -> None:
    """The server answers the first MAIL only when the last message has come, and all of it goes out at once."""
    for i in range(10):
        outbox.put(f"m{i}", message(i, 1000))
    provider = SmtpProvider(extensions=CHUNKING)
    seen: list[int] = []
    provider.on_end = lambda data: seen.append(len(outbox.gone))
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert seen[-1] < 9  # the last one came before the replies to those in front of it
    one = ["MAIL", "RCPT", "BDAT"]
    assert verbs(provider)[1:] == one + ["RSET", *one] * 9 + ["QUIT"]
    assert call.tally.sent == 10


async def test_a_transaction_that_a_refusal_leaves_open(outbox: FakeOutbox) -> None:
    """As Exim does it: where every recipient was refused BDAT is too, and only RSET ends the transaction."""
    for i in range(6):
        outbox.put(f"m{i}", message(i), "b@far.example" if i % 2 else "nobody@far.example")
    is_open = taken = False

    def answer(verb: str, argument: str) -> str | None:
        nonlocal is_open, taken
        if verb == "MAIL" and is_open:
            return "503 5.5.1 nested MAIL command"
        if verb == "RCPT" and "nobody" in argument:
            return "550 5.1.1 unknown"
        if verb == "BDAT" and not taken:
            return "554 5.5.1 no valid recipients"
        is_open = verb in ("MAIL", "RCPT")
        taken = verb == "RCPT"
        return None

    provider = SmtpProvider(extensions=CHUNKING, answer=answer)
    assert (await send(outbox, provider))[1] == JobReport()
    assert provider.connections == 1
    assert [outbox.states(f"m{i}") for i in range(6)] == [["failed"], ["delivered"]] * 3
    assert sent(provider) == [ended(message(i)) for i in (1, 3, 5)]


async def test_what_is_under_way_is_bounded(outbox: FakeOutbox) -> None:
    for i in range(3 * MAX_UNANSWERED):
        outbox.put(f"m{i}", b"x\r\n")
    provider = SmtpProvider(extensions=CHUNKING)
    most = [0]
    provider.on_end = lambda data: most.__setitem__(0, max(most[0], sum(m.sending for m in outbox.messages.values())))
    assert (await send(outbox, provider))[1] == JobReport()
    assert 1 < most[0] <= MAX_UNANSWERED + 1


@pytest.mark.parametrize("size", [0, 100, 60_000])
async def test_the_last_byte_waits_for_the_disk(outbox: FakeOutbox, size: int) -> None:
    """The provider never has the whole message before the record that it may arrive is durable."""
    released = trio.Event()
    outbox.gate = released.wait
    outbox.put("m0", message(0, size) + b"\r\n" if size else b"")
    states: list[list[str]] = []
    provider = SmtpProvider(extensions=CHUNKING, on_end=lambda data: states.append(outbox.states("m0")))

    async def job(call: OpenCall) -> object:
        async with trio.open_nursery() as nursery:

            async def release() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert "got BDAT" in provider.points
                assert "end of data" not in provider.points
                released.set()

            nursery.start_soon(release)
            return await SendJob(outbox, {}, "harbour").run(call)

    await run_job(job, {"mx": provider})
    assert states == [["in-doubt"]]


@pytest.mark.parametrize(
    ("verb", "reply", "states", "counts"),
    [
        ("MAIL", "550 5.7.1 not you", ["failed", "failed"], (2, 1)),
        ("MAIL", "451 4.3.0 later", ["queued", "queued"], (2, 0)),
        ("RCPT b", "550 5.1.1 unknown", ["failed", "delivered"], (3, 1)),
        ("RCPT b", "450 4.2.1 greylisted", ["queued", "delivered"], (2, 0)),
        ("RCPT", "550 5.1.1 unknown", ["failed", "failed"], (2, 1)),
        ("RCPT", "450 4.2.1 greylisted", ["queued", "queued"], (2, 0)),
        ("BDAT", "552 5.3.4 too big", ["failed", "failed"], (2, 1)),
        ("BDAT", "451 4.3.0 disk", ["queued", "queued"], (2, 0)),
    ],
)
async def test_refusals_of_one_message_leave_the_others_alone(
    outbox: FakeOutbox, verb: str, reply: str, states: list[str], counts: tuple[int, int]
) -> None:
    outbox.put("m0", message(0))
    outbox.put("m1", message(1), "b@y", "c@z", sender="it@harbour.example")
    outbox.put("m2", message(2))
    mine = [False]

    def answer(got: str, argument: str) -> str | None:
        if got == "MAIL":
            mine[0] = "it@" in argument
        if mine[0] and f"{got} {argument.removeprefix('TO:<')}".startswith(verb):
            return reply
        return None

    provider = SmtpProvider(extensions=CHUNKING, answer=answer)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert outbox.states("m1") == states
    assert (call.tally.sent, call.tally.failed) == counts
    assert {"m0", "m2"} <= set(outbox.gone)
    assert provider.connections == 1


async def test_a_refused_recipient_keeps_the_doubt_of_an_earlier_call_only(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0), "b@y")

    def gone(data: bytes) -> None:
        raise Cut

    drops = SmtpProvider(extensions=CHUNKING, on_end=gone)
    await send(outbox, drops)
    assert outbox.states("m0") == ["in-doubt"]
    outbox.put("m1", message(1), "b@y")
    greylists = SmtpProvider(
        extensions=CHUNKING, answer=lambda verb, argument: "450 4.2.1 later" if verb == "RCPT" else None
    )
    await send(outbox, greylists)
    assert (outbox.states("m0"), outbox.states("m1")) == (["in-doubt"], ["queued"])


# ---- servers that do it wrongly
@pytest.mark.parametrize("how", ["unknown", "nested", "garbage"])
async def test_a_server_that_does_it_wrongly_gets_data(
    outbox: FakeOutbox, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    for i in range(3):
        outbox.put(f"m{i}", message(i))
    refused = [False]

    def answer(verb: str, argument: str) -> str | None:
        if verb == "BDAT":
            refused[0] = True
            return {"unknown": "502 5.5.1 BDAT not implemented", "nested": "554 5.6.0 no", "garbage": "hello"}[how]
        return "503 5.5.1 nested MAIL command" if verb == "MAIL" and refused[0] and how == "nested" else None

    provider = SmtpProvider(extensions=CHUNKING, answer=answer)
    job = SendJob(outbox, {}, "harbour")
    await send(outbox, provider, job)
    assert "does it wrongly" in caplog.text
    refused[0] = False
    outbox.put("m9", message(9))
    provider.commands.clear()
    _, report = await send(outbox, provider, job)
    assert report == JobReport()
    assert "BDAT" not in verbs(provider)
    assert {"m1", "m2", "m9"} <= set(outbox.gone)


async def test_a_server_that_counts_messages_per_connection(outbox: FakeOutbox) -> None:
    """421 to the next MAIL: what was sent behind it goes over a new connection in the same call, once."""
    for i in range(10):
        outbox.put(f"m{i}", message(i))
    count = [0]

    def answer(verb: str, argument: str) -> str | None:
        count[0] = 0 if verb == "EHLO" else count[0] + (verb == "MAIL")
        return "421 4.7.0 too many messages" if verb == "MAIL" and count[0] > 3 else None

    provider = SmtpProvider(extensions=CHUNKING, answer=answer)
    _, report = await send(outbox, provider)
    assert report == JobReport()
    assert sorted(sent(provider)) == sorted(ended(message(i)) for i in range(10))
    assert provider.connections == 4


# ---- gone at every point
@pytest.mark.parametrize("who", ["server", "line"])
async def test_cut_at_every_point_nothing_is_lost(tmp_path: Path, who: str) -> None:
    def fill(outbox: FakeOutbox) -> None:
        for i, size in enumerate((40, 60_000, 40, 200_000, 40)):
            outbox.put(f"m{i}", message(i, size), "b@y", "c@z")

    names = [f"m{i}" for i in range(5)]
    whole = SmtpProvider(extensions=CHUNKING)
    outbox = FakeOutbox(tmp_path, [HOST])
    fill(outbox)
    await send(outbox, whole)
    doubted = 0
    for at in range(1, len(whole.points) + 1):
        outbox = FakeOutbox(tmp_path, [HOST])
        fill(outbox)
        gone = trio.Event()
        provider = SmtpProvider(extensions=CHUNKING, cut_at=at, on_cut=gone.set if who == "line" else None)
        await send(outbox, provider, cancelled=gone)
        doubt = {m.id for m in outbox.messages.values() if "in-doubt" in outbox.states(m.id)}
        arrived = {d[6:8].decode() for d in sent(provider)}
        assert arrived - set(outbox.gone) <= doubt, f"cut at {at}"
        assert set(outbox.gone) <= arrived
        doubted += bool(doubt)
        again = SmtpProvider(extensions=CHUNKING)
        assert (await send(outbox, again))[1] == JobReport()
        assert not outbox.messages
        copies = [d[6:8].decode() for d in sent(provider) + sent(again)]
        for i in names:
            assert copies.count(i) == 1 or (copies.count(i) == 2 and i in doubt), f"{i} cut at {at}: {copies}"
    assert doubted


@pytest.mark.parametrize(
    "extensions",
    [(), ("PIPELINING", "SIZE 500000"), ("PIPELINING", "CHUNKING", "SIZE 500000"), (*CHUNKING,)],
    ids=str,
)
@pytest.mark.parametrize("size", [0, 200_000])
async def test_without_8bitmime_it_goes_as_quoted_printable(
    outbox: FakeOutbox, extensions: tuple[str, ...], size: int
) -> None:
    text = "Jürgen\r\n" * (size // 9) + "the last line"
    data = f"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n{text}".encode()
    outbox.put("m0", data, body="8BITMIME")
    outbox.put("m1", data)  # nothing was said of it: it goes as it is
    provider = SmtpProvider(extensions=extensions)
    assert (await send(outbox, provider))[1] == JobReport()
    first, second = sent(provider)
    assert second == ended(data)
    if "8BITMIME" in extensions:
        assert first == ended(data)
        return
    assert first.isascii()
    got = email.message_from_bytes(first)
    assert got.get_payload(decode=True) == ended(text.encode())
    mail = next(c for c in provider.commands if c.startswith("MAIL"))
    assert ("SIZE=" in mail) == ("SIZE 500000" in extensions and "CHUNKING" not in extensions)  # BDAT says it
    assert "SIZE=" not in mail or f"SIZE={len(first) - 2}" in mail


async def test_too_large_once_it_is_quoted_printable(outbox: FakeOutbox) -> None:
    outbox.put("m0", b"Content-Transfer-Encoding: 8bit\r\n\r\n" + b"\xe6\xb8\xaf" * 1000 + b"\r\n", body="8BITMIME")
    await send(outbox, SmtpProvider(extensions=("PIPELINING", "SIZE 5000")))
    assert outbox.states("m0") == ["failed"]


# ---- the line shared
@pytest.mark.parametrize("extensions", [CHUNKING, FULL])
async def test_small_mail_does_not_wait_for_a_large_one(outbox: FakeOutbox, extensions: tuple[str, ...]) -> None:
    outbox.put("m0", message(0, 2_000_000))
    provider = SmtpProvider(extensions=extensions)

    def joins() -> None:
        for i in (1, 2):
            outbox.put(f"m{i}", message(i))

    provider.point = lambda name: (
        joins()
        if name == ("got BDAT" if "CHUNKING" in extensions else "body begun")
        and len(outbox.messages) == 1
        and not provider.stored
        else None
    )  # type: ignore[method-assign]
    call, report = await send(outbox, provider, unbuffered=True)
    assert report == JobReport()
    assert [d[6:8] for d in sent(provider)] == [b"m1", b"m2", b"m0"]
    assert provider.connections == 2
    assert call.tally.sent == 3


async def test_a_server_that_takes_one_connection_only(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0, 2_000_000))
    provider = SmtpProvider(extensions=CHUNKING)

    def answer(verb: str, argument: str) -> str | None:
        if verb == "CONNECT" and provider.connections > 1 and not provider.stored:
            return "421 4.7.0 one is enough"
        if verb == "BDAT" and "m1" not in outbox.messages and not provider.stored:
            outbox.put("m1", message(1))
        return None

    provider.answer = answer
    _, report = await send(outbox, provider, unbuffered=True)
    assert report == JobReport()
    assert [d[6:8] for d in sent(provider)] == [b"m0", b"m1"]
    assert provider.connections == 2


async def test_what_joins_goes_urgent_first_then_small_before_large(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0, 100_000))
    provider = SmtpProvider(extensions=FULL)

    def answer(verb: str, argument: str) -> str | None:
        if verb == "DATA" and len(outbox.messages) == 1 and not provider.stored:
            for i, (size, priority) in enumerate(
                ((50_000, "normal"), (40, "non-urgent"), (40, "normal"), (90_000, "urgent")), 1
            ):
                outbox.put(f"m{i}", message(i, size), priority=Priority(priority))
        return None

    provider.answer = answer
    assert (await send(outbox, provider))[1] == JobReport()
    assert [d[6:8] for d in sent(provider)] == [b"m0", b"m4", b"m3", b"m1", b"m2"]
