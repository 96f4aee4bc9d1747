"""pppd's root helper: what may be asked of it, what pppd gets of that, and that nothing can be smuggled in. The options
are read back by the real pppd; the calls are those of one in software, since a test's host need have no PPP."""

from __future__ import annotations

import ast
import ctypes
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.modem import ppp_helper
from appliance.modem.ppp_helper import PROFILES, Refused, name_servers, options_file, parse_request, parse_stop
from fakes.netns import Namespace, namespace
from fakes.pppd import install

CONFIGURATION = Path(__file__).parents[2] / "docs/configuration.md"
PPPD = "/usr/sbin/pppd"
REQUEST = {"profile": "hayes", "login": "harbour", "secret": "s3cret"}
WAIT_S = 20.0


def ask(**fields: Any) -> bytes:
    return json.dumps({**REQUEST, **fields}).encode()


# ---- what may be asked


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not a JSON object"),
        (b"\xff", "not a JSON object"),
        (b"[" * 4000, "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b"{}", "profile, login and secret, nothing else"),
        (ask(options="plugin x"), "nothing else"),
        (ask(profile="hayes plugin x.so"), "no such profile"),
        (ask(profile=["hayes"]), "no such profile"),
        (ask(login=None), "login is no text"),
        (ask(secret=17), "secret is no text"),
        (ask(login="x" * 256), "longer than 255 bytes"),
        (ask(login="\u00e9" * 128), "longer than 255 bytes"),
        (ask(login="a\nplugin x"), "login has control characters"),
        (ask(secret="a\x00b"), "secret has control characters"),
        (ask(secret="a\x7fb"), "secret has control characters"),
        (ask(login="a\r"), "login has control characters"),
    ],
)
def test_what_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        parse_request(data)


@pytest.mark.parametrize("seconds", [0, 2, 2.5, 15])
def test_a_stop(seconds: float) -> None:
    assert parse_stop(json.dumps({"stop": seconds}).encode()) == seconds


@pytest.mark.parametrize("text", ["", "{}", '{"stop": true}', '{"stop": -1}', '{"stop": 16}', '{"stop": "2"}', "[2]",
                                  '{"stop": NaN}'])  # fmt: skip
def test_no_stop(text: str) -> None:
    with pytest.raises(Refused):
        parse_stop(text.encode())


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_a_request(data: bytes) -> None:
    for parse in (parse_request, parse_stop):
        try:
            parse(data)
        except Refused:
            pass


def test_every_profile_of_the_configuration_has_its_terms() -> None:
    profiles = re.findall(r"`(\w+)`", CONFIGURATION.read_text("utf-8").partition("| `profile` |")[2].split("|")[1])
    assert set(profiles) - {"hayes"} == set(PROFILES) - {"hayes"}
    for terms in PROFILES.values():
        assert terms.echo_s * terms.echoes <= 60
        assert 128 <= terms.mru <= 1500


def test_the_helper_is_a_program_of_its_own() -> None:
    """Root runs it: it brings in nothing but the standard library."""
    tree = ast.parse(Path(ppp_helper.__file__).read_text("utf-8"))
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {n.partition(".")[0] for n in names} <= sys.stdlib_module_names


# ---- what pppd makes of it


def words(data: bytes) -> list[bytes]:
    """As getword() of pppd's options.c reads a file of ours: quoted words of octal escapes, and plain ones."""
    out: list[bytes] = []
    for line in data.decode("ascii").splitlines():
        for word in line.split(" "):
            if word.startswith('"'):
                assert word.endswith('"') and len(word) % 4 == 2
                octal = word[1:-1].split("\\")[1:]
                assert all(len(o) == 3 for o in octal)
                out.append(bytes(int(o, 8) for o in octal))
            else:
                assert word.replace("-", "").replace("_", "").isalnum(), word
                out.append(word.encode())
    return out


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60), st.text(max_size=60))
def test_no_value_ends_its_word(login: str, secret: str) -> None:
    try:
        request = parse_request(ask(login=login, secret=secret))
    except Refused:
        return
    found = words(options_file(request, "posthouse0"))
    assert found[-4:] == [b"user", login.encode(), b"password", secret.encode()]
    plain = words(options_file(parse_request(ask(login="", secret="")), "posthouse0"))
    assert found[:-4] == plain[:-4]


