"""The composition root in this process: ready, SIGHUP with all kinds of files, SIGTERM, and what `status` says."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance import __version__
from appliance.app import Core, House, board, lan
from appliance.config.load import load
from appliance.control.client import ask
from appliance.protocol.control import SOCKET_NAME
from appliance.storage.paths import unlock
from appliance.transport.self_signed import make_self_signed
from fakes.notify import NotifySocket
from fakes.ports import free_port

WAIT = 20.0
STORED = "$7$C6..../....yOCHGXdqOV2N9hxQJDdRS.$DEaIJMDEM2OFuEr49MsY9TJtbBE1DWKYbvbsCODZWs/"
"""Of the password `correct horse`."""
PASSWORD = "correct horse"
SITE = """
[site]
name = "harbour"
domain = "harbour.example"
state = "state"
runtime = "run"
"""
MAIL = """
[mail]
smtp = ["127.0.0.1:{smtp}"]
pop3 = ["127.0.0.1:{pop3}"]
{more}
[[mail.smarthost]]
host = "smtp.isp.example"
"""
LINE = """
[[line]]
name = "pstn"
port = "/dev/none"
numbers = ["0570000111"]
"""


def user(name: str) -> str:
    return f'[[user]]\nname = "{name}"\npassword = "{STORED}"\naddresses = ["{name}@harbour.example"]\n'


class Running:
    """A `House` in this process, told by signals as systemd tells it."""

    def __init__(self, root: Path, notify: NotifySocket) -> None:
        self.root, self.notify = root, notify
        self.file = root / "posthouse.toml"
        self.smtp, self.pop3 = free_port(), free_port()
        self.ended = trio.Event()
        self.house: House
        self.streams: list[trio.SocketStream] = []
        """Of the clients; closed at the end of the test."""

    def write(
        self, *, more: str = "", users: tuple[str, ...] = ("hanako",), rest: str = LINE, site: str = SITE
    ) -> None:
        self.root.joinpath("posthouse.toml").write_text(
            site + MAIL.format(smtp=self.smtp, pop3=self.pop3, more=more) + "".join(map(user, users)) + rest
        )

    async def run(self) -> None:
        config = load(self.file)
        self.house = House(await trio.to_thread.run_sync(Core, config), config, self.file)
        try:
            await self.house.run()
        finally:
            unlock(self.house.core.locks)
            self.ended.set()

    async def reload(self, **changes: Any) -> None:
        self.write(**changes)
        await self.hup()

    async def hup(self) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        assert "MONOTONIC_USEC" in await self.notify.wait("RELOADING")
        await self.notify.wait("READY")

    async def ask(self, verb: str, **arguments: Any) -> Any:
        with trio.fail_after(WAIT):
            return await trio.to_thread.run_sync(lambda: ask(self.root / "run" / SOCKET_NAME, verb, arguments))

    async def connect(self, port: int | None = None) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.smtp if port is None else port)
        self.streams.append(stream)
        return Client(stream)


class Client:
    """A line-by-line conversation."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def reply(self) -> str:
        """The last line of the next reply."""
        with trio.fail_after(WAIT):
            while True:
                line, end, rest = self.buffer.partition(b"\r\n")
                if end:
                    self.buffer = rest
                    if line[3:4] != b"-":
                        return line.decode()
                    continue
                data = await self.stream.receive_some()
                if not data:
                    return "closed"
                self.buffer += data

    async def say(self, text: str) -> str:
        await self.stream.send_all(text.encode() + b"\r\n")
        return await self.reply()

    async def login(self, name: str) -> str:
        await self.reply()
        await self.say("EHLO pc")
        return await self.say("AUTH PLAIN " + base64.b64encode(f"\0{name}\0{PASSWORD}".encode()).decode())


@pytest.fixture
async def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    with NotifySocket.open(tmp_path / "notify") as notify:
        for name, value in notify.env.items():
            monkeypatch.setenv(name, value)
        it = Running(tmp_path, notify)
        it.write()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.run)
            await notify.wait("READY")
            try:
                yield it
            finally:
                for stream in it.streams:
                    stream.socket.close()
            nursery.cancel_scope.cancel()


def journal(caplog: pytest.LogCaptureFixture, event: str) -> list[str]:
    """The texts of the events with this id."""
    return [
        r.getMessage() for r in caplog.records if getattr(r, "posthouse_event", None) and r.posthouse_event.id == event
    ]


