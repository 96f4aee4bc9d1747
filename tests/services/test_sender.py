"""The sender against a provider in memory: what goes out and in how many flights, verdicts, refusals at each step,
the choice of smarthosts, TLS; and the line or the server gone at every point there is."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from appliance.call import JobReport, OpenCall
from appliance.config.model import Smarthost, Tls
from appliance.mail.envelope import Envelope, RecipientState
from appliance.mail.upstream.sender import LANE_LEAST, LANES, SendJob
from fakes.outbox import FakeOutbox
from fakes.provider import FULL, Provider, SmtpProvider, Wire, call_to, run_job

HOST = Smarthost(host="mx", port=25, tls=Tls.NONE)
SECRETS = {"isp": "geheim"}


def message(n: int, size: int = 40) -> bytes:
    body = (b"." * 30 + b"\r\n") * (size // 32)
    return b"X-Id: m%d\r\n\r\n.%b\r\nlast line" % (n, body)


def sent(provider: SmtpProvider) -> list[bytes]:
    return [data for _, _, data in provider.stored]


def ended(data: bytes) -> bytes:
    return data if data.endswith(b"\r\n") else data + b"\r\n"


async def send(
    outbox: FakeOutbox, servers: dict[str, Provider | OSError] | SmtpProvider, **more: object
) -> tuple[OpenCall, JobReport]:
    if isinstance(servers, SmtpProvider):
        servers = {"mx": servers}
    call, report = await run_job(SendJob(outbox, SECRETS, "harbour").run, servers, **more)  # type: ignore[arg-type]
    assert not any(m.sending for m in outbox.messages.values())
    return call, report  # type: ignore[return-value]


@pytest.fixture
def outbox(tmp_path: Path) -> FakeOutbox:
    return FakeOutbox(tmp_path, [HOST])


# ---- what goes out
async def test_everything_goes_over_one_connection_byte_for_byte(outbox: FakeOutbox) -> None:
    bodies = [message(0), message(1, 200_000), b"", b"\x00\xff\r\n", b".\r\n", b".", b"a\r\n..\r\n", message(7, 65536)]
    for i, body in enumerate(bodies):
        outbox.put(f"m{i}", body, "b@y", "c@z")
    provider = SmtpProvider()
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert sorted(sent(provider)) == sorted(ended(b) if b else b"" for b in bodies)
    assert provider.connections == 1
    assert (call.tally.sent, call.tally.failed) == (8, 0)
    assert not outbox.messages
    for i in range(len(bodies)):
        names = [op for op, id, _ in outbox.log if id == f"m{i}"]
        assert names == ["in_doubt", "settle"]


@pytest.mark.parametrize("extensions", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize(("messages", "connections"), [(LANE_LEAST - 1, 1), (LANE_LEAST, 2), (5 * LANE_LEAST, LANES)])
async def test_what_waits_for_a_server_without_chunking_is_shared_among_connections(
    outbox: FakeOutbox, extensions: tuple[str, ...], messages: int, connections: int
) -> None:
    for i in range(messages):
        outbox.put(f"m{i}", message(i))
    provider = SmtpProvider(extensions=extensions)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert sorted(sent(provider)) == sorted(ended(message(i)) for i in range(messages)), "each once"
    assert provider.connections == (1 if "CHUNKING" in extensions else connections)
    assert call.tally.sent == messages


@pytest.mark.parametrize(
    ("extensions", "rate", "size", "connections"),
    [
        (("PIPELINING",), 2400, 2000, 2),  # a body takes 8 s, a round trip 0.6: one more fills the line
        ((), 2400, 2000, 2),
        ((), 9600, 2000, 3),
        ((), 0, 2000, 3),  # not known
        (("PIPELINING",), 33600, 200_000, 2),
    ],
)
async def test_as_many_connections_as_fill_the_line(
    outbox: FakeOutbox, extensions: tuple[str, ...], rate: int, size: int, connections: int
) -> None:
    for i in range(2 * LANE_LEAST):
        outbox.put(f"m{i}", message(i, size))
    provider = SmtpProvider(extensions=extensions)
    _, report = await send(outbox, provider, rate=rate)
    assert (report, provider.connections, len(provider.stored)) == (JobReport(), connections, 2 * LANE_LEAST)


@pytest.mark.parametrize(("messages", "connections"), [(LANE_LEAST, 1), (2 * LANE_LEAST, 2)])
async def test_a_login_by_tls_on_the_slowest_line_costs_more_than_few_round_trips(
    tmp_path: Path, ca_file: str, messages: int, connections: int
) -> None:
    outbox = FakeOutbox(tmp_path, [replace(HOST, tls=Tls.IMPLICIT, ca=ca_file)])
    for i in range(messages):
        outbox.put(f"m{i}", message(i, 2000))
    provider = SmtpProvider(extensions=("PIPELINING",), tls=server_tls())
    _, report = await send(outbox, provider, rate=2400)
    assert (report, provider.connections) == (JobReport(), connections)


@pytest.mark.parametrize("refused", ["CONNECT", "EHLO"])
async def test_a_server_that_takes_one_connection_only(outbox: FakeOutbox, refused: str) -> None:
    for i in range(5 * LANE_LEAST):
        outbox.put(f"m{i}", message(i))

    def answer(verb: str, argument: str) -> str | None:
        return "421 4.7.0 too many connections" if verb == refused and provider.connections > 1 else None

    provider = SmtpProvider(extensions=("PIPELINING",), answer=answer)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert sorted(sent(provider)) == sorted(ended(message(i)) for i in range(5 * LANE_LEAST))
    assert call.tally.sent == 5 * LANE_LEAST and call.tally.failed == 0
    assert provider.connections == LANES, "it is not tried again"


async def test_nothing_to_send_dials_nobody(outbox: FakeOutbox) -> None:
    provider = SmtpProvider()
    assert (await send(outbox, provider))[1] == JobReport()
    assert provider.connections == 0


@pytest.mark.parametrize("extensions", [FULL, (), ("PIPELINING",)])
async def test_with_and_without_extensions(outbox: FakeOutbox, extensions: tuple[str, ...]) -> None:
    for i in range(3):
        outbox.put(f"m{i}", message(i), "b@y", "c@z", body="8BITMIME", ret="HDRS", envid="e1", mt_priority=2)
    provider = SmtpProvider(extensions=extensions)
    assert (await send(outbox, provider))[1] == JobReport()
    assert sent(provider) == [ended(message(i)) for i in range(3)]
    mail = next(c for c in provider.commands if c.startswith("MAIL"))
    assert ("BODY=8BITMIME" in mail) == ("RET=HDRS" in mail) == ("SIZE=" in mail) == (extensions == FULL)


async def test_a_message_costs_one_flight(outbox: FakeOutbox) -> None:
    """With the end of data goes all that asks for the next message, and QUIT with the last."""
    for i in range(4):
        outbox.put(f"m{i}", message(i))
    writes: list[bytes] = []
    provider = SmtpProvider()

    async def job(call: OpenCall) -> object:
        plain = call.open_stream

        async def spying(host: str, port: int) -> trio.abc.HalfCloseableStream:
            stream = await plain(host, port)
            send_all = stream.send_all

            async def spy(data: bytes) -> None:
                writes.append(bytes(data))
                await send_all(data)

            stream.send_all = spy  # type: ignore[method-assign]
            return stream

        call.open_stream = spying
        return await SendJob(outbox, {}, "harbour").run(call)

    await run_job(job, {"mx": provider})
    flights = [w for w in writes if b"DATA\r\n" in w or b"QUIT" in w]
    assert len(flights) == 5
    for flight in flights[1:4]:
        assert b".\r\nMAIL FROM" in flight
        assert flight.endswith(b"DATA\r\n")
    assert flights[4].endswith(b".\r\nQUIT\r\n")


async def test_both_ends_may_write_at_once(outbox: FakeOutbox) -> None:
    """Over streams without any buffer: neither side's writing waits for its own reading."""
    for i in range(3):
        outbox.put(f"m{i}", message(i, 100_000), *(f"r{n}@far.example" for n in range(200)))
    provider = SmtpProvider()
    assert (await send(outbox, provider, unbuffered=True))[1] == JobReport()
    assert len(provider.stored) == 3


