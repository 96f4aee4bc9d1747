"""`posthouse terminal` as its user meets it: child processes against a relay server of the tests."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
import trio

from appliance.storage.disk import Disk
from appliance.terminal.state import State
from fakes.ports import free_port
from fakes.relay_server import Body, Login
from fakes.terminal import PASSWORD, SOON_S, House, Terminal, echo, house, sha


async def test_connect_carries_both_directions_and_keeps_half_close(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"sha={await h.service(sha)}", "--offer", f"echo={await h.service(echo)}")
        await one.login()
        data = os.urandom(3_000_000)
        done = await one.run("connect", "pc2", "sha", stdin=data)
        assert (done.returncode, done.stdout.decode(), done.stderr) == (0, hashlib.sha256(data).hexdigest(), b"")
        done = await one.run("connect", "pc2", "echo", stdin=data)
        assert (done.returncode, done.stdout == data) == (0, True)
        assert "pc1 echo: connected" in two.said and "3.0 MB in, 3.0 MB out" in two.said


# ---- exit codes and sentences of connect
async def test_what_becomes_no_better_by_itself_ends_with_1(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login()
        await one.login()
        done = await one.run("connect", "nobody", "ssh")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"posthouse: no terminal of the name nobody is known\n"
        done = await one.run("connect", "pc2", "ssh")
        assert (done.returncode, done.stderr) == (1, b"posthouse: pc2 offers no service ssh\n")
        assert "pc1 asks for ssh, which is not offered" in two.said
        h.relay.answer = lambda login, kind, body: unavailable(h, login, kind, body, reason="forbidden")
        done = await one.run("connect", "pc2", "ssh")
        assert done.returncode == 1 and b"calling pc2 is forbidden" in done.stderr


def unavailable(h: House, login: Login, kind: str, body: Body, **said: object) -> bool:
    if kind != "connect":
        return False
    h.nursery.start_soon(lambda: login.send("unavailable", id=body["id"], **said))
    return True


@pytest.mark.parametrize(("presence", "back_in", "text"), [
    ("offline", None, r"pc9 is offline: it is not logged in"),
    ("suspended", 7200, r"pc9 is suspended: a line on the way to it is down by plan; back in 2 h \(at .*\)"),
    ("lost", None, r"pc9 is lost: the connection to it broke off and has not come back"),
])  # fmt: skip
async def test_what_may_become_better_ends_with_3(
    tmp_path: Path, presence: str, back_in: int | None, text: str
) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        h.relay.entries["pc9"] = {"name": "pc9", "presence": presence, "back_in": back_in}
        done = await one.run("connect", "pc9", "ssh")
        assert done.returncode == 3 and done.stdout == b""
        assert re.fullmatch(f"posthouse: {text}\n", done.stderr.decode())


async def test_a_service_that_does_not_answer_ends_with_3(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with house(tmp_path) as h:
            one, two = h.terminal("pc1"), h.terminal("pc2")
            await two.login("--offer", f"ssh=127.0.0.1:{nobody.getsockname()[1]}")
            await one.login()
            done = await one.run("connect", "pc2", "ssh")
            assert done.returncode == 3 and b"pc2 accepted, but its ssh was not connected" in done.stderr
            await two.until(lambda: "pc1 ssh: no circuit: 127.0.0.1:" in two.said, "why")


async def test_a_circuit_that_is_cut_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    async def half(stream: trio.SocketStream) -> None:
        await stream.receive_some()  # both ends are connected
        await stream.send_all(b"half")
        for circuit in h.relay.circuits:
            for leg in circuit.legs.values():
                await trio.aclose_forcefully(leg)
        await trio.sleep_forever()

    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"half={await h.service(half)}")
        await one.login()
        done = await one.run("connect", "pc2", "half")
        assert done.returncode == 1 and b"broken off: the circuit" in done.stderr
        assert b"half".startswith(done.stdout)


async def test_waiting_says_why_and_connects_when_the_other_is_back(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        h.relay.entries["pc2"] = {"name": "pc2", "presence": "suspended", "back_in": 60}
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                done = await one.run("connect", "--wait", "1h", "pc2", "echo", stdin=b"hello")
                assert (done.returncode, done.stdout) == (0, b"hello"), done
                assert b"down by plan; back in 1 min" in done.stderr and b"; waiting up to 1 h" in done.stderr

            nursery.start_soon(connect)
            await one.until(lambda: any(kind == "connect" for _, kind, _ in h.relay.heard), "the request")
            login, request = h.relay.logins["pc1"], h.relay.heard[-1][2]
            assert request["wait"] == 3600
            await two.login("--offer", f"echo={await h.service(echo)}")
            await h.relay._connect(login, request)


# ---- logging in
async def test_the_password_is_asked_for_once(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        first = await one.login()
        await stop(first)
        await one.login()
        passwords = [body.get("password") for _, kind, body in h.relay.heard if kind == "login"]
        assert passwords == [None, PASSWORD, None]


async def stop(process: trio.Process, with_signal: int = signal.SIGTERM) -> int:
    process.send_signal(with_signal)
    with trio.fail_after(SOON_S):
        return await process.wait()


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_a_signal_logs_out(tmp_path: Path, with_signal: int) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        process = await one.login()
        assert await stop(process, with_signal) == 0
        assert h.relay.heard[-1][1:] == ("bye", {"reason": "logout"}) and not h.relay.logins
        assert not (one.folder / "socket").exists()


async def test_another_certificate_of_the_relay_server_is_refused_before_a_word(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        wrong = "sha256:" + "0" * 64
        done = await one.run("login", "--relay", h.relay.at, "--name", "pc1", "--fingerprint", wrong)
        assert done.returncode == 1 and h.relay.fingerprint.encode() in done.stderr and not h.relay.heard
        await stop(await one.login())
        State(one.folder, Disk()).pin_relay(h.relay.at, wrong)
        done = await one.run("list")
        assert done.returncode == 1 and b"--fingerprint takes it" in done.stderr


async def test_a_relay_server_never_met_needs_its_fingerprint_or_a_person(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        done = await one.run("login", "--relay", h.relay.at, "--name", "pc1")
        assert done.returncode == 2 and h.relay.fingerprint.encode() in done.stderr and not h.relay.heard


async def test_an_enrolment_string_is_all_that_it_takes(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        h.relay.accounts["pc1"] = "one,time"
        string = f"posthouse1:{h.relay.at},pc1,{h.relay.fingerprint},one,time"
        await one.start("login", "--enrol", string, until="pc1 is logged in")
        assert "one,time" not in one.said


async def test_no_password_to_enrol_with_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        environment = {k: v for k, v in one.environment().items() if k != "POSTHOUSE_PASSWORD"}
        monkeypatch.setattr(Terminal, "environment", lambda self: environment)
        given = ["--relay", h.relay.at, "--name", "pc1", "--fingerprint", h.relay.fingerprint]
        done = await one.run("login", *given)
        assert done.returncode == 2 and b"--password-file" in done.stderr
        (tmp_path / "password").write_text(PASSWORD + "\n")
        await one.start("login", *given, "--password-file", str(tmp_path / "password"), until="pc1 is logged in")


async def test_a_refused_login_ends_with_1(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        h.relay.accounts["pc1"] = "another one"
        done = await one.run("login", "--relay", h.relay.at, "--name", "pc1", "--fingerprint", h.relay.fingerprint)
        assert done.returncode == 1 and b"does not let pc1 in" in done.stderr
        assert len([k for _, k, _ in h.relay.heard if k == "login"]) == 2


async def test_a_counter_that_is_behind_is_raised(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        h.relay.counters["pc1"] = 1 << 45
        await one.login()
        assert h.relay.counters["pc1"] == (1 << 45) + 1


async def test_replaced_stops_and_does_not_come_back(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        process = await one.login()
        login = h.relay.logins["pc1"]
        await login.send("bye", reason="replaced")
        await login.cut()
        with trio.fail_after(SOON_S):
            assert await process.wait() == 1
        await one.until(lambda: "this login of pc1 is replaced: it has logged in elsewhere" in one.said, "why")
        assert len([k for _, k, _ in h.relay.heard if k == "login"]) == 2


@pytest.mark.parametrize("reason", ["stopping", "call-over", ""])
async def test_a_lost_connection_comes_back(tmp_path: Path, reason: str) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        login = h.relay.logins["pc1"]
        if reason:
            await login.send("bye", reason=reason, back_in=5)
        await login.cut()
        await one.until(lambda: h.relay.logins.get("pc1") not in (None, login), "another login")
        assert "trying again in 1 s" in one.said


async def test_silence_is_noticed_after_twice_the_keepalive(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        h.relay.keepalive = 1
        await one.login()
        login = h.relay.logins["pc1"]
        await trio.sleep(5)
        assert h.relay.logins["pc1"] is login, "its pings are answered"
        h.relay.deaf = True
        await one.until(lambda: h.relay.logins.get("pc1") not in (None, login), "another login")
        assert "has been silent for" in one.said


async def test_its_ghost_does_not_block_a_login(tmp_path: Path) -> None:
    """The first computer went without a word; its connection is still open at the relay server."""
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        process = await one.login()
        process.send_signal(signal.SIGSTOP)
        ghost = h.relay.logins["pc1"]
        again = Terminal(tmp_path / "moved", "pc1", h.relay, h.nursery)
        again.folder.parent.mkdir()
        shutil.copytree(one.folder, again.folder, ignore=shutil.ignore_patterns("socket"))
        await again.login()
        assert h.relay.logins["pc1"] is not ghost
        process.kill()


async def test_a_connection_closed_without_a_byte_is_tried_again(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"echo={await h.service(echo)}")
        await one.login()
        h.relay.close_silently = 2
        done = await one.run("connect", "pc2", "echo", stdin=b"hello")
        assert (done.returncode, done.stdout) == (0, b"hello")


# ---- one holder of the login
async def test_without_a_login_a_command_logs_in_for_itself(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"echo={await h.service(echo)}")
        await stop(await one.login("--offer", "x=127.0.0.1:9"))
        done = await one.run("connect", "pc2", "echo", stdin=b"hello")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"")
        logins = [body["services"] for name, kind, body in h.relay.heard if (name, kind) == ("pc1", "login")]
        assert logins[-1] == [], "it offers nothing"
        assert h.relay.heard[-1][:2] == ("pc1", "bye")


async def test_before_any_login_a_command_is_wrong_usage(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        done = await h.terminal("pc1").run("list")
        assert done.returncode == 2 and b"posthouse terminal login" in done.stderr


async def test_a_relay_server_that_is_away_ends_with_3(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await stop(await one.login())
        at = h.relay.at
    done = await one.run("list")
    assert done.returncode == 3 and at.encode() in done.stderr and b"refused" in done.stderr.lower()
    begun = trio.current_time()
    done = await one.run("connect", "pc2", "ssh", "--wait", "4s")
    assert trio.current_time() - begun >= 4
    waiting, over = done.stderr.decode().splitlines()
    assert done.returncode == 3 and at in over
    assert re.fullmatch(r"posthouse: no login at the relay server just now: .*refused; waiting up to [1-4] s", waiting)


async def test_two_commands_share_a_login_and_a_login_takes_over(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"echo={await h.service(echo)}")
        await stop(await one.login())
        port = free_port()
        await one.start("forward", str(port), "pc2", "echo", until="leads to echo at pc2")
        assert await through(port) == b"hello"
        logins = h.relay.counters["pc1"]
        done = await one.run("connect", "pc2", "echo", stdin=b"shared")
        assert (done.returncode, done.stdout, h.relay.counters["pc1"]) == (0, b"shared", logins)
        await one.login("--offer", f"echo={await h.service(echo)}")
        assert h.relay.counters["pc1"] > logins
        logins = h.relay.counters["pc1"]
        assert await through(port) == b"hello", "the forward goes through the login that took over"
        assert h.relay.counters["pc1"] == logins
        done = await one.run("login", "--relay", h.relay.at, "--name", "pc1")
        assert done.returncode == 1 and b"logged in already" in done.stderr


async def through(port: int, data: bytes = b"hello") -> bytes:
    """What comes back through a forwarded port; b"reset" where it is reset."""
    out = b""
    with trio.fail_after(SOON_S):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            try:
                await stream.send_all(data)
                await stream.send_eof()
                async for part in stream:
                    out += part
            except trio.BrokenResourceError:
                return b"reset"
    return out


async def test_tries_that_somebody_asked_for_make_no_pause_longer(tmp_path: Path) -> None:
    """Or a terminal whose user tried ten times would stay away for a minute after its relay server is back."""
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        h.relay.close_silently = 1000
        await h.relay.logins["pc1"].cut()
        for _ in range(5):
            done = await one.run("connect", "pc2", "ssh")
            assert done.returncode == 3, done.stderr
        pauses = [int(s) for s in re.findall(r"trying again in (\d+) s", one.said)]
        assert len(pauses) > 5 and max(pauses) <= 8, one.said


async def test_a_request_outlives_the_login_that_it_was_made_on(tmp_path: Path) -> None:
    """The same id goes out again on the next one."""
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        h.relay.entries["pc2"] = {"name": "pc2", "presence": "lost"}
        connect = await one.start("connect", "--wait", "10m", "pc2", "echo", until="waiting")
        await two.login("--offer", f"echo={await h.service(echo)}")
        await h.relay.logins["pc1"].cut()
        with trio.fail_after(SOON_S):
            assert await connect.wait() == 0
        ids = [body["id"] for name, kind, body in h.relay.heard if kind == "connect"]
        assert len(ids) == 2 and ids[0] == ids[1]


async def test_a_command_that_is_stopped_cancels_its_request(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        h.relay.entries["pc2"] = {"name": "pc2", "presence": "lost"}
        connect = await one.start("connect", "--wait", "10m", "pc2", "echo", until="waiting")
        assert await stop(connect) == 128 + signal.SIGTERM
        await one.until(lambda: h.relay.heard[-1][1] == "cancel", "cancel")


# ---- forward
async def test_forward_carries_many_connections(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"sha={await h.service(sha)}")
        await one.login()
        port = free_port()
        await one.start("forward", f"127.0.0.1:{port}", "pc2", "sha", until="leads to sha")
        blocks = [os.urandom(200_000) for _ in range(40)]
        answers: dict[int, bytes] = {}

        async def one_of(i: int) -> None:
            answers[i] = await through(port, blocks[i])

        async with trio.open_nursery() as nursery:
            for i in range(len(blocks)):
                nursery.start_soon(one_of, i)
        assert answers == {i: hashlib.sha256(b).hexdigest().encode() for i, b in enumerate(blocks)}


async def test_forward_resets_what_gets_no_circuit_and_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        port = free_port()
        process = await one.start("forward", str(port), "pc2", "echo", until="leads to echo")
        assert await through(port) == b"reset"
        await one.until(lambda: "no terminal of the name pc2 is known" in one.said, "why")
        await two.login("--offer", f"echo={await h.service(echo)}")
        assert await through(port) == b"hello"
        assert await stop(process, signal.SIGINT) == 0


async def test_forward_says_which_port_it_cannot_have(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            done = await one.run("forward", str(port), "pc2", "echo")
        assert (done.returncode, done.stderr) == (
            1,
            f"posthouse: cannot listen on 127.0.0.1:{port}: Address already in use\n".encode(),
        )


# ---- list
async def test_list_prints_a_table(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", "ssh=127.0.0.1:22", "--offer", "vnc=127.0.0.1:5900")
        await one.login()
        h.relay.entries["pc9"] = {
            "name": "pc9", "presence": "suspended", "relay": "hub", "path": ["hub", "fake"], "age": 90, "services": [], "back_in": 600,
        }  # fmt: skip
        done = await one.run("list")
        assert done.returncode == 0 and done.stderr == b""
        lines = done.stdout.decode().splitlines()
        assert [line.split()[:2] for line in lines] == [
            ["NAME", "PRESENCE"],
            ["pc1", "online"],
            ["pc2", "online"],
            ["pc9", "suspended,"],
        ]
        assert "ssh, vnc" in lines[2] and "back in 10 min" in lines[3] and "hub (1 away)" in lines[3]
        rows = json.loads((await one.run("list", "--json")).stdout)
        assert [r["name"] for r in rows] == ["pc1", "pc2", "pc9"] and rows[1]["services"] == ["ssh", "vnc"]


async def test_list_watches_over_lost_connections(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        watching = Terminal(tmp_path, "pc1", h.relay, h.nursery)
        process = await watching.start("list", "--watch", until="pc1")
        login = await two.login("--offer", "ssh=127.0.0.1:22")
        await watching.until(lambda: "pc2  online  fake  0 s  ssh" in watching.said, "pc2 comes")
        await stop(login)
        await watching.until(lambda: "pc2  gone" in watching.said, "pc2 goes")
        await h.relay.logins["pc1"].cut()
        await two.login("--offer", "rdp=127.0.0.1:22")
        await watching.until(lambda: "pc2  online  fake  0 s  rdp" in watching.said, "pc2 is there again")
        assert await stop(process, signal.SIGINT) == 0


async def test_list_says_once_why_it_has_nothing_new(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await stop(await one.login())
        process = await one.start("list", "--watch", until="PRESENCE")
        assert h.relay.nursery is not None
        h.relay.nursery.cancel_scope.cancel()
        await one.until(lambda: "refused" in one.said, "why")
        await trio.sleep(4)  # it asks each second
        assert one.said.count("refused") == 1
        assert await stop(process, signal.SIGINT) == 0


async def test_list_is_whole_while_another_watches(tmp_path: Path) -> None:
    """Changes and answers come as the same message: a change that comes first must not be taken for the answer."""
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        watching = Terminal(tmp_path, "pc1", h.relay, h.nursery)
        await watching.start("list", "--watch", until="pc1")
        await two.login("--offer", "ssh=127.0.0.1:22")
        await watching.until(lambda: "pc2  online" in watching.said, "pc2 comes")

        def change_first(login: Login, kind: str, body: Body) -> bool:
            async def both() -> None:
                rows = [{"name": n, "presence": "online", "services": s} for n, s in (("pc2", ["ssh"]), ("pc1", []))]
                await login.send("table", entries=rows[:1], last=True)
                await login.send("table", entries=rows, last=True)

            if kind == "list":
                h.nursery.start_soon(both)
            return kind == "list"

        h.relay.answer = change_first
        rows = json.loads((await one.run("list", "--json")).stdout)
        assert [(r["name"], r["services"]) for r in rows] == [("pc1", []), ("pc2", ["ssh"])]


# ---- whom one has met
async def test_another_certificate_of_a_terminal_is_refused_until_it_is_forgotten(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two, new = h.terminal("pc1"), h.terminal("pc2"), Terminal(tmp_path / "new", "pc2", h.relay, h.nursery)
        service = f"echo={await h.service(echo)}"
        login = await two.login("--offer", service)
        await one.login()
        assert (await one.run("connect", "pc2", "echo", stdin=b"x")).returncode == 0
        await stop(login)
        del h.relay.enrolled["pc2"]
        new.folder.parent.mkdir()
        await new.login("--offer", service)
        done = await one.run("connect", "pc2", "echo", stdin=b"x")
        assert (done.returncode, done.stdout) == (1, b"") and b"certificate-changed" in done.stderr
        assert (await one.run("forget", "pc2")).returncode == 0
        assert (await one.run("connect", "pc2", "echo", stdin=b"x")).stdout == b"x"
        done = await one.run("forget", "pc8")
        assert (done.returncode, done.stderr) == (1, b"posthouse: nothing is known of pc8\n")


async def test_the_callee_refuses_another_certificate_too(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two, new = h.terminal("pc1"), h.terminal("pc2"), Terminal(tmp_path / "new", "pc1", h.relay, h.nursery)
        await two.login("--offer", f"echo={await h.service(echo)}")
        login = await one.login()
        assert (await one.run("connect", "pc2", "echo", stdin=b"x")).returncode == 0
        await stop(login)
        del h.relay.enrolled["pc1"]
        new.folder.parent.mkdir()
        await new.login()
        done = await new.run("connect", "pc2", "echo", stdin=b"x")
        assert done.returncode == 1 and b"another certificate than the other one has met before" in done.stderr
        assert "`posthouse terminal forget pc1`" in two.said


async def test_a_relay_server_that_lies_about_a_certificate_gets_no_byte(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await two.login("--offer", f"echo={await h.service(echo)}")
        await one.login()

        def lie(login: Login, kind: str, body: Body) -> bool:
            if kind != "accept":
                return False
            h.nursery.start_soon(h.relay.ready, body["id"], h.relay.certificate)
            return True

        h.relay.answer = lie
        done = await one.run("connect", "pc2", "echo", stdin=b"secret")
        assert done.returncode == 1 and b"another certificate than was announced" in done.stderr
        assert "in, " not in two.said


# ---- --ask
@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
async def test_ask(tmp_path: Path, answer: str, code: int) -> None:
    async with house(tmp_path) as h:
        one, two = h.terminal("pc1"), h.terminal("pc2")
        await one.login()
        given = ["--relay", h.relay.at, "--name", "pc2", "--fingerprint", h.relay.fingerprint, "--ask"]
        argv = two.argv("login", *given, "--offer", f"echo={await h.service(echo)}")
        child = pexpect.spawn(argv[0], argv[1:], env=two.environment(), timeout=SOON_S, use_poll=True)
        await trio.to_thread.run_sync(child.expect, "pc2 is logged in")
        child.sendline("y")  # nobody has asked yet: it is no answer to what comes
        async with trio.open_nursery() as nursery:

            async def connect() -> None:
                done = await one.run("connect", "pc2", "echo", stdin=b"hello")
                assert (done.returncode, done.stdout) == (code, b"" if code else b"hello")

            asked = r"pc1 calls echo. Accept\? \[y/N\] "
            with trio.move_on_after(SOON_S) as gives_up:
                async with trio.open_nursery() as first:
                    first.start_soon(one.run, "connect", "pc2", "echo")
                    await trio.to_thread.run_sync(child.expect, asked)
                    gives_up.cancel()
            await trio.to_thread.run_sync(child.expect, "\r\nposthouse: pc1 echo: the caller gave up")
            nursery.start_soon(connect)
            await trio.to_thread.run_sync(child.expect, asked)
            child.sendline(answer)
        child.sendintr()
        await trio.to_thread.run_sync(child.expect, pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


async def test_the_password_is_not_shown_at_the_prompt(tmp_path: Path) -> None:
    """Behind the question for the fingerprint, which is read by the same reader."""
    async with house(tmp_path) as h:
        argv = h.terminal("pc1").argv("login", "--relay", h.relay.at, "--name", "pc1")
        environment = {k: v for k, v in h.terminal("pc1").environment().items() if k != "POSTHOUSE_PASSWORD"}
        child = pexpect.spawn(argv[0], argv[1:], env=environment, timeout=SOON_S, use_poll=True)
        for expected, answer in ((r"\[y/N\] ", "yes"), ("Password of pc1, to enrol this terminal: ", PASSWORD)):
            await trio.to_thread.run_sync(child.expect, expected)
            child.sendline(answer)
        await trio.to_thread.run_sync(child.expect, "pc1 is logged in")
        assert PASSWORD.encode() not in child.before
        child.sendintr()
        await trio.to_thread.run_sync(child.expect, pexpect.EOF)
        child.close()


async def test_ask_needs_somebody_to_ask(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        done = await h.terminal("pc1").run("login", "--relay", h.relay.at, "--name", "pc1", "--ask")
        assert done.returncode == 2 and b"--ask" in done.stderr


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
async def test_the_first_contact_is_confirmed_at_a_prompt(tmp_path: Path, answer: str, code: int) -> None:
    async with house(tmp_path) as h:
        argv = h.terminal("pc1").argv("login", "--relay", h.relay.at, "--name", "pc1")
        child = pexpect.spawn(argv[0], argv[1:], env=h.terminal("pc1").environment(), timeout=SOON_S, use_poll=True)
        await trio.to_thread.run_sync(child.expect, h.relay.fingerprint)
        await trio.to_thread.run_sync(child.expect, r"\[y/N\] ")
        assert not h.relay.heard
        child.sendline(answer)
        if not code:
            await trio.to_thread.run_sync(child.expect, "pc1 is logged in")
            child.sendintr()
        await trio.to_thread.run_sync(child.expect, pexpect.EOF)
        child.close()
        assert child.exitstatus == code


@pytest.mark.parametrize("argv", [
    [], ["login", "--relay", "x"], ["login", "--name", "PC1"], ["login", "--offer", "ssh"], ["login", "--enrol", "x"],
    ["connect", "pc1"], ["connect", "pc1", "ssh", "--wait", "1"], ["forward", "x", "pc1", "ssh"], ["forget"], ["fly"],
    ["login", "--fingerprint", "sha256:00"],
    ["login", "--relay", "relay.example:7400", "--enrol", f"posthouse1:relay.example:7400,pc1,sha256:{'0' * 64},word"],
])  # fmt: skip
def test_wrong_usage_ends_with_2(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "terminal", *argv], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 2 and done.stderr


@pytest.mark.parametrize("verb", ["login", "list", "connect", "forward", "forget"])
def test_help(verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "appliance", "terminal", verb, "--help"], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0 and b"--state DIR" in done.stdout
