"""The root helper that runs pppd, one for one call: a program of one file and of the standard library alone.

It owns pppd, its options, and the port while pppd has it. It is started by systemd for each connection to
`posthouse-ppp.socket`, or by Posthouse itself where that is root; in both cases its standard input is a SOCK_SEQPACKET
Unix socket, a JSON object in each message:

    helper   {"state": "ready"}, or {"state": "failed", "why"} and it ends
    client   {"profile", "login", "secret"} and the open port's descriptor (SCM_RIGHTS)
    helper   {"state": "log", "text"}                            a line of pppd's log, as often as there is one
    helper   {"state": "up", "device", "address", "dns": […]}    the network is up
    helper   {"state": "ended", "code", "text"}                  pppd has ended, and it ends; the port is as it was
    client   {"stop": seconds}, or it goes away: pppd is asked to terminate, and killed after that time

What may be smuggled, and why it is not (tests/services/test_ppp_helper.py):

- The client (SO_PEERCRED: root or Posthouse's user) gives typed values, no options. Login and secret have a limit and
  no control characters, and each byte of them is written as \\ooo into the options file, in which no other character
  of theirs can end a word. That file is an anonymous one of the kernel's memory; the command line names it alone.
- pppd always reads /etc/ppp/options, /etc/ppp/options.TTY, ~/.ppprc and the secrets files, and runs /etc/ppp/ip-up,
  auth-up and others with values of the peer's. It gets a mount namespace of its own in which /etc/ppp is empty and
  there is no ~/.ppprc: no file of the host is read, no script is run.
- The peer's name servers come from what pppd writes into that empty folder, as numbers; its log is text and nothing is
  learned from it. That the network is up is seen on the device itself. An address of the peer's that lies in a network
  of the host's own is refused: its route would take that network's traffic onto the line.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import json
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

USER: Final = "posthouse"
"""Whose process may ask for a call, besides root's."""
PPPD: Final = "/usr/sbin/pppd"
CONFIGURATION: Final = "/etc/ppp"
NAMES: Final = tuple(f"posthouse{n}" for n in range(10))
"""Of the network device; the first that is free. Others' ppp devices are called ppp0 and so on."""
WORD_LIMIT: Final = 255
"""Bytes of a login or a secret: pppd's MAXNAMELEN and MAXSECRETLEN less a NUL; what is longer it would cut off."""
MESSAGE_LIMIT: Final = 4096
"""Bytes of one message: three short texts and their quoting."""
REQUEST_S: Final = 3600.0
"""So long may the client dial before it hands the port over."""
STOP_S: Final = 2.0
"""From SIGTERM to SIGKILL where the client is gone and says nothing."""
STOP_LIMIT_S: Final = 15.0
LOG_LINES: Final = 2000
"""Lines of pppd's log that are passed on in a call; the system log has all."""
LOG_TEXT: Final = 300
READ_SIZE: Final = 4096
POLL_S: Final = 0.5
"""Looks at the device that often, should the kernel's notice be lost."""

COMMON: Final = (
    # One pppd is one call, in the foreground: the policy when to dial is ours.
    "nodetach", "nopersist", "maxfail 1", "nomultilink",
    # The provider proves nothing to us; it is the one that was dialled. EAP is refused: CVE-2020-8597 and later ones.
    "noauth", "refuse-eap", "refuse-mschap", "hide-password",
    # The modem's lines are ours: DTR stays up, the client watches DCD, and a port without DCD works alike.
    "local",
    # Log to the helper. With nothing on fd 1, pppd writes nothing into the port.
    "logfd 2",
    # Addresses are the provider's. No route but the device's own: what goes out is bound to the device by its socket.
    "noipdefault", "ipcp-accept-local", "ipcp-accept-remote", "nodefaultroute", "noproxyarp", "usepeerdns",
    # Without a prefix from the provider IPv6 would cost its negotiation, and then router solicitations, for nothing.
    "noipv6",
    # Compressing what TLS has encrypted gains nothing; its negotiation costs a round trip and its history memory.
    "noccp",
    # No byte need be escaped on an eight-bit port. Echo requests go out in silence alone.
    "asyncmap 0", "lcp-echo-adaptive",
)  # fmt: skip
"""Options of every call, as they stand in the options file."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What differs by the modem's profile.

    `vj`: TCP/IP header compression (RFC 1144). `mru`: bytes of the largest packet, both ways. `echo_s`, `echoes`: LCP
    echo requests in silence, and how many of them without an answer mean a dead far end. `restart_s`: before a
    negotiation's packet is repeated.
    """

    vj: bool
    mru: int
    echo_s: int
    echoes: int
    restart_s: int