async def test_the_last_byte_waits_for_the_disk(outbox: FakeOutbox) -> None:
    """The provider never sees an end of data before the record that it may arrive is durable."""
    released = trio.Event()
    outbox.gate = released.wait
    body = message(0, 60_000)
    outbox.put("m0", body)
    provider = SmtpProvider()
    seen: list[list[str]] = []
    provider.on_end = lambda data: seen.append(outbox.states("m0"))

    async def job(call: OpenCall) -> object:
        async with trio.open_nursery() as nursery:

            async def release() -> None:
                await trio.testing.wait_all_tasks_blocked()
                assert "body begun" in provider.points
                assert "end of data" not in provider.points
                released.set()

            nursery.start_soon(release)
            return await SendJob(outbox, {}, "harbour").run(call)

    await run_job(job, {"mx": provider})
    assert seen == [["in-doubt"]]
    assert sent(provider) == [ended(body)]


async def test_new_messages_join_the_call(outbox: FakeOutbox) -> None:
    provider = SmtpProvider()
    job = SendJob(outbox, {}, "harbour")
    outbox.put("m0", message(0))
    joined = []

    def answer(verb: str, argument: str) -> str | None:
        if verb == "DATA" and not joined:
            joined.append(outbox.put("m1", message(1)))
        return None

    provider.answer = answer
    async with trio.open_nursery() as nursery:
        call = call_to(nursery, {"mx": provider})
        assert await job.run(call) == JobReport()
        assert len(provider.stored) == 2
        with trio.move_on_after(0.01) as idle:
            await job.wait_work()
        assert idle.cancelled_caught
        outbox.put("m2", message(2))
        with trio.fail_after(5):
            await job.wait_work()
            assert await job.run(call) == JobReport()
        assert call.tally.sent == 3
        nursery.cancel_scope.cancel()
    assert len(provider.stored) == 3