@pytest.fixture(autouse=True)
def everything_is_in_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


# ---- status
async def test_status_has_the_keys_of_the_contract(running: Running) -> None:
    status = await running.ask("status")
    assert set(status) >= {
        "site", "version", "fingerprint", "uptime_s", "clock_trusted", "line", "queue", "users", "terminals", "peers",
        "services", "listeners",
    }  # fmt: skip
    keys = {"name", "state", "reason", "number", "since", "next_call", "next_call_reason"}
    assert set(status["line"]) == keys
    assert set(status["queue"]) == {"messages", "bytes", "oldest_s", "in_doubt", "held", "bulk"}
    assert status["terminals"] == {"local": 0, "remote": 0}
    assert status["peers"] == {"up": 0, "suspended": 0, "lost": 0, "never": 0}
    assert (status["site"], status["users"]) == ("harbour", 1)
    assert (status["line"]["name"], status["line"]["state"]) == ("pstn", "idle")
    running_ones = ("clock", "smtp", "pop3", "caller", "notices", "alerts", "status-line", "control")
    assert status["services"] == dict.fromkeys(running_ones, "running")
    listeners = {"smtp": [f"127.0.0.1:{running.smtp}"], "pop3": [f"127.0.0.1:{running.pop3}"], "relay": []}
    assert status["listeners"] == listeners
    assert status["queue"]["oldest_s"] is None


async def test_leds_follow_the_house(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = running.root / "leds"
    for name in ("p", "m", "f"):
        (folder / name).mkdir(parents=True)
        for file, text in (("max_brightness", "1"), ("brightness", "0"), ("trigger", "none"), ("pattern", "")):
            (folder / name / file).write_text(text)
        (folder / name / "trigger").write_text("none pattern")

    async def lit(name: str, text: str, file: str = "brightness") -> None:
        with trio.fail_after(WAIT):
            while not (folder / name / file).read_text().startswith(text):
                await trio.sleep(0.02)

    monkeypatch.setattr(board, "LEDS_FOLDER", folder)
    monkeypatch.setattr(board, "LOOK_S", 0.05)
    await running.reload(rest=LINE + '[schedule]\nurgent = false\n[leds]\npower = "p"\nmail = "m"\nfault = "f"\n')
    await lit("p", "1")
    await lit("m", "0")
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<a@far.example>", "DATA"):
        await client.say(line)
    await client.say("Subject: x\r\n\r\nx\r\n.")
    await lit("m", "1")
    for name in ("p", "m", "f"):
        (folder / name / "trigger").write_text("none pattern")
    running.file.write_text("broken")
    await running.hup()
    await lit("f", "1 200", "pattern")
    await running.reload()  # without LEDs: they are not left as they were
    await lit("p", "0")
    await lit("m", "0")


async def test_the_state_is_mailed_to_a_user(running: Running) -> None:
    alerts = '[alerts]\nto = "hanako@harbour.example"\nevery = "7d"\n'
    await running.reload(rest=LINE + alerts)
    box = running.house.core.mailboxes["hanako"]
    with trio.fail_after(WAIT):
        while not (mails := box.messages()):
            await trio.sleep(0.01)
    assert b"services  all running" in mails[0].path.read_bytes()
    await running.reload(rest=LINE + alerts.replace("7d", "8d"))
    await running.reload(rest=LINE + alerts)
    assert len(box.messages()) == 1
    assert await running.ask("queue") == []


async def test_systemd_has_the_state_in_one_line(running: Running) -> None:
    said = [one["STATUS"] for one in running.notify.said if "STATUS" in one]
    assert said[0].endswith("; nothing waits")
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA", "Subject: x\r\n\r\n."):
        await client.say(line)
    while not said[-1].endswith("; 1 message waits"):
        said.append((await running.notify.wait("STATUS"))["STATUS"])


async def test_files_and_folders(running: Running) -> None:
    state = running.root / "state"
    assert stat.S_IMODE((running.root / "run" / SOCKET_NAME).stat().st_mode) == 0o660
    assert stat.S_IMODE((running.root / "run").stat().st_mode) == 0o750
    for secret in (state, state / "keys", state / "mail"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "keys" / "mail.key").stat().st_mode) == 0o600
    assert (state / "version").read_text() == f"{__version__}\n"