PROFILES: Final = {
    # A telephone line: VJ turns 40 bytes of headers into 5; 576 bytes take half a second at 9,600 bit/s, so that a
    # session's short lines wait no longer behind another's data; a far end without DCD is found dead within 20 s.
    "hayes": Terms(vj=True, mru=576, echo_s=5, echoes=3, restart_s=3),
    # PPP ends inside the module, which carries IP packets on: it offers no VJ, takes 1500, and answers at once. Its
    # echoes say nothing of the network behind it, only that the module has not rebooted or gone back to commands.
    "gsm": Terms(vj=False, mru=1500, echo_s=10, echoes=3, restart_s=3),
    # 2,400 bit/s by satellite, up to 3 s for a turn-around and gaps of seconds at a hand-over: nothing is repeated
    # before its answer can have come, and only 60 s of silence are a dead far end.
    "iridium": Terms(vj=True, mru=576, echo_s=15, echoes=4, restart_s=6),
}
"""By the configuration's `profile`."""


class Refused(Exception):
    """The client may not have what it asks for, or the host can't run pppd. The text is a plain sentence."""


# ---- what the client may say


@dataclass(frozen=True, slots=True)
class Request:
    """A checked one."""

    terms: Terms
    login: bytes
    secret: bytes


def parse_request(data: bytes) -> Request:
    """Raises Refused."""
    message = _object(data)
    if set(message) != {"profile", "login", "secret"}:
        raise Refused("a request has profile, login and secret, nothing else")
    profile = message["profile"]
    terms = PROFILES.get(profile) if isinstance(profile, str) else None
    if terms is None:
        raise Refused("no such profile")
    return Request(terms, _word(message["login"], "login"), _word(message["secret"], "secret"))


def parse_stop(data: bytes) -> float:
    """Seconds from SIGTERM to SIGKILL. Raises Refused."""
    seconds = _object(data).get("stop")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= STOP_LIMIT_S:
        raise Refused(f"stop takes 0 to {STOP_LIMIT_S:g} seconds")
    return float(seconds)


def _object(data: bytes) -> dict[str, Any]:
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Refused("not a JSON object")
    return message