# ---- verdicts
@pytest.mark.parametrize("extensions", [FULL, ("SIZE 100000000",)], ids=["pipelining", "one by one"])
@pytest.mark.parametrize(
    ("verb", "reply", "states", "counts"),
    [
        ("MAIL", "550 5.7.1 not you", ["failed", "failed"], (0, 1)),
        ("MAIL", "451 4.3.0 later", ["queued", "queued"], (0, 0)),
        ("RCPT b", "550 5.1.1 unknown", ["failed", "delivered"], (1, 1)),
        ("RCPT b", "450 4.2.1 greylisted", ["queued", "delivered"], (0, 0)),
        ("RCPT", "550 5.1.1 unknown", ["failed", "failed"], (0, 1)),
        ("RCPT b", "503 5.5.1 what is that", ["queued", "delivered"], (0, 0)),
        ("MAIL", "500 5.5.2 what is that", ["queued", "queued"], (0, 0)),
        (".", "299 fine", ["delivered", "delivered"], (1, 0)),
        ("RCPT", "450 4.2.1 greylisted", ["queued", "queued"], (0, 0)),
        ("DATA", "554 5.7.1 no", ["failed", "failed"], (0, 1)),
        ("DATA", "451 4.3.0 later", ["queued", "queued"], (0, 0)),
        (".", "552 5.3.4 too big", ["failed", "failed"], (0, 1)),
        (".", "452 4.3.1 disk", ["queued", "queued"], (0, 0)),
        (".", "250 2.0.0 fine", ["delivered", "delivered"], (1, 0)),
    ],
)
async def test_verdicts_per_recipient(
    outbox: FakeOutbox, extensions: tuple[str, ...], verb: str, reply: str, states: list[str], counts: tuple[int, int]
) -> None:
    outbox.put("m0", message(0), "b@y", "c@z", sender="one@x")
    outbox.put("m1", message(1), "d@w", sender="two@x")
    current = [""]

    def answer(got: str, argument: str) -> str | None:
        if got == "MAIL":
            current[0] = argument
        name, _, who = verb.partition(" ")
        first = "one@x" in current[0]
        return reply if first and got == name and (not who or f"<{who}@" in argument) else None

    provider = SmtpProvider(extensions=extensions, answer=answer)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert outbox.states("m0") == states
    assert outbox.states("m1") == ["delivered"]
    assert (call.tally.sent, call.tally.failed) == (counts[0] + 1, counts[1])
    assert provider.connections == 1
    replies = {r.reply for r in (outbox.messages.get("m0") or outbox.gone["m0"]).recipients}
    assert reply in replies
    assert (outbox.messages.get("m0") or outbox.gone["m0"]).attempts == 1


