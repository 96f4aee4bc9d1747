"""TCP connections and names over the network device of one call, and over no other.

It owns what is known of names in a call: a name is resolved once and kept to the call's end. Every socket is bound to
the device (SO_BINDTODEVICE, socket(7)): its packets leave there although no route of the host leads to it, and go
nowhere once it is gone. Linux takes a destination that no route fits to be on the bound device's link, which is right
on PPP; a device with an address of its own brings its routes along.

Names, in this order: a literal address; /etc/hosts; the name servers that the far end gave for this call, asked over
the device, for A where it has an IPv4 address and AAAA where it has an IPv6 one (RFC 1035, RFC 3596). Where it gave
none, the host's own resolver is asked, which then has to have a way of its own.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.modem.device import look

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OverDevice"]

STREAM_S: Final = 60.0
"""A connection: the names and TCP's handshake, with retransmissions at 1, 3, 7 and 15 s (RFC 6298)."""
NEXT_ADDRESS_S: Final = 20.0
"""To one address of several: past the retransmission at 15 s, so that a lost SYN or two is no dead server."""
QUERY_S: Final = (4.0, 6.0, 10.0)
"""How long each question waits for its answer: twice a round trip by satellite (1.8 s), then with the queue before it
that the call's first packets make; the servers in turn. Together less than `STREAM_S`, so that time is left."""
QUERY_PAUSE_S: Final = 2.0
"""Before the same server is asked again that has refused at once: it may be starting for our address only now."""
RESOLVER_S: Final = 30.0
"""The host's own resolver: glibc's 5 s for two servers, three times."""
ANSWER_LIMIT: Final = 4096
"""Bytes of a UDP answer; without EDNS it has at most 512 (RFC 1035 §4.2.1)."""
ADDRESS_LIMIT: Final = 8
"""Addresses of one name that are tried."""
DNS_PORT: Final = 53
HOSTS: Final = Path("/etc/hosts")

Family = socket.AddressFamily