def _word(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise Refused(f"{what} is no text")
    word = value.encode(errors="replace")
    if len(word) > WORD_LIMIT:
        raise Refused(f"{what} is longer than {WORD_LIMIT} bytes")
    if any(byte < 0x20 or byte == 0x7F for byte in word):
        raise Refused(f"{what} has control characters")
    return word


# ---- what pppd is told


def quote(word: bytes) -> str:
    """As one word of an options file, whatever its bytes (pppd(8), OPTIONS FILES; getword() in options.c)."""
    return '"' + "".join(f"\\{byte:03o}" for byte in word) + '"'


def options_file(request: Request, device: str) -> bytes:
    """The options of one call, one a line."""
    terms = request.terms
    lines = [*COMMON, f"ifname {device}", f"mru {terms.mru}", f"mtu {terms.mru}", *([] if terms.vj else ["novj"])]
    lines += [f"lcp-echo-interval {terms.echo_s}", f"lcp-echo-failure {terms.echoes}"]
    lines += [f"{protocol}-restart {terms.restart_s}" for protocol in ("lcp", "pap", "ipcp")]
    # A name that is given, an empty one too, keeps pppd from taking the host's name for it.
    lines += [f"user {quote(request.login)}", f"password {quote(request.secret)}"]
    return ("\n".join(lines) + "\n").encode("ascii")


def isolate() -> None:
    """Gives this process, and so pppd, an empty /etc/ppp and no ~/.ppprc, where systemd has not. Raises Refused."""
    own = Path(pwd.getpwuid(0).pw_dir or "/", ".ppprc")
    folder = Path(CONFIGURATION)
    if folder.is_mount() and not any(folder.iterdir()) and not own.exists():
        return
    try:
        _system("unshare", 0x00020000)  # CLONE_NEWNS
        _system("mount", b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE: nothing of this leaves us
        _system("mount", b"tmpfs", CONFIGURATION.encode(), b"tmpfs", 0, b"mode=0700,size=64k")
        if own.exists():
            _system("mount", b"/dev/null", bytes(own), None, 0x1000, None)  # MS_BIND
    except OSError as error:
        raise Refused(f"pppd can't be given a {CONFIGURATION} of its own: {error.strerror}") from None


def _system(name: str, *arguments: Any) -> None:
    """A call of the C library that returns -1 and errno."""
    library = ctypes.CDLL(None, use_errno=True)
    given = [ctypes.c_ulong(a) if isinstance(a, int) and name == "mount" else a for a in arguments]
    if getattr(library, name)(*given) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _die_with_parent() -> None:
    """In the child: SIGTERM for pppd when the helper is killed, so that no call outlives it (prctl(2))."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


# ---- the device


def free_device() -> str:
    """Raises Refused."""
    taken = {name for _, name in socket.if_nameindex()}
    for name in NAMES:
        if name not in taken:
            return name
    raise Refused("every name for a network device is taken")


def local_address(device: str) -> tuple[str, str] | None:
    """(our address, the peer's) once the device is up with one (netdevice(7)); None before."""
    request = struct.pack("16s24x", device.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            flags = struct.unpack("16xh", fcntl.ioctl(sock, 0x8913, request)[:18])[0]  # SIOCGIFFLAGS
            ours = fcntl.ioctl(sock, 0x8915, request)[20:24]  # SIOCGIFADDR
            peers = fcntl.ioctl(sock, 0x8917, request)[20:24]  # SIOCGIFDSTADDR
        except OSError:
            return None
    return (socket.inet_ntoa(ours), socket.inet_ntoa(peers)) if flags & 1 else None


def clash(device: str, address: str) -> str:
    """The other device in whose network `address` lies, "" where there is none."""
    wanted = int(ipaddress.IPv4Address(address))
    for line in Path("/proc/net/route").read_text("ascii").splitlines()[1:]:
        name, destination, gateway, _, _, _, _, mask = line.split()[:8]
        network, bits = (socket.ntohl(int(field, 16)) for field in (destination, mask))
        if name != device and not int(gateway, 16) and bits and wanted & bits == network & bits:
            return name
    return ""


def name_servers(path: Path) -> list[str]:
    """Those that the peer gave, from the file that pppd has written. No loopback: that would be our own."""
    try:
        lines = path.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
    found: list[str] = []
    for line in lines:
        try:
            address = ipaddress.IPv4Address(line.removeprefix("nameserver ").strip())
        except ValueError:
            continue
        if str(address) not in found and not (address.is_unspecified or address.is_loopback or address.is_multicast):
            found.append(str(address))
    return found


def quieten(device: str) -> None:
    """Answers come in over the device although no route leads out over it: no reverse path filter there (the packet
    filter is who keeps strangers out). And no IPv6 of its own."""
    for path, value in ((f"ipv4/conf/{device}/rp_filter", "0"), (f"ipv6/conf/{device}/disable_ipv6", "1")):
        try:
            Path("/proc/sys/net", path).write_text(value)
        except OSError:
            pass  # no IPv6 in this kernel, or a container's: the call works without, or its name look-ups say so


# ---- the call


class Helper:
    """One call. Owns the socket, the port and pppd. Not `checked` (a test's): needs no /dev/ppp, isolates nothing."""

    def __init__(self, sock: socket.socket, *, pppd: str = PPPD, checked: bool = True) -> None:
        self._sock = sock
        self._pppd = pppd
        self._checked = checked
        self._logged = 0
        self._last_words = ""
        self._device = ""
        self._up = False
        self._why = ""

    def run(self) -> None:
        """The whole call; returns when it is over."""
        try:
            self._prepare()
            self._say(state="ready")
            request, port = self._receive_request()
        except Refused as refusal:
            self._say(state="failed", why=str(refusal))
            return
        except (EOFError, OSError):
            return
        saved = termios.tcgetattr(port)
        try:
            code = self._serve(request, port)
        finally:
            give_back(port, saved)
        self._say(state="ended", code=code, text=self._why or self._last_words)

    def _prepare(self) -> None:
        pid, uid, _ = struct.unpack("3i", self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in allowed_users():
            raise Refused(f"process {pid} of user {uid} may not run pppd")
        if not os.access(self._pppd, os.X_OK):
            raise Refused(f"{self._pppd} is not there: the package ppp is not installed")
        if not self._checked:
            return
        if os.geteuid() != 0:
            raise Refused("pppd must be run by root")
        try:
            os.close(os.open("/dev/ppp", os.O_RDWR | os.O_CLOEXEC))  # loads the kernel's module, where it is one
        except OSError as error:
            raise Refused(f"this kernel has no PPP (/dev/ppp: {error.strerror})") from None
        isolate()

    def _receive_request(self) -> tuple[Request, int]:
        """The request and the port. Raises Refused, EOFError, TimeoutError."""
        self._sock.settimeout(REQUEST_S)
        data, descriptors, _, _ = socket.recv_fds(self._sock, MESSAGE_LIMIT, 4)
        self._sock.settimeout(1.0)
        if not data:
            raise EOFError
        if len(descriptors) != 1:
            raise Refused("a request comes with the port's descriptor, one")
        port = descriptors[0]
        if not os.isatty(port) or fcntl.fcntl(port, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            raise Refused("the descriptor is no port that is open both ways")
        return parse_request(data), port

    def _serve(self, request: Request, port: int) -> int:
        """Runs pppd to its end; its exit code."""
        self._device = free_device()
        options = os.memfd_create("options")
        os.write(options, options_file(request, self._device))
        log, log_end = os.pipe()
        try:
            # No session of its own: its leader would get the port as its controlling terminal.
            process = subprocess.Popen(
                [self._pppd, "file", f"/proc/self/fd/{options}"],
                stdin=port, stdout=subprocess.DEVNULL, stderr=log_end, pass_fds=(options,), cwd="/",
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}, preexec_fn=_die_with_parent,
            )  # fmt: skip
        finally:
            os.close(options)
            os.close(log_end)
        try:
            return self._watch(process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(log)

    def _watch(self, process: subprocess.Popen[bytes], log: int) -> int:
        """Until pppd has ended: its log, the device, and what the client says."""
        ended = os.pidfd_open(process.pid)
        notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        notices.bind((0, 0x1 | 0x10))  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR (rtnetlink(7))
        poll = select.poll()
        for source in (ended, log, notices, self._sock):
            poll.register(source, select.POLLIN)
        kill_at: float | None = None
        rest = b""
        try:
            while True:
                wait = POLL_S if kill_at is None else max(0.0, min(POLL_S, kill_at - time.monotonic()))
                ready = {fd for fd, _ in poll.poll(wait * 1000)}
                if log in ready:
                    data = os.read(log, READ_SIZE)
                    rest = self._log(rest + data)
                    if not data:
                        poll.unregister(log)
                if notices.fileno() in ready:
                    _read_now(notices.fileno())
                if ended in ready:
                    while data := _read_now(log):
                        rest = self._log(rest + data)
                    code = process.wait()
                    return code if code >= 0 else 128 - code  # as a shell has it
                if kill_at is None:
                    seconds = self._stop_asked() if self._sock.fileno() in ready else self._look()
                    if seconds is not None:
                        poll.unregister(self._sock)
                        kill_at = time.monotonic() + seconds
                        process.terminate()
                elif time.monotonic() >= kill_at:
                    process.kill()
                    kill_at += REQUEST_S
        finally:
            notices.close()
            os.close(ended)

    def _stop_asked(self) -> float | None:
        try:
            data = self._sock.recv(MESSAGE_LIMIT)
            return parse_stop(data) if data else STOP_S
        except (OSError, Refused):
            return STOP_S

    def _look(self) -> float | None:
        """Tells once that the network is up; seconds to the kill where it may not be."""
        if self._up or (found := local_address(self._device)) is None:
            return None
        for address in found:
            if other := clash(self._device, address):
                self._why = f"the far end's address {address} lies in the network of {other}"
                return STOP_S
        self._up = True
        quieten(self._device)
        servers = name_servers(Path(CONFIGURATION, "resolv.conf"))
        self._say(state="up", device=self._device, address=found[0], dns=servers)
        return None

    # ---- pppd's log
    def _log(self, data: bytes) -> bytes:
        *lines, rest = data.split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace").strip()[:LOG_TEXT]
            if text:
                self._last_words = self._last_words if text.startswith(_NO_WORDS) else text
                self._logged += 1
                if self._logged <= LOG_LINES:
                    self._say(state="log", text=text)
        return rest[-READ_SIZE:]

    def _say(self, **message: object) -> None:
        try:
            self._sock.send(json.dumps(message).encode())
        except OSError:
            pass  # the client is gone, which the next look at the socket finds


_NO_WORDS: Final = ("Connect time ", "Sent ", "Connection terminated.", "Modem hangup", "Exit.")
"""Of pppd's last lines those that say nothing about why."""


def give_back(port: int, saved: list[Any]) -> None:
    """The port as it was, whatever pppd has left: a killed one leaves the line discipline and exclusive use."""
    for request, argument in ((termios.TIOCSETD, struct.pack("i", 0)), (termios.TIOCNXCL, 0)):
        try:
            fcntl.ioctl(port, request, argument)
        except OSError:
            pass  # unplugged, or hung up
    try:
        termios.tcflush(port, termios.TCIOFLUSH)  # else the next call waits for what a dead modem does not take
        termios.tcsetattr(port, termios.TCSANOW, saved)
    except (OSError, termios.error):
        pass


def allowed_users() -> set[int]:
    """Root, Posthouse's user, and, so that it can be tested by anybody, whoever runs this."""
    return {0, os.geteuid(), *(user.pw_uid for user in pwd.getpwall() if user.pw_name == USER)}


def _read_now(fd: int) -> bytes:
    os.set_blocking(fd, False)
    try:
        return os.read(fd, READ_SIZE)
    except OSError:  # nothing there; or notices were lost (ENOBUFS), and the next look is due in any case
        return b""


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sock = socket.socket(fileno=os.dup(0))
    except OSError as error:
        print(f"standard input is not Posthouse's socket: {error.strerror}", file=sys.stderr)
        return 2
    Helper(
        sock,
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