async def test_what_a_server_cannot_take_is_not_sent(outbox: FakeOutbox) -> None:
    outbox.put("big", message(0, 2000))
    outbox.put("utf8", message(1), "büro@far.example", smtputf8=True)
    outbox.put("fine", message(2))
    provider = SmtpProvider(extensions=("PIPELINING", "SIZE 1000"))
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert outbox.states("big") == outbox.states("utf8") == ["failed"]
    assert outbox.gone["big"].recipients[0].reply.startswith("552 5.3.4")
    assert outbox.gone["utf8"].recipients[0].reply.startswith("553 5.6.7")
    assert (call.tally.sent, call.tally.failed) == (1, 2)
    assert len(provider.stored) == 1
    assert outbox.limits == {"mx": 1000}


async def test_too_many_recipients_go_in_a_second_transaction(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0), *(f"r{i}@far.example" for i in range(25)))
    accepted = [0]

    def answer(verb: str, argument: str) -> str | None:
        if verb == "MAIL":
            accepted[0] = 0
        if verb == "RCPT":
            accepted[0] += 1
            return "452 4.5.3 too many recipients" if accepted[0] > 10 else None
        return None

    provider = SmtpProvider(answer=answer)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert [len(to) for _, to, _ in provider.stored] == [10, 10, 5]
    assert call.tally.sent == 1
    # Those that were only too many got no verdict: an old message would have been given up for them.
    settled = [detail for op, _, detail in outbox.log if op == "settle"]
    assert settled == [dict.fromkeys(range(a, b), "delivered") for a, b in ((0, 10), (10, 20), (20, 25))]


# ---- smarthosts
def two_hosts(tmp_path: Path) -> FakeOutbox:
    outbox = FakeOutbox(tmp_path, [replace(HOST, host="one", login="h", secret="isp"), replace(HOST, host="two")])
    for i in range(3):
        outbox.put(f"m{i}", message(i))
    return outbox


@pytest.mark.parametrize(
    "one",
    [
        ConnectionRefusedError(111, "refused"),
        OSError(-2, "Name or service not known"),
        {"CONNECT": "554 5.3.2 no SMTP service here"},
        {"CONNECT": "421 4.3.2 too busy"},
        {"CONNECT": "drop me"},
        {"EHLO": "550 5.7.1 who are you"},
        {"EHLO": "drop"},
        {"AUTH": "535 5.7.8 wrong"},
        {"AUTH": "454 4.7.0 temporary"},
        {"AUTH": "drop"},
        {"MAIL": "530 5.7.0 authentication required"},
    ],
    ids=str,
)
async def test_the_next_smarthost_while_connecting_or_login_fails(
    tmp_path: Path, one: OSError | dict[str, str]
) -> None:
    outbox = two_hosts(tmp_path)
    first: Provider | OSError = (
        one if isinstance(one, OSError) else SmtpProvider(login=("h", "geheim"), answer=lambda verb, _: one.get(verb))
    )
    second = SmtpProvider()
    call, report = await send(outbox, {"one": first, "two": second})
    assert report == JobReport()
    assert len(second.stored) == 3
    assert (call.tally.sent, call.tally.failed) == (3, 0)
    assert all(e.attempts == 1 for e in outbox.gone.values())


async def test_all_smarthosts_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    outbox = two_hosts(tmp_path)
    caplog.set_level(logging.INFO, logger="posthouse")
    wrong = SmtpProvider(login=("h", "other"))
    call, report = await send(outbox, {"one": wrong, "two": OSError(113, "No route to host")})
    assert report.left
    assert "535" in report.detail
    assert "No route to host" in report.detail
    assert call.tally.failed == 1
    assert [e.attempts for e in outbox.messages.values()] == [0, 0, 0]
    (left,) = {e.left for e in outbox.messages.values()}
    assert left.startswith("one:25: AUTH was answered 535 ") and "; two:25: " in left
    assert outbox.log == []
    assert "one:25 is of no use in this call: AUTH was answered 535" in caplog.text