class OverDevice:
    """Made when the call's network is up. `dns`: addresses of name servers."""

    def __init__(self, device: str, dns: Sequence[str], *, hosts: Path = HOSTS, dns_port: int = DNS_PORT) -> None:
        self._device = device
        self._servers = tuple(dns)
        self._hosts = hosts
        self._port = dns_port
        self._known: dict[str, tuple[str, ...]] = {}
        self._asking: dict[str, trio.Lock] = {}

    async def open_stream(self, host: str, port: int) -> trio.SocketStream:
        """A connection with TCP_NODELAY. Raises OSError; `socket.gaierror` for a name that has no address."""
        try:
            with trio.fail_after(STREAM_S):
                return await self._open(host, port)
        except trio.TooSlowError:
            raise TimeoutError(f"no connection to {host} port {port} within {STREAM_S:g} s") from None

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Addresses as text, at least one. Raises OSError."""
        try:
            return (str(ipaddress.ip_address(host)),)
        except ValueError:
            pass
        name = host.rstrip(".").lower()
        if not name:
            raise socket.gaierror(socket.EAI_NONAME, "an empty name is no name")
        async with self._asking.setdefault(name, trio.Lock()):  # jobs of one call ask for the same host
            if name not in self._known:
                addresses = self._from_hosts(name) or await self._ask(name)
                self._known[name] = tuple(dict.fromkeys(addresses))[:ADDRESS_LIMIT]
            return self._known[name]

    # ---- connecting
    async def _open(self, host: str, port: int) -> trio.SocketStream:
        addresses = await self.resolve(host)
        problem: OSError | None = None
        for n, address in enumerate(addresses):
            try:
                with trio.fail_after(NEXT_ADDRESS_S if n + 1 < len(addresses) else STREAM_S):
                    return await self._connect(address, port)
            except trio.TooSlowError:
                problem = TimeoutError(f"no answer from {address} port {port} within {NEXT_ADDRESS_S:g} s")
            except OSError as error:
                problem = error
        assert problem is not None
        raise problem

    async def _connect(self, address: str, port: int) -> trio.SocketStream:
        sock = self._socket(address, socket.SOCK_STREAM)
        try:
            await sock.connect((address, port))
            return trio.SocketStream(sock)  # which sets TCP_NODELAY
        except BaseException:
            sock.close()
            raise

    def _socket(self, address: str, kind: int) -> trio.socket.SocketType:
        family = Family.AF_INET6 if ":" in address else Family.AF_INET
        sock = trio.socket.socket(family, kind)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode() + b"\0")
        except BaseException:
            sock.close()
            raise
        return sock

    def _families(self) -> list[Family]:
        state = look(self._device)
        return [f for f, has in ((Family.AF_INET, state.ipv4), (Family.AF_INET6, state.ipv6)) if has]

    # ---- names
    def _from_hosts(self, name: str) -> list[str]:
        try:
            lines = self._hosts.read_text("utf-8", "replace").splitlines()
        except OSError:
            return []
        found, families = [], self._families()
        for line in lines:
            address, *names = line.partition("#")[0].split() or [""]
            if name in (n.lower() for n in names) and _family(address) in families:
                found.append(address)
        return found

    async def _ask(self, name: str) -> list[str]:
        families = self._families()
        if not families:
            raise OSError(f"{self._device} has no address")
        if not self._servers:
            return await _host_resolver(name, families)
        answers: dict[Family, list[str]] = {}
        problems: list[OSError] = []

        async def ask(family: Family) -> None:
            try:
                answers[family] = await self._query(name, "AAAA" if family is Family.AF_INET6 else "A")
            except OSError as error:
                problems.append(error)

        async with trio.open_nursery() as nursery:
            for family in families:
                nursery.start_soon(ask, family)
        addresses = [address for family in families for address in answers.get(family, ())]
        if not addresses:
            raise problems[0] if problems else socket.gaierror(socket.EAI_NONAME, f"{name} has no address")
        return addresses

    async def _query(self, name: str, kind: str) -> list[str]:
        """The addresses of one kind, none where the name has none. Raises OSError."""
        import dns.exception
        import dns.message
        import dns.name
        import dns.rcode

        try:
            query = dns.message.make_query(dns.name.from_text(name + "."), kind)
        except (dns.exception.DNSException, UnicodeError):
            raise socket.gaierror(socket.EAI_NONAME, f"{name} is no name") from None
        problem, slow = "no answer", False
        for n, seconds in enumerate(QUERY_S):
            server = self._servers[n % len(self._servers)]
            if n >= len(self._servers) and not slow:
                await trio.sleep(QUERY_PAUSE_S)
            slow = False
            try:
                with trio.fail_after(seconds):
                    answer = await self._exchange(server, query)
                rcode = answer.rcode()
                if rcode == dns.rcode.NXDOMAIN:
                    raise socket.gaierror(socket.EAI_NONAME, f"{name} does not exist, says {server}")
                if rcode == dns.rcode.NOERROR:
                    rrset = answer.resolve_chaining().answer
                    return [str(r.address) for r in rrset] if rrset is not None else []
                problem = f"{server} says {dns.rcode.to_text(rcode)}"
            except trio.TooSlowError:
                problem, slow = f"{server} does not answer", True
            except socket.gaierror:
                raise
            except (OSError, EOFError, dns.exception.DNSException) as error:
                problem = f"{server}: {error or type(error).__name__}"
        raise socket.gaierror(socket.EAI_AGAIN, f"{name} is not known: {problem}")

    async def _exchange(self, server: str, query: Any) -> Any:
        """The answer to `query`, by UDP, or by TCP where it does not fit (RFC 1035 §4.2, RFC 7766). What is no answer
        to it is passed over: whoever guesses must guess port and id."""
        import dns.exception
        import dns.flags
        import dns.message

        with self._socket(server, socket.SOCK_DGRAM) as sock:
            await sock.connect((server, self._port))
            await sock.send(query.to_wire())
            while True:
                data = await sock.recv(ANSWER_LIMIT)
                try:
                    answer = dns.message.from_wire(data, ignore_trailing=True)
                except (dns.exception.DNSException, ValueError):
                    continue
                if query.is_response(answer):
                    break
        if not answer.flags & dns.flags.TC:
            return answer
        async with await self._connect(server, self._port) as stream:
            wire = query.to_wire()
            await stream.send_all(len(wire).to_bytes(2, "big") + wire)
            size = int.from_bytes(await _exactly(stream, 2), "big")
            answer = dns.message.from_wire(await _exactly(stream, size))
            if not query.is_response(answer):
                raise OSError("an answer to something else")
            return answer


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            raise EOFError("the answer breaks off")
        data += more
    return data


async def _host_resolver(name: str, families: Sequence[Family]) -> list[str]:
    with trio.move_on_after(RESOLVER_S):
        found = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        return [str(address[0]) for family, _, _, _, address in found if family in families]
    raise socket.gaierror(socket.EAI_AGAIN, f"{name} is not known: the host's resolver does not answer")


def _family(address: str) -> Family | None:
    try:
        return Family.AF_INET6 if ipaddress.ip_address(address).version == 6 else Family.AF_INET
    except ValueError:
        return None
