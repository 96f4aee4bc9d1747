"""The control socket: verbs, refusals, progress, many clients, clients that go away or talk nonsense."""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.control import client as client_module
from appliance.control import server as server_module
from appliance.control.client import NotRunning, Refused, ask
from appliance.control.server import ControlError, Progress, serve_control
from appliance.protocol.control import MAX_REQUEST, SOCKET_NAME

WAIT = 20.0
TOO_LONG = f"that is no request: a line is longer than {MAX_REQUEST} bytes"


class Verbs:
    """A dispatch table; `cancelled` names the verbs that were cancelled."""

    def __init__(self) -> None:
        self.waiting = 0
        self.go = trio.Event()
        self.cancelled: list[str] = []

    def table(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("echo", "no", "wait", "watch", "disk", "flood")}

    async def echo(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        await trio.lowlevel.checkpoint()
        return dict(arguments)

    async def no(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        await trio.lowlevel.checkpoint()
        raise ControlError("policy refuses", 1)

    async def disk(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "broken")

    async def wait(self, arguments: Mapping[str, Any], progress: Progress) -> Any:
        self.waiting += 1
        try:
            await self.go.wait()
        except trio.Cancelled:
            self.cancelled.append("wait")
            raise
        return "done"

    async def watch(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        for i in range(3):
            await progress.show({"n": i})
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.append("watch")

    async def flood(self, arguments: Mapping[str, Any], progress: Progress) -> None:
        try:
            while True:
                await progress.show({"text": "x" * 1000})
        finally:
            self.cancelled.append("flood")


class House:
    def __init__(self, runtime: Path) -> None:
        self.path = runtime / SOCKET_NAME
        self.verbs = Verbs()

    async def ask(self, verb: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Any:
        with trio.fail_after(WAIT):
            return await trio.to_thread.run_sync(lambda: ask(self.path, verb, arguments, **more))

    async def raw(self, data: bytes, *, end: bool = False) -> list[Any]:
        """Sends bytes; -> all that is answered until the server closes."""
        with trio.fail_after(WAIT):
            async with await trio.open_unix_socket(self.path) as stream:
                await stream.send_all(data)
                if end:
                    await stream.send_eof()
                out = b""
                while some := await stream.receive_some():
                    out += some
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        it = House(tmp_path)
        await nursery.start(serve_control, tmp_path, it.verbs.table())
        yield it
        nursery.cancel_scope.cancel()
    assert not it.path.exists()


async def until(condition: Any) -> None:
    with trio.fail_after(WAIT):
        while not condition():
            await trio.sleep(0.005)


async def test_a_verb_and_its_answer(house: House) -> None:
    assert await house.ask("echo", {"id": "ä\n", "n": [1, None]}) == {"id": "ä\n", "n": [1, None]}
    assert await house.ask("echo") == {}


@pytest.mark.parametrize(
    ("verb", "text", "code"),
    [
        ("no", "policy refuses", 1),
        ("disk", "it failed: [Errno 5] broken", 1),
        ("what", "this Posthouse has no verb 'what'", 2),
        ("", "this Posthouse has no verb ''", 2),
        ("__init__", "this Posthouse has no verb '__init__'", 2),
    ],
)
async def test_refusals(house: House, verb: str, text: str, code: int) -> None:
    with pytest.raises(Refused) as raised:
        await house.ask(verb)
    assert (str(raised.value), raised.value.code) == (text, code)


async def test_progress_comes_before_the_answer(house: House) -> None:
    seen: list[Any] = []

    class Enough(Exception):
        pass

    def on_progress(what: dict[str, Any]) -> None:
        seen.append(what)
        if len(seen) == 3:
            raise Enough

    with pytest.raises(Enough):
        await house.ask("watch", on_progress=on_progress)
    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]
    await until(lambda: house.verbs.cancelled == ["watch"])


async def test_several_clients_at_once(house: House) -> None:
    answers: list[Any] = []

    async def client() -> None:
        answers.append(await house.ask("wait"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client)
        await until(lambda: house.verbs.waiting == 20)
        assert await house.ask("echo", {"n": 1}) == {"n": 1}
        house.verbs.go.set()
    assert answers == ["done"] * 20


async def test_a_client_that_goes_away_cancels_its_verb_alone(house: House) -> None:
    stays, goes = await trio.open_unix_socket(house.path), await trio.open_unix_socket(house.path)
    for stream in (stays, goes):
        await stream.send_all(b'{"verb":"wait"}\n')
    await until(lambda: house.verbs.waiting == 2)
    await goes.aclose()
    await until(lambda: house.verbs.cancelled)
    house.verbs.go.set()
    with trio.fail_after(WAIT):
        assert await stays.receive_some() == b'{"result":"done"}\n'
    await stays.aclose()
    assert house.verbs.cancelled == ["wait"]


@pytest.mark.parametrize("verb", ["watch", "flood"])
async def test_a_client_that_goes_away_with_progress_unread(house: House, verb: str) -> None:
    """As `status --watch` ends: the socket is reset then, and that harms nobody else."""
    stream = await trio.open_unix_socket(house.path)
    await stream.send_all(json.dumps({"verb": verb}).encode() + b"\n")
    await until(lambda: _unread(stream) > 0)
    await stream.aclose()
    await until(lambda: house.verbs.cancelled == [verb])
    assert await house.ask("echo") == {}


def _unread(stream: trio.SocketStream) -> int:
    with socket.socket(fileno=os.dup(stream.socket.fileno())) as sock:
        try:
            return len(sock.recv(10, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return 0


async def test_a_client_that_does_not_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SEND_S", 0.1)
    stream = await trio.open_unix_socket(house.path)
    await stream.send_all(b'{"verb":"flood"}\n')
    await until(lambda: house.verbs.cancelled == ["flood"])
    assert await house.ask("echo") == {}
    await stream.aclose()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"hello\n", "that is no request: a line is no JSON"),
        (b"[]\n", "that is no request: a line is no JSON object"),
        (b"\xff\xfe\n", "that is no request: a line is no JSON"),
        (b"[" * 60_000 + b"\n", "that is no request: a line is no JSON"),
        (
            b'{"verb":"echo","x":"' + b"y" * MAX_REQUEST + b'"}\n',
            TOO_LONG,
        ),
        (b"z" * (MAX_REQUEST + 1), TOO_LONG),
        (b"{}\n", "this Posthouse has no verb None"),
        (b'{"verb":["echo"]}\n', "this Posthouse has no verb ['echo']"),
        (b'{"verb":"echo","arguments":[1]}\n', "this Posthouse has no verb 'echo'"),
        (b'{"verb":"\\udc80"}\n', "this Posthouse has no verb '\\udc80'"),
    ],
)
async def test_garbage(house: House, data: bytes, text: str) -> None:
    assert await house.raw(data) == [{"error": text, "code": 2}]
    assert await house.ask("echo") == {}


@pytest.mark.parametrize("data", [b"", b'{"verb":"ec'])
async def test_a_client_that_says_nothing_whole(house: House, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_S", 0.1)
    assert await house.raw(data) == []
    assert await house.raw(data, end=True) == []


async def test_what_comes_behind_a_request_is_no_harm(house: House) -> None:
    assert await house.raw(b'{"verb":"echo","arguments":{"n":1}}\n{"verb":"no"}\nxxx') == [{"result": {"n": 1}}]


async def test_permissions(house: House) -> None:
    found = house.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    try:
        group = grp.getgrnam(server_module.SOCKET_GROUP).gr_gid
    except KeyError:
        group = os.getgid()
    assert found.st_gid in (group, os.getgid())


@pytest.mark.parametrize(("mode", "given"), [(0o750, True), (0o700, True), (0o755, False), (0o1777, False)])
async def test_the_group_may_enter_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, given: bool
) -> None:
    """But a folder that everybody may enter stays whose it is."""
    changed: list[tuple[str, int, int]] = []
    monkeypatch.setattr(server_module.os, "chown", lambda path, uid, gid: changed.append((path.name, uid, gid)))
    monkeypatch.setattr(server_module, "SOCKET_GROUP", grp.getgrgid(0).gr_name)
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(mode)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, runtime, Verbs().table())
        nursery.cancel_scope.cancel()
    assert changed == [("run", -1, 0)] * given + [(SOCKET_NAME, -1, 0)]


async def test_a_dead_ones_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, tmp_path, Verbs().table())
        assert await House(tmp_path).ask("echo") == {}
        nursery.cancel_scope.cancel()


async def test_a_folder_whose_name_is_too_long_for_a_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("n" * 100)
    deep.mkdir()
    with pytest.raises(OSError, match=r"nnn/.*longer than the 107 bytes"):
        await serve_control(deep, {})


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await serve_control(tmp_path / "none", {})


async def test_no_more_files(house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real, failures = trio.SocketListener.accept, iter([errno.EMFILE, errno.ENFILE, errno.ENOMEM])

    async def accept(self: trio.SocketListener) -> trio.SocketStream:
        for code in failures:
            await trio.lowlevel.checkpoint()
            raise OSError(code, "no more")
        return await real(self)

    monkeypatch.setattr(trio.SocketListener, "accept", accept)
    for _ in range(3):
        assert await house.ask("echo") == {}
    assert sum("could not accept" in m for m in caplog.messages) == 3


# ---- the client's side
def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match=r"no running Posthouse answers at .*No such file"):
        ask(tmp_path / SOCKET_NAME, "status")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(NotRunning, match="no running Posthouse answers"):
        ask(tmp_path / SOCKET_NAME, "status")


@pytest.mark.parametrize("answer", [b"", b'{"progress":{}}\n', b'{"resu', b"nonsense\n", b"[]\n"])
async def test_one_that_stops_or_talks_nonsense(answer: bytes, tmp_path: Path) -> None:
    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket(socket.AF_UNIX) as sock:
            await sock.bind(str(tmp_path / SOCKET_NAME))
            sock.listen()
            task_status.started()
            stream = trio.SocketStream((await sock.accept())[0])
            await stream.receive_some()
            await stream.send_all(answer)
            await stream.aclose()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        with pytest.raises(NotRunning):
            await House(tmp_path).ask("status")


async def test_one_that_does_not_answer_the_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "CONNECT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as first:
        deaf.bind(str(tmp_path / SOCKET_NAME))
        deaf.listen(0)
        first.connect(str(tmp_path / SOCKET_NAME))
        with pytest.raises(NotRunning):
            await House(tmp_path).ask("status")