@pytest.mark.parametrize("how", ["no smarthost", "unreachable", "login", "dropped"])
async def test_an_alert_that_stays_makes_no_call_a_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Else it would be called again for its sake; with a message beside it the call is one."""
    outbox = FakeOutbox(tmp_path, [] if how == "no smarthost" else [replace(HOST, login="h", secret="isp")])
    caplog.set_level(logging.INFO, logger="posthouse")
    wrong: dict[str, Provider | OSError] = {
        "unreachable": OSError(113, "No route to host"),
        "login": SmtpProvider(login=("h", "other")),
        "dropped": SmtpProvider(login=("h", "geheim"), answer=lambda verb, _: None if verb != "MAIL" else "421 no"),
    }
    servers = {"mx": wrong[how]} if how in wrong else {}
    outbox.put("alert", b"Subject: x\r\n\r\n", sender="postmaster@harbour.example", alert="status")
    call, report = await send(outbox, servers)
    assert (report, call.tally.failed, outbox.states("alert")) == (JobReport(), 0, ["queued"])
    outbox.put("mail", b"Subject: x\r\n\r\n")
    call, report = await send(outbox, servers)
    assert report.left and call.tally.failed == 1
    assert ("refuses the login h: AUTH was answered 535" in caplog.text) == (how == "login")


async def test_senders_choose_the_smarthost_side_by_side(tmp_path: Path) -> None:
    outbox = FakeOutbox(tmp_path, [replace(HOST, host="one", senders=("a@x",)), replace(HOST, host="two")])
    outbox.put("m0", message(0), sender="a@x")
    outbox.put("m1", message(1), sender="b@x")
    met = trio.Event()

    class Waiting(SmtpProvider):
        """Answers nothing before the other one has a client, too."""

        async def session(self, wire: Wire) -> None:
            if one.connections and two.connections:
                met.set()
            await met.wait()
            await super().session(wire)

    one, two = Waiting(), Waiting()
    assert (await send(outbox, {"one": one, "two": two}))[1] == JobReport()
    assert (len(one.stored), len(two.stored)) == (1, 1)


async def test_no_smarthost_at_all(tmp_path: Path) -> None:
    outbox = FakeOutbox(tmp_path, [replace(HOST, senders=("a@x",))])
    outbox.put("m0", message(0), sender="b@x")
    _, report = await send(outbox, SmtpProvider())
    assert report.left
    assert "no smarthost for <b@x>" in report.detail


async def test_a_server_that_takes_few_messages_a_connection(outbox: FakeOutbox) -> None:
    for i in range(7):
        outbox.put(f"m{i}", message(i))
    count = [0]

    def answer(verb: str, argument: str) -> str | None:
        if verb == "EHLO":
            count[0] = 0
        if verb == "MAIL":
            count[0] += 1
            return "421 4.7.0 too many messages in this session" if count[0] > 3 else None
        return None

    provider = SmtpProvider(answer=answer)
    call, report = await send(outbox, provider)
    assert report == JobReport()
    assert provider.connections == 3
    assert call.tally.sent == 7
    assert all(e.attempts == 1 for e in outbox.gone.values())


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
async def test_a_server_that_drops_each_time_is_left_alone(outbox: FakeOutbox, verb: str) -> None:
    for i in range(5):
        outbox.put(f"m{i}", message(i))
    provider = SmtpProvider(answer=lambda got, _: "drop" if got == verb else None)
    _, report = await send(outbox, provider)
    assert report.left
    assert "closed the connection" in report.detail
    assert provider.connections == 1
    assert all(outbox.states(f"m{i}") == ["queued"] for i in range(5))


async def test_a_message_that_breaks_the_connection_does_not_hold_up_the_others(outbox: FakeOutbox) -> None:
    for i in range(4):
        outbox.put(f"m{i}", message(i))
    provider = SmtpProvider()
    answers = iter([None, "drop", None, None])
    provider.answer = lambda verb, _: next(answers) if verb == "." else None
    _, report = await send(outbox, provider)
    assert report.left
    assert outbox.states("m1") == ["in-doubt"]
    assert sorted(outbox.gone) == ["m0", "m2", "m3"]


# ---- TLS
CA = trustme.CA()


def server_tls(name: str = "mx") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    CA.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("tls", [Tls.IMPLICIT, Tls.STARTTLS])
async def test_tls_and_login(tmp_path: Path, tls: Tls, ca_file: str) -> None:
    outbox = FakeOutbox(tmp_path, [Smarthost(host="mx", tls=tls, ca=ca_file, login="hanako", secret="isp")])
    outbox.put("m0", message(0, 100_000))
    provider = SmtpProvider(tls=server_tls(), starttls=tls is Tls.STARTTLS, login=("hanako", "geheim"))
    _, report = await send(outbox, provider)
    assert report == JobReport()
    assert len(provider.stored) == 1
    before_tls = provider.commands[: provider.commands.index("STARTTLS")] if tls is Tls.STARTTLS else []
    assert not any("AUTH" in c for c in before_tls)


@pytest.mark.parametrize(
    ("tls", "name", "own_ca", "part"),
    [
        (Tls.IMPLICIT, "other", True, "mismatch"),
        (Tls.STARTTLS, "other", True, "mismatch"),
        (Tls.IMPLICIT, "mx", False, "certificate of mx was refused"),
        (Tls.STARTTLS, "mx", False, "certificate of mx was refused"),
    ],
)
async def test_a_certificate_that_is_not_right(
    tmp_path: Path, tls: Tls, name: str, own_ca: bool, part: str, ca_file: str
) -> None:
    host = Smarthost(host="mx", tls=tls, ca=ca_file if own_ca else "", login="hanako", secret="isp")
    outbox = FakeOutbox(tmp_path, [host])
    outbox.put("m0", message(0))
    provider = SmtpProvider(tls=server_tls(name), starttls=tls is Tls.STARTTLS, login=("hanako", "geheim"))
    _, report = await send(outbox, provider)
    assert report.left
    assert part in report.detail
    assert not any("AUTH" in c for c in provider.commands)


async def test_no_starttls_no_login(tmp_path: Path) -> None:
    outbox = FakeOutbox(tmp_path, [replace(HOST, tls=Tls.STARTTLS, login="hanako", secret="isp")])
    outbox.put("m0", message(0))
    provider = SmtpProvider(login=("hanako", "geheim"))
    _, report = await send(outbox, provider)
    assert "does not offer STARTTLS" in report.detail
    assert [c.split()[0] for c in provider.commands] == ["EHLO"]


async def test_a_ca_file_that_is_missing(tmp_path: Path) -> None:
    outbox = FakeOutbox(tmp_path, [Smarthost(host="mx", ca=str(tmp_path / "no.pem"))])
    outbox.put("m0", message(0))
    _, report = await send(outbox, SmtpProvider(tls=server_tls()))
    assert "no.pem" in report.detail


# ---- the disk
@pytest.mark.parametrize("operation", ["in_doubt", "settle"])
async def test_nothing_is_sent_when_the_disk_fails(outbox: FakeOutbox, operation: str) -> None:
    for i in range(20):
        outbox.put(f"m{i}", message(i))
    outbox.fail = {operation}
    provider = SmtpProvider()
    _, report = await send(outbox, provider)
    assert report.left
    assert "the disk failed" in report.detail
    assert len(provider.stored) == 0 if operation == "in_doubt" else len(provider.stored) < 6
    assert len(outbox.messages) == 20


@pytest.mark.parametrize("harm", ["missing", "short"])
async def test_a_message_that_cannot_be_read(outbox: FakeOutbox, harm: str, expected_errors: list[str]) -> None:
    expected_errors.append("the disk failed")
    for i in range(3):
        outbox.put(f"m{i}", message(i, 100_000))
    path = outbox.path(outbox.messages["m1"])
    path.unlink() if harm == "missing" else path.write_bytes(message(1, 70_000))
    provider = SmtpProvider()
    _, report = await send(outbox, provider)
    assert report.left
    assert sorted(outbox.gone) == ["m0", "m2"]
    assert outbox.states("m1") == ["queued"]
    assert len(provider.stored) == 2


async def test_a_message_removed_meanwhile_is_no_failure(outbox: FakeOutbox) -> None:
    for i in range(3):
        outbox.put(f"m{i}", message(i))

    def answer(verb: str, argument: str) -> str | None:
        if verb == "EHLO":
            outbox.path(outbox.messages.pop("m1")).unlink()
        return None

    assert (await send(outbox, SmtpProvider(answer=answer)))[1] == JobReport()
    assert sorted(outbox.gone) == ["m0", "m2"]


# ---- the line gone at every point
def fill(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0), "b@y", "c@z")
    outbox.put("m1", message(1, 70_000))
    outbox.put("m2", message(2))


async def points_of_a_whole_run(tmp_path: Path, extensions: tuple[str, ...]) -> int:
    outbox = FakeOutbox(tmp_path, [HOST])
    fill(outbox)
    provider = SmtpProvider(extensions=extensions)
    await send(outbox, provider)
    assert len(provider.stored) == 3
    return len(provider.points)


@pytest.mark.parametrize("extensions", [FULL, ()], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("who", ["server", "line"])
async def test_cut_at_every_point_nothing_is_lost(
    tmp_path: Path, extensions: tuple[str, ...], who: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="posthouse")
    total = await points_of_a_whole_run(tmp_path, extensions)
    assert total > 30
    doubted = 0
    for at in range(1, total + 1):
        caplog.clear()
        outbox = FakeOutbox(tmp_path, [HOST])
        fill(outbox)
        gone = trio.Event()
        provider = SmtpProvider(extensions=extensions, cut_at=at, on_cut=gone.set if who == "line" else None)
        recorded: list[bool] = []
        provider.on_end = (
            lambda data, o=outbox, r=recorded: r.append(  # type: ignore[misc]
                "queued" not in o.states(data[6:8].decode())
            )
        )
        await send(outbox, provider, cancelled=gone)
        assert all(recorded), f"an end of data came before its record was durable, cut at {at}"
        doubt = {m.id for m in outbox.messages.values() if "in-doubt" in outbox.states(m.id)}
        assert {i for i in ("m0", "m1", "m2") if f"{i}: sent but not acknowledged" in caplog.text} == doubt
        assert len(doubt) <= 1, f"more than one message in doubt, cut at {at}"
        # What arrived and is still queued is in doubt; what left the queue arrived.
        arrived = {d[6:8].decode() for d in sent(provider)}
        assert arrived - set(outbox.gone) <= doubt
        assert set(outbox.gone) <= arrived
        doubted += bool(doubt)

        again = SmtpProvider(extensions=extensions)
        _, report = await send(outbox, again)
        assert report == JobReport()
        assert not outbox.messages
        copies = [d[6:8].decode() for d in sent(provider) + sent(again)]
        for i in ("m0", "m1", "m2"):
            assert copies.count(i) == 1 or (copies.count(i) == 2 and i in doubt), f"{i} cut at {at}: {copies}"
    assert doubted


@pytest.mark.parametrize("seed", range(6))
async def test_cut_while_bytes_are_under_way(tmp_path: Path, seed: int) -> None:
    """The client's writes end after any number of bytes, over a stream without a buffer."""
    for at in range(seed, 240, 6):
        outbox = FakeOutbox(tmp_path, [HOST])
        fill(outbox)
        provider = SmtpProvider()
        left = [at * 350]

        async def job(call: OpenCall, outbox: FakeOutbox = outbox, left: list[int] = left) -> object:
            plain = call.open_stream

            async def limited(host: str, port: int) -> trio.abc.HalfCloseableStream:
                stream = await plain(host, port)
                send_all = stream.send_all

                async def some(data: bytes) -> None:
                    n = min(len(data), max(0, left[0]))
                    left[0] -= len(data)
                    await send_all(data[:n])
                    if n < len(data):
                        await stream.aclose()
                        raise trio.BrokenResourceError("cable")

                stream.send_all = some  # type: ignore[method-assign]
                return stream

            call.open_stream = limited
            return await SendJob(outbox, {}, "harbour").run(call)

        await run_job(job, {"mx": provider})
        again = SmtpProvider()
        doubt = {m.id for m in outbox.messages.values() if "in-doubt" in outbox.states(m.id)}
        await send(outbox, again)
        copies = [d[6:8].decode() for d in sent(provider) + sent(again)]
        for i in ("m0", "m1", "m2"):
            assert copies.count(i) == 1 or (copies.count(i) == 2 and i in doubt)