async def test_mailboxes_know_the_disk(running: Running) -> None:
    boxes = running.house.core.mailboxes.values()
    assert boxes
    assert not any(box.disk_has_room(1 << 60) for box in boxes)


async def test_the_queue_by_hand(running: Running) -> None:
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA"):
        await client.say(line)
    assert (await client.say("Subject: x\r\n\r\nhello\r\n.")).startswith("250 ")
    (one,) = await running.ask("queue")
    assert set(one) == {"id", "sender", "recipients", "size", "received", "priority", "state", "attempts"}
    assert one["recipients"] == [{"address": "boss@far.example", "state": "queued", "reply": ""}]
    assert (one["state"], one["priority"], one["attempts"]) == ("queued", "normal", 0)
    assert one["received"].endswith("Z")
    assert await running.ask("queue-show", id=one["id"]) == one
    await running.ask("queue-hold", id=one["id"])
    assert (await running.ask("queue"))[0]["state"] == "held"
    assert (await running.ask("status"))["queue"]["held"] == 1
    await running.ask("queue-release", id=one["id"])
    assert (await running.ask("queue"))[0]["state"] == "queued"
    await running.ask("queue-remove", id=one["id"])
    assert await running.ask("queue") == []
    for verb in ("queue-show", "queue-hold", "queue-release", "queue-remove"):
        with pytest.raises(Exception, match="no message 'none' is in the queue"):
            await running.ask(verb, id="none")


async def test_a_line_whose_modem_is_not_there(running: Running) -> None:
    call = await running.ask("dial", force=True)
    assert (call["outcome"], call["dials"]) == ("modem-silent", 0)
    with pytest.raises(Exception, match="no call is up"):
        await running.ask("hangup")


async def test_a_delay_notice_says_how_the_last_call_ended(running: Running) -> None:
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA"):
        await client.say(line)
    assert (await client.say("Subject: x\r\n\r\nhello\r\n.")).startswith("250 ")
    office = running.house.core.office
    (envelope,) = office.spool.messages.values()
    assert (await running.ask("dial", force=True))["outcome"] == "modem-silent"
    await running.reload(more='warn_after = "1s"')  # the service that tells looks at once when it begins
    envelope.boot -= 2
    await running.reload(more='warn_after = "2s"')
    with trio.fail_after(WAIT):
        while not envelope.warned:
            await trio.sleep(0.01)
    (message,) = office.mailboxes["hanako"].messages()
    group = message_from_bytes(message.path.read_bytes()).get_payload()[1].get_payload()[1]  # type: ignore[union-attr, index]
    assert group["Status"] == "4.4.1"  # type: ignore[index]
    why = " ".join(group["Diagnostic-Code"].split())  # type: ignore[index]
    assert why.startswith("X-Posthouse; The last call, which began 2")
    assert "failed: the modem does not answer AT" in why
    assert why.endswith("No call is planned now: 1 message waits; no condition in [schedule] holds.")