def test_what_no_call_does() -> None:
    for profile in PROFILES:
        text = options_file(parse_request(ask(profile=profile)), "posthouse0").decode()
        assert "s3cret" not in text and "harbour" not in text  # each byte is an escape
        found = text.split()
        for option in ("persist", "demand", "plugin", "defaultroute", "connect", "call", "auth", "updetach"):
            assert option not in found
        assert {"nopersist", "nodefaultroute", "refuse-eap", "nodetach", "noauth"} <= set(found)


def _no_ppp_device() -> None:
    """In a child: the kernel's device for PPP is another one, which pppd asks for but does not use in a dry run."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x00020000) == 0
    assert libc.mount(b"none", b"/", None, ctypes.c_ulong(0x44000), None) == 0
    assert libc.mount(b"tmpfs", b"/etc/ppp", b"tmpfs", 0, None) == 0
    if not os.path.exists("/dev/ppp"):
        os.mkdir("/etc/ppp/pts")
        assert libc.mount(b"/dev/pts", b"/etc/ppp/pts", None, ctypes.c_ulong(0x1000), None) == 0
        assert libc.mount(b"tmpfs", b"/dev", b"tmpfs", 0, None) == 0
        os.mkdir("/dev/pts")
        assert libc.mount(b"/etc/ppp/pts", b"/dev/pts", None, ctypes.c_ulong(0x1000), None) == 0
        os.mknod("/dev/ppp", 0o600 | 0o020000, os.makedev(1, 3))
        os.mknod("/dev/null", 0o600 | 0o020000, os.makedev(1, 3))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(
    "login",
    ["harbour", "", 'a b" plugin /tmp/x.so "', "it's", "back\\slash", "\\157", "#no comment", "$(id) `id` %s", "日本",
     "x" * 200],
)  # fmt: skip
def test_the_real_pppd_takes_the_options_as_they_are_meant(profile: str, login: str) -> None:
    if os.geteuid() != 0 or not os.path.exists(PPPD):
        pytest.skip("pppd runs as root alone")
    options = os.memfd_create("options")
    os.write(options, b"dryrun\n" + options_file(parse_request(ask(profile=profile, login=login)), "posthouse0"))
    master, slave = pty.openpty()
    try:
        done = subprocess.run(
            [PPPD, "file", f"/proc/self/fd/{options}"],
            stdin=slave, capture_output=True, pass_fds=(options,), timeout=WAIT_S, preexec_fn=_no_ppp_device,
        )  # fmt: skip
    finally:
        for fd in (options, master, slave):
            os.close(fd)
    said = (done.stdout + done.stderr).decode("latin-1")
    assert done.returncode == 0, said
    in_effect = [line.partition("\t\t#")[0] for line in said.splitlines() if "\t\t#" in line]
    sources = {line.partition("# (from ")[2] for line in said.splitlines() if "# (from" in line}
    assert sources == {f"/proc/self/fd/{options})"}  # nothing of the host's
    (user,) = (line for line in in_effect if line.startswith("user "))
    assert user.encode("latin-1") == b"user " + _as_pppd_prints(login)
    names = {line.split()[0] for line in in_effect}
    given = {line.split()[0] for line in options_file(parse_request(ask(profile=profile)), "x").decode().splitlines()}
    assert names - given == {"dryrun"}
    assert given - names <= {"asyncmap"}  # 0 is not printed


def _as_pppd_prints(word: str) -> bytes:
    """%q of vslprintf(): a quote and a backslash are escaped, control characters and those of 0x80 to 0x9f in hex."""
    out = b""
    for byte in word.encode():
        if byte in b'"\\':
            out += b"\\"
        out += b"\\x%x" % byte if 0x80 <= byte < 0xA0 else bytes([byte])
    return out


# ---- a call of a pppd in software


class Call:
    """The helper as a child in a network namespace, as Posthouse has it, and a port: a pseudo-terminal."""

    def __init__(self, folder: Path, host: Namespace, **part: Any) -> None:
        self.folder, self.host = folder, host
        install(folder)
        folder.joinpath("part").write_text(json.dumps(part))
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(WAIT_S)
        self.master, self.port = pty.openpty()
        tty.setraw(self.port)
        self.before = termios.tcgetattr(self.port)
        code = "import socket, os, sys; sys.path.insert(0, sys.argv[1]); import ppp_helper as h; "
        code += "h.os.open = lambda path, *a, real=os.open: real('/dev/null' if path == '/dev/ppp' else path, *a); "
        code += "h.Helper(socket.socket(fileno=os.dup(0)), pppd=sys.argv[2]).run()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(Path(ppp_helper.__file__).parent), str(folder / "pppd")],
            stdin=theirs, start_new_session=True, cwd="/", preexec_fn=host.enter,
        )  # fmt: skip
        theirs.close()

    def hear(self) -> dict[str, Any]:
        data = self.sock.recv(65536)
        return json.loads(data) if data else {"state": "gone"}

    def hear_until(self, state: str) -> list[dict[str, Any]]:
        """Up to and with that state."""
        heard = [self.hear()]
        while heard[-1]["state"] not in (state, "gone"):
            heard.append(self.hear())
        return heard

    def ask(self, data: bytes | None = None, ports: int = 1) -> None:
        socket.send_fds(self.sock, [ask() if data is None else data], [self.port] * ports)

    def start(self) -> None:
        assert self.hear() == {"state": "ready"}
        self.ask()

    def settle(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while not (self.folder / "settled").exists() and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def got(self) -> dict[str, Any]:
        return json.loads((self.folder / "got").read_text())

    @property
    def port_is_as_before(self) -> bool:
        return termios.tcgetattr(self.port) == self.before

    def close(self) -> None:
        self.sock.close()
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)
            os.close(self.port)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace("ppp") as it:
        yield it


@pytest.fixture
def call(tmp_path: Path, host: Namespace) -> Iterator[Any]:
    made: list[Call] = []

    def make(**part: Any) -> Call:
        made.append(Call(tmp_path, host, **part))
        return made[-1]

    yield make
    for one in made:
        one.close()


LAST_WORDS = ["Connect time 0.2 minutes.\n", "Sent 30404 bytes, received 29218 bytes.\n", "Connection terminated.\n"]
UP = {"up": ["10.64.0.2", "10.64.0.1"]}


def test_a_call_comes_up_and_is_ended(call: Any, host: Namespace) -> None:
    one = call(**UP, dns="nameserver 192.0.2.53\nnameserver 192.0.2.54\n", log=["Serial connection established.\n"])
    one.start()
    log, up = one.hear_until("up")
    assert log == {"state": "log", "text": "Serial connection established."}
    assert up == {
        "state": "up",
        "device": "posthouse0",
        "address": "10.64.0.2",
        "dns": ["192.0.2.53", "192.0.2.54"],
    }
    assert host.exec("sysctl", "-n", "net.ipv4.conf.posthouse0.rp_filter").strip() == "0"
    one.sock.send(b'{"stop": 2}')
    assert one.hear() == {"state": "ended", "code": 5, "text": "Serial connection established."}
    assert one.process.wait(WAIT_S) == 0
    assert one.port_is_as_before


def test_what_pppd_is_given(call: Any) -> None:
    one = call(**UP)
    one.start()
    one.hear_until("up")
    got = one.got
    assert got["argv"][1] == "file" and len(got["argv"]) == 3  # no login, no secret on a command line
    assert got["folder"] == []  # of /etc/ppp: no options, no secrets, no scripts
    assert set(got["environment"]) <= {"PATH", "LC_ALL", "LC_CTYPE", "PWD"}
    assert got["port"] == os.ttyname(one.port)
    assert [name for name in got["open"] if not name.startswith("/proc")] == ["/memfd:options (deleted)"]
    assert words(got["options"].encode())[-4:] == [b"user", b"harbour", b"password", b"s3cret"]


@pytest.mark.parametrize("code", [1, 2, 4, 8, 10, 16, 19])
def test_pppd_s_exit_is_told(call: Any, code: int) -> None:
    one = call(code=code, log=["PAP authentication failed\n", *LAST_WORDS, "half a line"])
    one.start()
    assert one.hear_until("ended")[-1] == {"state": "ended", "code": code, "text": "PAP authentication failed"}
    assert one.process.wait(WAIT_S) == 0


def test_a_pppd_that_does_not_end_is_killed(call: Any) -> None:
    one = call(ignores=True, spoils=True)
    one.start()
    one.settle()
    assert not one.port_is_as_before
    began = time.monotonic()
    one.sock.send(b'{"stop": 0.5}')
    assert one.hear() == {"state": "ended", "code": 128 + signal.SIGKILL, "text": ""}
    assert 0.4 < time.monotonic() - began < 5
    assert one.port_is_as_before


@pytest.mark.parametrize("ignores", [False, True])
def test_no_call_outlives_its_client(call: Any, ignores: bool) -> None:
    one = call(ignores=ignores, **UP)
    one.start()
    one.hear_until("up")
    one.sock.close()
    assert one.process.wait(WAIT_S) == 0
    assert one.port_is_as_before


def test_no_call_outlives_its_helper(call: Any, host: Namespace) -> None:
    one = call(**UP)
    one.start()
    one.hear_until("up")
    assert host.link("posthouse0")
    one.process.kill()
    one.process.wait()
    deadline = time.monotonic() + WAIT_S
    while host.link("posthouse0") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not host.link("posthouse0")


def test_a_client_that_goes_before_the_call(call: Any) -> None:
    one = call()
    assert one.hear() == {"state": "ready"}
    one.sock.close()
    assert one.process.wait(WAIT_S) == 0


@pytest.mark.parametrize(
    ("data", "ports", "why"),
    [
        (ask(plugin="x"), 1, "nothing else"),
        (ask(), 0, "the port's descriptor, one"),
        (ask(), 2, "the port's descriptor, one"),
        (ask(secret="a\nplugin x"), 1, "control characters"),
    ],
)
def test_a_wrong_request_starts_nothing(call: Any, data: bytes, ports: int, why: str) -> None:
    one = call()
    assert one.hear() == {"state": "ready"}
    one.ask(data, ports)
    said = one.hear()
    assert said["state"] == "failed" and why in said["why"]
    assert one.process.wait(WAIT_S) == 0
    assert not (one.folder / "got").exists()


def test_a_descriptor_that_is_no_port(call: Any) -> None:
    one = call()
    one.hear()
    with open("/dev/zero", "rb") as file:
        socket.send_fds(one.sock, [ask()], [file.fileno()])
    assert "no port" in one.hear()["why"]


@pytest.mark.parametrize("ends", ["ours", "peer"])
def test_an_address_in_a_network_of_the_host_is_refused(call: Any, host: Namespace, ends: str) -> None:
    host.ip("link", "add", "lan", "type", "bridge")
    host.ip("addr", "add", "192.168.77.1/24", "dev", "lan")
    host.ip("link", "set", "lan", "up")
    stolen = "192.168.77.20"
    one = call(up=[stolen, "10.64.0.1"] if ends == "ours" else ["10.64.0.2", stolen])
    one.start()
    (said,) = one.hear_until("ended")
    assert said == {"state": "ended", "code": 5, "text": f"the far end's address {stolen} lies in the network of lan"}


def test_the_next_name_is_taken_where_one_is_left_over(call: Any, host: Namespace) -> None:
    host.ip("link", "add", "posthouse0", "type", "bridge")
    one = call(**UP)
    one.start()
    assert one.hear_until("up")[-1]["device"] == "posthouse1"


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("", []),
        ("nameserver 192.0.2.53\nnameserver 192.0.2.53\n", ["192.0.2.53"]),
        ("nameserver 127.0.0.1\nnameserver 0.0.0.0\nnameserver 224.0.0.1\n", []),
        ("search evil.example\nnameserver 192.0.2.53; rm -rf /\nnameserver 2001:db8::1\n\xff", []),
    ],
)
def test_name_servers_are_addresses(tmp_path: Path, text: str, servers: list[str]) -> None:
    tmp_path.joinpath("resolv.conf").write_text(text, "latin-1")
    assert name_servers(tmp_path / "resolv.conf") == servers
    assert name_servers(tmp_path / "none") == []


def test_a_host_without_ppp_says_so(tmp_path: Path) -> None:
    """As it is started in earnest, without /dev/ppp or by somebody who may not."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(WAIT_S)
    with ours, theirs:
        process = subprocess.Popen([sys.executable, "-I", ppp_helper.__file__], stdin=theirs, cwd="/")
        theirs.close()
        said = json.loads(ours.recv(4096))
        ours.close()
        assert process.wait(WAIT_S) == 0
    if said["state"] == "failed":
        assert "no PPP (/dev/ppp" in said["why"] or "not installed" in said["why"] or "by root" in said["why"]
    else:
        assert said == {"state": "ready"} and os.path.exists("/dev/ppp")