async def test_an_older_doubt_stays_when_the_next_call_gets_less_far(outbox: FakeOutbox) -> None:
    outbox.put("m0", message(0))
    for verb, log in ((".", ["in_doubt"]), ("DATA", ["in_doubt"]), ("MAIL", ["in_doubt"])):
        provider = SmtpProvider(answer=lambda got, _, verb=verb: "drop" if got == verb else None)  # type: ignore[misc]
        assert (await send(outbox, provider))[1].left
        assert outbox.states("m0") == ["in-doubt"]
        assert [op for op, _, _ in outbox.log] == log
    assert (await send(outbox, SmtpProvider()))[1] == JobReport()
    assert outbox.states("m0") == ["delivered"]


async def test_not_even_for_one_of_several_recipients(outbox: FakeOutbox) -> None:
    envelope = outbox.put("m0", message(0), "b@y", "c@z")
    envelope.recipients[0].state = RecipientState.IN_DOUBT
    gone = trio.Event()
    released = trio.Event()
    outbox.gate = released.wait
    provider = SmtpProvider()

    def point(name: str) -> None:
        if name == "body begun":
            gone.set()
            released.set()

    provider.point = point  # type: ignore[method-assign]
    await send(outbox, provider, cancelled=gone)
    assert outbox.states("m0")[0] == "in-doubt"


