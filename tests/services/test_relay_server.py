"""The relay server over real sockets: logins, enrolment, the table, connection requests, circuits, ends."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.config.model import RelayDevice, RelayPeer
from appliance.relay import terminals
from appliance.relay.enrolment import CheckBusy, Enrolment, Guesses, SlowDown
from appliance.relay.records import Records
from appliance.storage.disk import Disk
from appliance.transport import circuit
from fakes.committer import InlineCommitter
from fakes.relay_client import Client, join
from fakes.relay_house import KEYS, PASSWORD, House, house


async def test_a_login_is_enrolled_by_its_password_and_then_by_its_certificate(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        client = await h.dial("pc11")
        assert await client.log_in(KEYS["pc11"], 7, services=["ssh"]) == (
            "error", {"code": "enrol", "text": "this certificate is not enrolled for this name"},
        )  # fmt: skip
        frame = await client.log_in(KEYS["pc11"], 7, services=["ssh"], password=PASSWORD)
        assert frame == ("welcome", {"relay": "here", "keepalive": 30})
        row = h.server.directory.row("pc11")
        assert row is not None
        assert (row["presence"], row["services"], row["relay"], row["path"]) == ("online", ["ssh"], "here", ["here"])
        await client.send("bye", reason="logout")
        assert await client.receive() is None
        assert h.presence("pc11") == "offline"
        again = await h.dial("pc11")
        assert (await again.log_in(KEYS["pc11"], 8))[0] == "welcome"  # type: ignore[index]
        await again.close()
        await h.until("pc11", "lost")


async def test_a_terminal_that_is_silent_is_asked_and_then_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminals, "LISTEN_EVERY_S", 0.05)
    async with house(tmp_path) as h:
        answers, silent = await h.login("pc11"), await h.login("pc12")
        monkeypatch.setattr(terminals, "KEEPALIVE_S", 1.0)

        async def answer() -> None:
            while True:
                await answers.until("ping")
                await answers.send("pong")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await silent.until("ping")
            assert await silent.receive() is None, "and only once"
            await h.until("pc12", "lost")
            assert h.presence("pc11") == "online"
            nursery.cancel_scope.cancel()


async def test_an_enrolment_outlives_the_process(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.login("pc11")
    async with house(tmp_path) as h:
        client = await h.dial("pc11")
        frame = await client.log_in(KEYS["pc11"], 1001)  # and so does the counter
        assert frame is not None and frame[1]["counter"] == 1001
        frame = await client.log_in(KEYS["pc11"], 1002)
        assert frame is not None and frame[0] == "welcome"


@pytest.mark.parametrize(("what", "answer"), [
    ("proof", "bad-login"), ("name", "bad-login"), ("password", "bad-login"), ("another certificate", "bad-login"),
    ("no certificate", "bad-login"),
])  # fmt: skip
async def test_a_bad_login_never_says_which_part_is_wrong(tmp_path: Path, what: str, answer: str) -> None:
    async with house(tmp_path) as h:
        await h.login("pc11")
        name = "nobody" if what == "name" else "pc11"
        client = await h.dial(name)
        key, other = KEYS["pc11"], {}
        if what == "proof":
            other = {"proof": bytes(70)}
        elif what == "no certificate":
            other = {"certificate": b"0" * 300}
        elif what in ("password", "another certificate"):
            key = KEYS["other"]
        if what in ("name", "password", "another certificate"):
            frame = await client.log_in(key, 2000)
            assert frame is not None and frame[1]["code"] == "enrol"
        password = "wrong" if what == "password" else PASSWORD
        await client.send_login(key, 2000, password=password, **other)
        assert await client.receive() == ("error", {"code": answer, "text": "wrong name, certificate or password"})
        assert await client.receive() is None
        assert h.presence("pc11") == "online"


async def test_a_counter_that_is_behind_is_told_the_known_one(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.login("pc11")
        client = await h.dial("pc11")
        frame = await client.log_in(KEYS["pc11"], 5)
        assert frame == ("error", {"code": "counter", "text": "the counter must grow", "counter": 1001})
        assert (await client.log_in(KEYS["pc11"], 1002))[0] == "welcome"  # type: ignore[index]


async def test_a_connection_has_three_logins(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        client = await h.dial("pc11")
        for _ in range(3):
            assert (await client.log_in(KEYS["pc11"], 5))[1]["code"] == "enrol"  # type: ignore[index]
        assert (await client.log_in(KEYS["pc11"], 5))[1]["code"] == "limit"  # type: ignore[index]


async def test_a_ghost_is_replaced_and_told(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        old = await h.login("pc11")
        await h.login("pc11")
        assert await old.receive() == ("bye", {"reason": "replaced"})
        assert await old.receive() is None
        assert h.presence("pc11") == "online"


async def test_refuse_lets_no_other_certificate_in(tmp_path: Path) -> None:
    async with house(tmp_path, duplicate_login="refuse") as h:
        await h.login("pc11")
        one_time = await h.server.enrolment.begin_anew("pc11")
        client = await h.dial("pc11")
        await client.log_in(KEYS["other"], 5000)
        frame = await client.log_in(KEYS["other"], 5000, password=one_time)
        assert frame is not None and frame[1]["code"] == "duplicate"


async def test_refuse_replaces_a_ghost_and_looks_at_the_others_tables(tmp_path: Path) -> None:
    peers = (RelayPeer(name="peer1", secret="s", connect="never"),)
    async with house(tmp_path, duplicate_login="refuse", peers=peers) as h:
        ghost = await h.login("pc11")
        await h.login("pc11")  # the same certificate
        assert await ghost.receive() == ("bye", {"reason": "replaced"})
        peer = await h.link("peer1")
        await peer.begin()
        theirs = ["pc12", 1, 5, 0, 0, [], KEYS["other"].fingerprint]
        await peer.update("peer1", theirs)
        await h.until("pc12", "online")
        client = await h.dial("pc12")
        await client.log_in(KEYS["pc12"], 1000)
        frame = await client.log_in(KEYS["pc12"], 1000, password=PASSWORD)
        assert frame is not None and frame[1]["code"] == "duplicate"
        await peer.update("peer1", ["pc12", 2, 5, 1, 0, [], KEYS["other"].fingerprint], base=1)
        await h.until("pc12", "lost")
        client = await h.dial("pc12")
        frame = await client.log_in(KEYS["pc12"], 1001)
        assert frame is not None and frame[0] == "welcome"


async def test_wrong_passwords_wait_longer_each_time_up_to_a_minute(mock_clock: MockClock) -> None:
    guesses = Guesses()
    waits = []
    for _ in range(12):
        guesses.may_try("pc11", "192.0.2.1")
        guesses.failed("pc11", "192.0.2.1")
        seconds = 0.0
        try:
            guesses.may_try("pc11", "192.0.2.1")
        except SlowDown as error:
            seconds = error.seconds
        guesses.may_try("pc11", "192.0.2.2")
        guesses.may_try("pc12", "192.0.2.1")
        waits.append(seconds)
        mock_clock.jump(seconds)
    assert waits == [0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


async def test_one_password_is_checked_at_a_time_and_so_many_wait(tmp_path: Path) -> None:
    checking, most, goes_on = 0, 0, threading.Event()

    def verify(password: str, stored: str) -> bool:
        nonlocal checking, most
        checking += 1
        most = max(most, checking)
        assert goes_on.wait(60)
        checking -= 1
        return False

    committer: Any = InlineCommitter(Disk(), tmp_path)
    enrolment = Enrolment(Records(Disk(), committer, tmp_path / "enrolled"), verify)
    refused: list[int] = []

    async def log_in(n: int) -> None:
        try:
            assert not await enrolment.enrol("pc11", bytes(32), "x", f"192.0.2.{n}")
        except CheckBusy:
            refused.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(70):
            nursery.start_soon(log_in, n)
        while len(refused) < 70 - 64:
            await trio.sleep(0.005)
        goes_on.set()
    assert (most, len(refused)) == (1, 6)


async def test_three_wrong_passwords_slow_down_that_pair_alone(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        for _ in range(3):
            client = await h.dial("pc11")
            await client.log_in(KEYS["pc11"], 5)
            assert (await client.log_in(KEYS["pc11"], 5, password="x"))[1]["code"] == "bad-login"  # type: ignore[index]
        client = await h.dial("pc11")
        await client.log_in(KEYS["pc11"], 5)
        assert (await client.log_in(KEYS["pc11"], 5, password=PASSWORD))[1]["code"] == "slow-down"  # type: ignore[index]
        await h.login("pc12")
        client = await h.dial("pc11", host="127.0.0.2")
        await client.log_in(KEYS["pc11"], 5)
        assert (await client.log_in(KEYS["pc11"], 5, password=PASSWORD))[0] == "welcome"  # type: ignore[index]


async def test_enrol_forgets_the_certificate_and_gives_a_password_for_once(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        old = await h.login("pc11")
        one_time = await h.server.enrol("pc11")
        assert await old.receive() == ("bye", {"reason": "replaced"})
        new = await h.dial("pc11")
        assert (await new.log_in(KEYS["other"], 3000))[1]["code"] == "enrol"  # type: ignore[index]
        assert (await new.log_in(KEYS["other"], 3000, password=one_time))[0] == "welcome"  # type: ignore[index]
        late = await h.dial("pc11")
        assert (await late.log_in(KEYS["pc11"], 3001))[1]["code"] == "enrol"  # type: ignore[index]
        assert (await late.log_in(KEYS["pc11"], 3001, password=one_time))[1]["code"] == "bad-login"  # type: ignore[index]


async def test_the_table_and_its_changes(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        watcher = await h.login("pc11")
        await watcher.send("list", watch=True)
        assert [e["name"] for e in (await watcher.expect("table"))["entries"]] == ["pc11"]
        other = await h.login("pc12", services=("ssh",))
        change = await watcher.expect("table")
        assert change["entries"][0]["presence"] == "online"
        await other.close()
        assert (await watcher.expect("table"))["entries"][0]["presence"] == "lost"


async def connected(h: House) -> tuple[Client, Client, trio.SocketStream, trio.SocketStream]:
    caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
    id = os.urandom(16)
    await caller.send("connect", id=id, to="pc12", service="ssh", wait=0)
    invite = await callee.expect("invite")
    assert invite == {
        "id": id, "from": "pc11", "to": "pc12", "service": "ssh", "certificate": KEYS["pc11"].der, "path": ["here"],
        "wait": 0,
    }  # fmt: skip
    await callee.send("accept", id=id, certificate=KEYS["pc12"].der)
    ready, ready2 = await caller.expect("ready"), await callee.expect("ready")
    assert ready["certificate"] == KEYS["pc12"].der and ready2["certificate"] == KEYS["pc11"].der
    near = await join(h.port, "pc11", ready["ticket"], b"early")
    far = await join(h.port, "pc12", ready2["ticket"])
    assert await far.receive_some() == b"early"
    return caller, callee, near, far


async def test_a_circuit_from_request_to_end(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        caller, _, near, far = await connected(h)
        async with near, far:
            await caller.close()  # circuits outlive the connections that made them
            await far.send_all(b"back")
            assert await near.receive_some() == b"back"
            await near.send_eof()
            assert await far.receive_some() == b""
        while h.server.circuits:
            await trio.sleep(0.01)
        assert h.server._of_terminal == {}
        assert len(h.server.tickets) == 0


async def test_a_ticket_is_good_once_and_for_its_owner(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        caller, callee = await h.login("pc11"), await h.login("pc12", services=("ssh",))
        await caller.send("connect", id=bytes(16), to="pc12", service="ssh")
        await callee.expect("invite")
        await callee.send("accept", id=bytes(16), certificate=KEYS["pc12"].der)
        ticket = (await caller.expect("ready"))["ticket"]
        with pytest.raises(AssertionError):
            await join(h.port, "pc12", ticket)
        async with await join(h.port, "pc11", ticket):
            with pytest.raises(AssertionError):
                await join(h.port, "pc11", ticket)


async def test_stopping_says_bye(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        client = await h.login("pc11")
        await h.server.drain()
        assert await client.receive() == ("bye", {"reason": "stopping"})


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        while data := await stream.receive_some():
            await stream.send_all(data)


async def test_a_device_is_logged_in_while_it_answers_and_called_like_a_terminal(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        port = listeners[0].socket.getsockname()[1]
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # bound, not listening: refuses
            there = RelayDevice(name="plc1", services=(("echo", f"127.0.0.1:{port}"),))
            gone = RelayDevice(name="plc2", services=(("echo", f"127.0.0.1:{nobody.getsockname()[1]}"),))
            async with house(tmp_path, device=(there, gone)) as h:
                await h.until("plc1", "online")
                await h.until("plc2", "offline")
                caller = await h.login("pc11")
                await caller.send("connect", id=bytes(16), to="plc1", service="echo")
                ready = await caller.expect("ready")
                sock = (await join(h.port, "pc11", ready["ticket"])).socket
                sealed = await circuit.seal(sock, KEYS["pc11"].file(), ready["certificate"], caller=True)
                await circuit.wait_go(sock, sealed)
                with socket.create_server(("127.0.0.1", 0)) as server:
                    far = socket.create_connection(server.getsockname())
                    near, _ = server.accept()
                local = circuit.LocalSocket(trio.socket.from_stdlib_socket(far))
                nursery.start_soon(circuit.carry, sock, sealed, local, circuit.Carried())
                mine = trio.socket.from_stdlib_socket(near)
                await mine.send(b"question")
                assert await mine.recv(100) == b"question"
                mine.shutdown(socket.SHUT_WR)
                assert await mine.recv(100) == b""
                mine.close()
                await caller.send("connect", id=bytes([1] * 16), to="plc2", service="echo")
                refused = await caller.expect("unavailable")
                assert (refused["reason"], refused["presence"]) == ("offline", "offline")
                assert refused["text"] == "its echo does not answer" and refused["age"] >= 0
                while h.server.circuits:
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