async def test_a_call_by_hand_that_is_refused(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    await running.reload(rest="")
    with trio.fail_after(WAIT):
        while (await running.ask("status"))["line"]["name"]:  # until the service that dials is the new one
            await trio.sleep(0.01)
    with pytest.raises(Exception, match="no line is configured"):
        await running.ask("dial")
    assert journal(caplog, "call-refused") == ["a call by hand is refused: no line is configured"]


async def test_a_device_that_is_not_there(running: Running) -> None:
    await running.reload(rest='[[line]]\nname = "wwan"\nkind = "interface"\ndevice = "no-such-device"\n')
    with trio.fail_after(WAIT):
        while (await running.ask("status"))["line"]["name"] != "wwan":  # the caller is replaced behind the reload
            await trio.sleep(0.01)
        call = await running.ask("dial", force=True)
    assert (call["line"], call["number"], call["outcome"], call["dials"]) == ("wwan", "", "no-network", 0)


async def test_a_line_that_can_t_be_dialled_is_told_of_at_once(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = running.root / "secrets.toml"
    secrets.write_text('isp = "x"')
    secrets.chmod(0o600)
    with caplog.at_level(logging.INFO, "posthouse"), trio.fail_after(WAIT):
        await running.reload(rest=LINE + f'ppp_login = "{"l" * 256}"\nppp_secret = "isp"\n')
        while not journal(caplog, "line-not-usable"):
            await trio.sleep(0.01)
    why = "ppp_login or ppp_secret can't be used: login is longer than 255 bytes"
    assert journal(caplog, "line-not-usable") == [f"pstn: {why}"]
    with pytest.raises(Exception, match="login is longer") as raised:
        await running.ask("dial", force=True)
    assert raised.value.code == 1  # type: ignore[attr-defined]


# ---- SIGHUP
async def test_a_new_user_may_log_in_and_the_session_of_another_goes_on(running: Running) -> None:
    client = await running.connect()
    assert (await client.login("hanako")).startswith("235 ")
    stranger = await running.connect()
    assert (await stranger.login("taro")).startswith("535 ")
    await running.reload(users=("hanako", "taro"))
    assert (await client.say("NOOP")).startswith("250 ")
    assert (await (await running.connect()).login("taro")).startswith("235 ")
    assert (await running.ask("status"))["users"] == 2
    assert (running.root / "state" / "mail" / "taro" / "new").is_dir()
    await running.reload(users=("taro",))
    assert (await (await running.connect()).login("hanako")).startswith("535 ")


async def test_a_new_address_is_served_and_the_old_one_no_more(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    old = running.smtp
    running.smtp = free_port()
    await running.reload()
    assert (await (await running.connect()).reply()).startswith("220 ")
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream("127.0.0.1", old)
    assert (await running.ask("status"))["listeners"]["smtp"] == [f"127.0.0.1:{running.smtp}"]
    assert journal(caplog, "reloaded") == ["configuration read again: smtp"]


async def test_a_message_under_way_is_taken_before_its_listener_is_replaced(running: Running) -> None:
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA"):
        await client.say(line)
    running.write(more="message_limit = '1MiB'")
    os.kill(os.getpid(), signal.SIGHUP)
    await running.notify.wait("RELOADING")
    assert (await client.say("Subject: x\r\n\r\n.")).startswith("250 ")
    await running.notify.wait("READY")
    assert len(await running.ask("queue")) == 1
    fresh = await running.connect()
    await fresh.reply()
    await fresh.stream.send_all(b"EHLO pc\r\n")
    with trio.fail_after(WAIT):
        assert b"SIZE 1048576" in await fresh.stream.receive_some()


async def test_the_schedule_and_the_limits(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    await running.reload(more="client_limit = 1", rest=LINE.replace("pstn", "isdn") + "[schedule]\nevery = '2h'\n")
    assert (await (await running.connect()).reply()).startswith("220 ")
    assert (await (await running.connect()).reply()).startswith("421 ")
    assert journal(caplog, "reloaded") == ["configuration read again: caller"]
    with trio.fail_after(WAIT):
        while (await running.ask("status"))["line"]["name"] != "isdn":
            await trio.sleep(0.01)


async def test_the_same_file_changes_nothing(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    client = await running.connect(running.pop3)
    assert (await client.reply()).startswith("+OK")
    await running.hup()
    assert journal(caplog, "reloaded") == ["configuration read again: no service has changed"]
    assert (await client.say("CAPA")).startswith("+OK")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda good: good + "nonsense = 1\n", "unknown key"),
        (lambda good: "[[[", "posthouse.toml:1: "),
        (lambda good: None, "can't be read"),
        (lambda good: good + "[console]\nssh = true\n", "there is no console.password"),
    ],
)
async def test_a_bad_file_keeps_the_old_configuration(
    running: Running, text: Any, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = text(running.file.read_text())
    if bad is None:
        running.file.unlink()
    else:
        running.file.write_text(bad)
    await running.hup()
    (entry,) = journal(caplog, "reload-refused")
    assert said in entry
    assert (await (await running.connect()).login("hanako")).startswith("235 ")
    await running.reload(users=("hanako", "taro"))  # a good one again
    assert (await (await running.connect()).login("taro")).startswith("235 ")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('state = "state"', 'state = "elsewhere"', "site.state"),
        ('runtime = "run"', 'runtime = "elsewhere"', "site.runtime"),
        ('name = "harbour"', 'name = "haven"', "site.name"),
    ],
)
async def test_what_needs_a_restart(
    running: Running, old: str, new: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    await running.reload(site=SITE.replace(old, new), users=("hanako", "taro"))
    assert journal(caplog, "reload-needs-restart") == [
        f"{what} changed: takes effect at the next start; until then nothing else of the file is taken over either"
    ]
    assert not (running.root / "elsewhere").exists()
    assert (await running.ask("status"))["users"] == 1


@pytest.mark.parametrize("why", ["port", "certificate"])
async def test_a_configuration_that_can_t_be_served_is_not_taken_over(
    running: Running, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Mail goes on with the old one: the process does not end."""
    old = running.smtp, running.pop3
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running.smtp = free_port()
        if why == "port":
            running.pop3 = taken.getsockname()[1]
            await running.reload(users=("hanako", "taro"))
            said = f"cannot listen on 127.0.0.1:{running.pop3}: Address already in use"
        else:
            (running.root / "a.pem").write_bytes(make_self_signed(["a.example"])[0])
            (running.root / "b.key").write_bytes(make_self_signed(["b.example"])[1])
            await running.reload(users=("hanako", "taro"), more="certificate = 'a.pem'\nkey = 'b.key'")
            said = "key values mismatch"
    (entry,) = journal(caplog, "reload-refused")
    assert said in entry
    running.smtp, running.pop3 = old
    assert (await (await running.connect()).login("hanako")).startswith("235 ")
    assert (await (await running.connect()).login("taro")).startswith("535 ")
    assert (await (await running.connect(running.pop3)).reply()).startswith("+OK")
    status = await running.ask("status")
    assert set(status["services"].values()) == {"running"}
    assert status["listeners"]["smtp"] == [f"127.0.0.1:{running.smtp}"]


# ---- SIGTERM
async def test_stopping_lets_a_message_under_way_finish(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    busy, idle = await running.connect(), await running.connect()
    await busy.login("hanako")
    await idle.reply()
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA"):
        await busy.say(line)
    os.kill(os.getpid(), signal.SIGTERM)
    await running.notify.wait("STOPPING")
    assert (await idle.reply()).startswith("421 ")
    with pytest.raises(OSError, match="all attempts"):  # it stops accepting first
        await trio.open_tcp_stream("127.0.0.1", running.smtp)
    with pytest.raises(OSError, match="all attempts"):
        await trio.open_tcp_stream("127.0.0.1", running.pop3)
    assert not running.ended.is_set()
    assert (await busy.say("Subject: x\r\n\r\n.")).startswith("250 ")
    with trio.fail_after(WAIT):
        await running.ended.wait()
    assert journal(caplog, "stopped")
    assert not (running.root / "run" / SOCKET_NAME).exists()
    assert len(list((running.root / "state" / "spool" / "queue").glob("*.eml"))) == 1


async def test_stopping_waits_no_longer_than_its_time(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lan, "DRAIN_S", 0.2)
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA"):
        await client.say(line)
    await client.stream.send_all(b"Subject: half")
    os.kill(os.getpid(), signal.SIGTERM)
    with trio.fail_after(WAIT):
        await running.ended.wait()
    with contextlib.suppress(trio.BrokenResourceError):
        assert await client.reply() == "closed"
    spool = running.root / "state" / "spool"
    assert [p for p in spool.rglob("*") if p.is_file()] == []


async def test_stopping_does_not_wait_for_a_reload_that_waits_for_a_call(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_idle() -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(running.house.caller.__class__, "wait_idle", lambda self: wait_idle())
    await running.reload(rest=LINE.replace("pstn", "isdn"))  # READY is said: everything else is in force
    await running.reload(rest=LINE.replace("pstn", "isdn"), users=("hanako", "taro"))
    assert (await (await running.connect()).login("taro")).startswith("235 ")
    os.kill(os.getpid(), signal.SIGTERM)
    with trio.fail_after(WAIT):
        await running.ended.wait()


async def test_what_was_there_is_there_again(running: Running) -> None:
    client = await running.connect()
    await client.login("hanako")
    for line in ("MAIL FROM:<hanako@harbour.example>", "RCPT TO:<boss@far.example>", "DATA", "x: y\r\n\r\n."):
        await client.say(line)
    before = await running.ask("queue")
    os.kill(os.getpid(), signal.SIGTERM)
    with trio.fail_after(WAIT):
        await running.ended.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.run)
        await running.notify.wait("READY")
        assert await running.ask("queue") == before
        nursery.cancel_scope.cancel()