@pytest.mark.parametrize("extensions", [FULL, ()])
@pytest.mark.parametrize(
    ("verb", "state"), [("MAIL", "in-doubt"), ("RCPT", "in-doubt"), ("DATA", "in-doubt"), (".", "queued")]
)
async def test_an_older_doubt_outlives_a_deferral_before_the_end_of_data(
    outbox: FakeOutbox, extensions: tuple[str, ...], verb: str, state: str
) -> None:
    envelope = outbox.put("m0", message(0), "b@y", "c@z")
    envelope.recipients[0].state = RecipientState.IN_DOUBT
    outbox.put("m1", message(1))
    deferred = [True]

    def answer(got: str, argument: str) -> str | None:
        if got == verb and deferred[0]:
            if verb != "RCPT" or "c@z" in argument:
                deferred[0] = False
            return "450 4.2.0 later"
        return None

    assert (await send(outbox, SmtpProvider(extensions=extensions, answer=answer)))[1] == JobReport()
    assert outbox.states("m0") == [state, "queued"]
    assert outbox.states("m1") == ["delivered"]
    assert envelope.recipients[0].reply == "450 4.2.0 later"


async def test_only_this_attempts_doubt_is_taken_back(outbox: FakeOutbox) -> None:
    envelope = outbox.put("m0", message(0, 100_000), "b@y", "c@z")
    envelope.recipients[0].state = RecipientState.IN_DOUBT
    gone = trio.Event()
    done = outbox.in_doubt

    async def noted(envelope: Envelope, recipients: Sequence[int]) -> None:
        assert list(recipients) == [1]
        await done(envelope, recipients)
        gone.set()
        for _ in range(20):  # the line is gone before this returns, so the end of data never goes out
            await trio.lowlevel.checkpoint()

    outbox.in_doubt = noted  # type: ignore[method-assign]
    await send(outbox, SmtpProvider(), cancelled=gone)
    assert [(op, id) for op, id, _ in outbox.log] == [("in_doubt", "m0"), ("not_sent", "m0")]
    assert outbox.states("m0") == ["in-doubt", "queued"]


