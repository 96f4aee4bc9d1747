"""The command line: exit codes to the letter (DESIGN §6), what it prints and where. Most of it in this process, over a
stub of the control socket; what only a process shows, as a process.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance import __version__
from appliance.call import Outcome
from appliance.cli import main
from appliance.config.passwords import verify_password
from appliance.control import views
from appliance.protocol.control import SOCKET_NAME
from fakes.config import LINE, SITE

ROOT = Path(__file__).resolve().parent.parent.parent
VERBS = ["run", "check", "demo", "status", "dial", "hangup", "queue", "calls", "passwd"]
MESSAGE = {
    "id": "19b8", "sender": "hanako@harbour.example", "size": 4500, "received": "2026-01-05T12:00:00.000Z",
    "priority": "normal", "state": "queued", "attempts": 2,
    "recipients": [
        {"address": "boss@far.example", "state": "queued", "reply": "451 later\x1b[2J"},
        {"address": "b@far.example", "state": "delivered", "reply": "250 ok"},
        {"address": "c\u202e@far.example", "state": "in-doubt", "reply": ""},
    ],
}  # fmt: skip
CALL = {
    "id": 7, "line": "pstn", "reason": "urgent", "number": "0570000111", "dials": 2, "outcome": "complete",
    "started": "2026-01-05T12:00:00.000Z", "connected": "2026-01-05T12:00:20.000Z", "ended": "2026-01-05T12:03:20.000Z",
    "duration_s": 180, "rate": 33600, "bytes_in": 12_000_000, "bytes_out": 900, "sent": 3, "fetched": 4, "failed": 0,
    "circuits": 0, "units": None, "cost": None, "currency": None,
}  # fmt: skip
STATUS = {
    "site": "harbour", "version": "0.1.0", "fingerprint": None, "uptime_s": 90_000, "clock_trusted": False,
    "line": {
        "name": "pstn", "state": "exchanging", "reason": "urgent", "number": "0570000111",
        "since": "2026-01-05T12:00:20.000Z", "next_call": None, "next_call_reason": "a call is under way",
    },
    "queue": {"messages": 3, "bytes": 4500, "oldest_s": 100, "in_doubt": 1, "held": 0, "bulk": 0},
    "users": 2, "terminals": {"local": 0, "remote": 0}, "peers": {"up": 0, "suspended": 0, "lost": 0, "never": 0},
    "services": {"smtp": "running", "caller": "restarting"}, "listeners": {"smtp": ["192.168.77.1:25"], "relay": []},
}  # fmt: skip


class Stub:
    """Answers on a control socket: `answers` by verb, each an object or a list of them; keeps what it was asked."""

    def __init__(self, runtime: Path) -> None:
        runtime.mkdir()
        self.asked: list[dict[str, Any]] = []
        self.answers: dict[str, Any] = {}
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(runtime / SOCKET_NAME))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:
                return
            with connection:
                request = json.loads(connection.makefile().readline())
                self.asked.append(request)
                answer = self.answers.get(request["verb"], {"result": None})
                for one in answer if isinstance(answer, list) else [answer]:
                    connection.sendall(json.dumps(one).encode() + b"\n")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "posthouse.toml"
    path.write_text(SITE + 'state = "state"\nruntime = "run"\n' + LINE)
    return path


@pytest.fixture
def stub(file: Path) -> Iterator[Stub]:
    it = Stub(file.parent / "run")
    yield it
    it.close()


@pytest.fixture
def cli(file: Path) -> Callable[..., int]:
    """Runs a command in this process; -> its exit code."""

    def run(*arguments: str) -> int:
        try:
            return main(["--config", str(file), *arguments])
        except SystemExit as end:
            return int(end.code or 0)

    return run


def child(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        [sys.executable, "-m", "appliance", *arguments], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
        **more,
    )  # fmt: skip


# ---- usage
@pytest.mark.parametrize(
    "arguments",
    [
        [], ["nonsense"], ["status", "extra"], ["queue", "eat", "19b8"], ["queue", "show"], ["queue", "hold"],
        ["--nonsense", "status"], ["status", "--config"], ["dial", "--wait"],
        ["dial", "--no-wait", "--watch"], ["report", "--json", "--csv"], ["report", "--json", "--html", "r.html"],
        ["report", "--csv", "--html", "r.html"],
    ],
)  # fmt: skip
def test_wrong_usage(cli: Callable[..., int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(("usage: posthouse", "posthouse: queue"))


@pytest.mark.parametrize("verb", VERBS)
def test_help(cli: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(verb, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: posthouse ")
    assert "--config FILE" in text
    description = text.split("\n\n")[1]
    assert len(description.split()) > 3
    assert description.endswith(".")


def test_help_of_all(cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--help") == 0
    text = capsys.readouterr().out
    for verb in VERBS:
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [verb]]
        assert len(line.split()) > 3, f"{verb} is not explained"
    assert "Exit codes: 0" in text


def test_version(cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--version") == 0
    assert capsys.readouterr().out == f"posthouse {__version__}\n"


def test_config_before_and_after_the_verb(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("x = 1\n")
    assert main(["--config", str(file), "check"]) == 0
    assert main(["check", "--config", str(file)]) == 0
    assert main(["--config", str(bad), "check"]) == 2
    assert main(["check", "--config", str(bad)]) == 2
    assert main(["--config", str(bad), "check", "--config", str(file)]) == 0
    capsys.readouterr()


# ---- check and run
def test_check_prints_every_error(file: Path, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text() + "[schedule]\nmin_gap = 7\nnonsense = true\n")
    assert cli("check") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{file}:") for line in lines)


ASKING = ["status", "dial", "hangup", "queue", "calls"]


@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_bad_configuration(
    file: Path, cli: Callable[..., int], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("[site]\n")
    assert cli(verb) == 2
    assert "site.name: is missing" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "check", *ASKING])
@pytest.mark.parametrize(
    ("text", "said"),
    [(None, "toml: can't be read: No such file"), ("[site\n", ":1: toml: expected ']'"),
     ("[site]\nname = 'a'\nruntime = 7\n", ":3: site.runtime: is an integer; expected a folder"),
     ("[site]\nname = 'a'\nruntime = ''\n", ":3: site.runtime: is empty; expected a folder")],
)  # fmt: skip
def test_a_file_that_does_not_say_where_to_ask(
    file: Path, cli: Callable[..., int], verb: str, text: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    assert cli(verb) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    "wrong", ["nonsense = 1\n", "[[line]]\n", "[mail]\nsmtp = 25\n", '[[user]]\nname = "a"\nname2 = 7\n']
)
def test_a_mistake_elsewhere_is_no_reason_not_to_ask(
    stub: Stub, file: Path, cli: Callable[..., int], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(SITE + 'runtime = "run"\ntimezone = "Nowhere/Atall"\n' + wrong)
    (file.parent / "secrets.toml").mkdir()  # can't be read
    for verb, result in {"status": STATUS, "dial": CALL, "hangup": None, "queue": [MESSAGE], "calls": [CALL]}.items():
        stub.answers[verb] = {"result": result}
        assert cli(verb) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("zone", "at"), [("", "12:00:20"), ('timezone = "Asia/Tokyo"', "21:00:20"), ("timezone = 9", "12:00:20")]
)
def test_times_are_those_of_the_site(
    stub: Stub,
    file: Path,
    cli: Callable[..., int],
    zone: str,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        file.write_text(f'[site]\nruntime = "run"\n{zone}\n')
        stub.answers["status"] = {"result": STATUS}
        cli("status")
        assert f"since 2026-01-05 {at}\n" in capsys.readouterr().out
    finally:
        monkeypatch.undo()
        time.tzset()


# ---- the verbs of the control socket
@pytest.mark.parametrize(
    "arguments", [["status"], ["status", "--watch"], ["dial"], ["hangup"], ["queue"], ["queue", "show", "x"], ["calls"]]
)
def test_nobody_is_running(cli: Callable[..., int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(*arguments) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("posthouse: no running Posthouse answers at ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("name", ["PC11", "", "a b", "x" * 64, "pc_1", "\x1b[2J", "hanako@harbour"])
@pytest.mark.parametrize("verb", ["why", "enrol", "terminal forget"])
def test_a_name_that_is_none_is_wrong_usage(
    stub: Stub, cli: Callable[..., int], verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["why"] = stub.answers["enrol"] = {"result": "it was asked"}
    if verb == "terminal forget":  # has a parser of its own
        with pytest.raises(SystemExit) as end:
            main([*verb.split(), name])
        assert end.value.code == 2
    else:
        assert cli(verb, name) == 2
    assert f"{name!r} is no name: a name is 1 to 63 of a-z 0-9 - ." in capsys.readouterr().err
    assert not stub.asked


@pytest.mark.parametrize("code", [1, 2])
def test_a_refusal(stub: Stub, cli: Callable[..., int], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["dial"] = {"error": "policy refuses", "code": code}
    assert cli("dial") == code
    assert capsys.readouterr() == ("", "posthouse: policy refuses\n")


@pytest.mark.parametrize(
    ("arguments", "request_", "result"),
    [
        (["status"], {"verb": "status", "arguments": {}}, STATUS),
        (["hangup"], {"verb": "hangup", "arguments": {}}, None),
        (["queue"], {"verb": "queue", "arguments": {}}, [MESSAGE]),
        (["queue", "show", "19b8"], {"verb": "queue-show", "arguments": {"id": "19b8"}}, MESSAGE),
        (["queue", "hold", "19b8"], {"verb": "queue-hold", "arguments": {"id": "19b8"}}, None),
        (["queue", "release", "19b8"], {"verb": "queue-release", "arguments": {"id": "19b8"}}, None),
        (["queue", "remove", "19b8"], {"verb": "queue-remove", "arguments": {"id": "19b8"}}, None),
        (["calls"], {"verb": "calls", "arguments": {}}, [CALL]),
        (["dial"], {"verb": "dial", "arguments": {"force": False, "wait": True}}, CALL),
        (["dial", "--force"], {"verb": "dial", "arguments": {"force": True, "wait": True}}, CALL),
        (["dial", "--no-wait"], {"verb": "dial", "arguments": {"force": False, "wait": False}}, None),
    ],
)
def test_what_is_asked(
    stub: Stub, cli: Callable[..., int], arguments: list[str], request_: dict[str, Any], result: Any
) -> None:
    stub.answers[request_["verb"]] = {"result": result}
    assert cli(*arguments) == 0
    assert stub.asked == [request_]


@pytest.mark.parametrize(
    ("arguments", "verb", "result"),
    [
        (["status"], "status", STATUS),
        (["queue"], "queue", [MESSAGE]),
        (["queue"], "queue", []),
        (["queue", "show", "19b8"], "queue-show", MESSAGE),
        (["calls"], "calls", [CALL]),
        (["calls"], "calls", []),
        (["dial"], "dial", CALL),
        (["why", "pc11"], "why", "a call of pc11 would be rung here"),
        (["enrol", "pc11"], "enrol", "posthouse1:127.0.0.1:7400,pc11,sha256:00,x"),
    ],
)
def test_json(
    stub: Stub,
    cli: Callable[..., int],
    arguments: list[str],
    verb: str,
    result: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub.answers[verb] = {"result": result}
    assert cli(*arguments, "--json") == 0
    assert json.loads(capsys.readouterr().out) == result


@pytest.mark.parametrize(("outcome", "code"), [("complete", 0), ("partial", 0), ("busy", 1), ("hung-up", 1)])
@pytest.mark.parametrize("as_json", [False, True])
def test_dial_tells_the_outcome(
    stub: Stub, cli: Callable[..., int], outcome: str, code: int, as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["dial"] = {"result": {**CALL, "outcome": outcome}}
    assert cli("dial", *["--json"] * as_json) == code
    out, err = capsys.readouterr()
    assert err.count("\n") == code
    if code:
        assert err.startswith("posthouse: call 7 to 0570000111 failed: ")
        assert err.endswith("; dialled 2 times\n")
    assert (json.loads(out)["outcome"] if as_json else out) == (outcome if as_json else f"{outcome}\n")


def test_the_queue_for_a_person(stub: Stub, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["queue"] = {"result": [MESSAGE]}
    cli("queue")
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "STATE", "SIZE", "RECEIVED", "TRIES", "FROM", "TO"]
    assert row.split()[:3] == ["19b8", "queued", "4.4K"]
    assert row.endswith("<hanako@harbour.example>  <boss@far.example> +1")
    stub.answers["queue-show"] = {"result": MESSAGE}
    cli("queue", "show", "19b8")
    text = capsys.readouterr().out
    assert "to        <boss@far.example> queued: 451 later\ufffd[2J\n" in text
    assert "<c\ufffd@far.example> in-doubt" in text
    stub.answers["queue"] = {"result": []}
    cli("queue")
    assert capsys.readouterr().out == "the queue is empty\n"


def test_the_calls_for_a_person(stub: Stub, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    under_way = {
        **CALL,
        "id": 8,
        "outcome": None,
        "connected": None,
        "ended": None,
        "duration_s": 0,
        "rate": 0,
        "sent": 0,
    }
    stub.answers["calls"] = {"result": [CALL, {**under_way, "fetched": 0}]}
    cli("calls")
    _, first, second, saved = capsys.readouterr().out.splitlines()
    assert first.split()[0] == "7"
    assert {"pstn", "urgent", "complete", "33600", "900", "11M"} <= set(first.split())
    assert "under way" in second
    assert saved == "1 call carried 7 messages; with a call for each message that is 6 calls saved"


def test_the_status_for_a_person(stub: Stub, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    stub.answers["status"] = {"result": STATUS}
    cli("status")
    text = capsys.readouterr().out
    assert "harbour: Posthouse 0.1.0, up 25 h 0 min; the clock is NOT trusted\n" in text
    assert "pstn: exchanging 0570000111 (urgent) since " in text
    assert "3 messages, 4.4K, the oldest for 100 s (1 in doubt)\n" in text
    assert "2 users; smtp 192.168.77.1:25\n" in text
    assert "services  caller restarting\n" in text
    assert "update" not in text


def test_the_status_tells_of_an_update_that_was_taken_back(
    stub: Stub, cli: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stub.answers["status"] = {"result": {**STATUS, "update": "the last update did not get healthy\x1b"}}
    cli("status")
    assert "update    the last update did not get healthy\ufffd\n" in capsys.readouterr().out


@pytest.mark.parametrize("as_json", [False, True])
def test_watching(stub: Stub, cli: Callable[..., int], as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{**STATUS["line"], "text": "dialling\x1b"}, {**STATUS["line"], "text": "connected"}]
    stub.answers["watch"] = [{"progress": line} for line in lines]  # and then Posthouse stops
    assert cli("status", "--watch", *["--json"] * as_json) == 3
    printed = capsys.readouterr()
    out = printed.out.splitlines()
    assert printed.err == "posthouse: Posthouse stopped before it had answered\n"
    if as_json:
        assert [json.loads(line) for line in out] == lines
    else:
        assert [line.split(maxsplit=1)[1] for line in out] == ["exchanging   dialling\ufffd", "exchanging   connected"]


@pytest.mark.parametrize("ident", ["\udcff\udcfe", "x" * 70_000, "ä\n"])
def test_odd_ids(stub: Stub, cli: Callable[..., int], ident: str) -> None:
    stub.answers["queue-show"] = {"error": "no message is called so", "code": 1}
    assert cli("queue", "show", ident) == 1


# ---- passwd
@pytest.mark.parametrize("password", ["correct horse", "пароль", "x" * 511])
@pytest.mark.parametrize("where", ["environment", "input"])
def test_passwd(
    password: str,
    where: str,
    cli: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if where == "environment":
        monkeypatch.setenv("POSTHOUSE_PASSWORD", password)
        monkeypatch.setattr(sys, "stdin", io.StringIO("another\n"))
    else:
        monkeypatch.delenv("POSTHOUSE_PASSWORD", raising=False)
        monkeypatch.setattr(sys, "stdin", io.StringIO(password + "\r\nmore\n"))
    assert cli("passwd") == 0
    printed = capsys.readouterr()
    assert verify_password(password, printed.out.removesuffix("\n"))
    assert printed.err == ""


@pytest.mark.parametrize("password", ["", "x" * 512, "\udcff"])
def test_passwd_refuses(
    password: str, cli: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("environment", None), ("input", password + "\n")):
        if name == "environment":
            monkeypatch.setenv("POSTHOUSE_PASSWORD", password)
        else:
            monkeypatch.delenv("POSTHOUSE_PASSWORD")
            monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert cli("passwd") == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("posthouse: ")
        assert printed.err.count("\n") == 1
        assert not password or password not in printed.err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "code"), [(["pw", "pw"], 0), (["pw", "pv"], 1), (["", ""], 1), ([EOFError], 1)])
def test_passwd_at_a_terminal(
    typed: list[Any],
    code: int,
    cli: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def getpass(prompt: str) -> str:
        answer = typed.pop(0)
        if not isinstance(answer, str):
            raise answer
        return answer

    monkeypatch.delenv("POSTHOUSE_PASSWORD", raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", getpass)
    assert cli("passwd") == code
    assert capsys.readouterr().out.startswith("$7$" if code == 0 else "")


# ---- as a process
def test_exit_codes_of_the_process(file: Path) -> None:
    assert child("check", "--config", str(file)).returncode == 0
    assert child("nonsense").returncode == 2
    gone = child("status", "--config", str(file))
    assert gone.returncode == 3
    assert "Traceback" not in gone.stderr


@pytest.mark.parametrize(("count", "reader", "first"), [(5000, "head -1", ["ID"]), (5, "true", [])])
def test_a_reader_that_goes_away(stub: Stub, file: Path, count: int, reader: str, first: list[str]) -> None:
    """`posthouse calls | head -1`."""
    stub.answers["calls"] = {"result": [CALL] * count}
    command = f"{shlex.quote(sys.executable)} -m appliance calls --config {shlex.quote(str(file))} | {reader}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.stdout.split()[:1] == first
    assert done.stderr == ""


@pytest.mark.parametrize("count", [1, 5000])
@pytest.mark.parametrize("verb", [["calls"], ["status", "--watch"], ["passwd"]])
def test_an_output_that_takes_nothing(stub: Stub, file: Path, count: int, verb: list[str]) -> None:
    stub.answers["calls"] = {"result": [CALL] * count}
    stub.answers["watch"] = [{"progress": {**STATUS["line"], "text": "dialling"}}]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *verb, "--config", str(file)], stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, cwd=ROOT, check=False, input="correct horse\n",
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "posthouse: the output could not be written: No space left on device\n"


def test_a_password_that_is_no_text() -> None:
    for encoding in ("utf-8", "ascii"):
        done = subprocess.run(
            [sys.executable, "-m", "appliance", "passwd"], input=b"\xff\xfe\n", capture_output=True, timeout=60, cwd=ROOT,
            check=False, env={k: v for k, v in os.environ.items() if k != "POSTHOUSE_PASSWORD"}
            | {"PYTHONIOENCODING": encoding},
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr == b"posthouse: the password is no UTF-8\n"


def test_a_surrounding_that_knows_ascii_alone(stub: Stub, file: Path) -> None:
    stub.answers["queue"] = {"result": [{**MESSAGE, "sender": "花子@harbour.example"}]}
    for verb in (["queue"], ["queue", "--json"]):
        env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
        done = child(*verb, "--config", str(file), env=env)
        assert (done.returncode, done.stderr) == (0, "")


def test_status_loads_no_room() -> None:
    code = (
        "import sys, appliance.cli; appliance.cli.parser(['status']); "
        "print([m for m in sys.modules if m.startswith('appliance') or m in ('trio', 'cryptography', 'serial', 'ssl')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "['appliance', 'appliance.arguments', 'appliance.cli']"


def test_an_interrupt(file: Path, cli: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("appliance.config.load.load", interrupted)
    monkeypatch.setattr("appliance.control.client.ask", interrupted)
    assert cli("status") == 130
    assert cli("status", "--watch") == 0  # the way to end it
    assert cli("check") == 130  # as a shell counts it: 128 and SIGINT


def test_the_first_line_of_watching_has_the_time_of_the_site() -> None:
    planned = "2026-01-05T12:00:00.000Z"
    what = {**STATUS["line"], "next_call": planned, "text": f"next call {planned}: at 21:00"}
    assert views.progress(what, ZoneInfo("Asia/Tokyo")).endswith(" next call 2026-01-05 21:00:00: at 21:00")


@pytest.mark.parametrize("outcome", [o for o in Outcome if o not in (Outcome.COMPLETE, Outcome.PARTIAL)])
def test_why_a_call_failed(outcome: Outcome) -> None:
    text = views.why({**CALL, "outcome": outcome.value, "number": "", "dials": 1})
    assert text.startswith("call 7 failed: ") and text.endswith("; dialled once")
    assert text.removeprefix("call 7 failed: ").partition(";")[0] != outcome.value


REPORT = {
    "site": "harbour", "since": "2026-01-05", "until": "2026-01-05", "users": [], "months": [],
    "days": [{"day": "2026-01-05", "currency": "JPY", "calls": 1, "seconds": 60.0, "bytes_in": 1, "bytes_out": 2,
              "cost": "10", "sent": 1, "fetched": 2, "each_calls": 3, "each_cost": "30"}],
    "total": [{"all": "", "currency": "JPY", "calls": 1, "seconds": 60.0, "bytes_in": 1, "bytes_out": 2,
               "cost": "10", "sent": 1, "fetched": 2, "each_calls": 3, "each_cost": "30"}],
}  # fmt: skip


def test_report(stub: Stub, cli: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stub.answers["report"] = {"result": REPORT}
    assert cli("report") == 0
    assert "1 call carried 3 messages for 10 JPY" in capsys.readouterr().out
    assert cli("report", "--json") == 0
    assert json.loads(capsys.readouterr().out) == REPORT
    assert cli("report", "--csv") == 0
    assert capsys.readouterr().out.splitlines()[1] == "day,2026-01-05,JPY,1,60.0,1,2,10,1,2,3,30"
    page = tmp_path / "report.html"
    assert cli("report", "--html", str(page)) == 0
    assert page.read_text().startswith("<!DOCTYPE html>") and capsys.readouterr().out == ""
    assert cli("report", "--html", "-") == 0
    assert capsys.readouterr().out == page.read_text()
    assert cli("report", "--html", str(tmp_path / "nowhere" / "report.html")) == 1
    assert "nowhere" in capsys.readouterr().err


def test_check_for_programs(cli: Callable[..., int], file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("check", "--json") == 0
    assert capsys.readouterr() == ("[]\n", "")
    file.write_text(file.read_text() + '[mail]\nmesage_limit = "1MiB"\n')
    assert cli("check", "--json") == 2
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == [{
        "file": str(file), "line": file.read_text().count("\n"), "path": "mail.mesage_limit", "what": "unknown key",
        "expected": '"message_limit"',
    }]  # fmt: skip
    (file.parent / "secrets.toml").write_text("[broken\n")
    file.write_text("")
    assert cli("check", "--json") == 2
    found = json.loads(capsys.readouterr().out)
    assert {Path(fault["file"]).name for fault in found} == {"posthouse.toml", "secrets.toml"}
    assert all(set(fault) == {"file", "line", "path", "what", "expected"} for fault in found)


def test_what_ended_without_an_answer_is_not_done_once_more(
    cli: Callable[..., int], stub: Stub, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Posthouse that dies in the middle of a commit: it may have made it."""
    stub.answers = {verb: [] for verb in ("config-commit", "config-set", "dial")}
    before = file.read_text()
    for verb, code in (("config commit", 1), ("config set schedule.every 2h", 1), ("dial", 3)):
        assert cli(*verb.split()) == code
        said = "posthouse: Posthouse stopped before it had answered"
        assert capsys.readouterr().err == said + ": look whether it was done\n" * (code == 1) + "\n" * (code == 3)
    assert file.read_text() == before and not (file.parent / "state").exists()


@pytest.mark.parametrize(("says", "shown"), [("", "the journal has no entry of Posthouse's"), ("one", "one")])
def test_an_empty_journal_is_said(
    says: str, shown: str, cli: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    program = tmp_path / "journalctl"
    program.write_text(f"#!/bin/sh\nprintf '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert cli("journal") == 0
    assert capsys.readouterr().out == f"{shown}\n"