async def test_one_message_that_can_t_be_said_stops_no_other(outbox: FakeOutbox) -> None:
    outbox.put("bad", message(0), envid="a b")
    outbox.put("good", message(1), envid="QQ+2B314")
    provider = SmtpProvider()
    assert (await send(outbox, provider))[1] == JobReport()
    assert outbox.states("bad") == ["queued"]
    assert "can't be sent as it is" in outbox.messages["bad"].recipients[0].reply
    assert outbox.states("good") == ["delivered"]
    assert [c.partition("ENVID=")[2] for c in provider.commands if c.startswith("MAIL")] == ["QQ+2B314"]


# ---- time
async def test_a_silent_server_is_given_up(outbox: FakeOutbox, autojump_clock: trio.testing.MockClock) -> None:
    outbox.put("m0", message(0))

    class Silent(SmtpProvider):
        async def session(self, wire: Wire) -> None:
            await trio.sleep_forever()

    _, report = await send(outbox, Silent(), wall_s=1000.0)
    assert report.left
    assert "no answer within 300 s" in report.detail


@pytest.mark.parametrize(("verb", "least", "most"), [("MAIL", 299, 310), (".", 599, 610), ("QUIT", 0, 3)])
async def test_each_reply_has_its_deadline(
    outbox: FakeOutbox, verb: str, least: float, most: float, autojump_clock: trio.testing.MockClock
) -> None:
    outbox.put("m0", message(0))

    class Hang(Exception):
        pass

    class Server(SmtpProvider):
        def point(self, name: str) -> None:
            if name == ("end of data" if verb == "." else f"got {verb}"):
                raise Hang

        async def session(self, wire: Wire) -> None:
            try:
                await super().session(wire)
            except Hang:
                await trio.sleep_forever()

    start = trio.current_time()
    _, report = await send(outbox, Server(extensions=()), wall_s=1000.0)
    assert least <= trio.current_time() - start <= most
    assert report.left == (verb != "QUIT")
