"""The firewall of the appliance as one nftables table, and the program that loads it (nft(8)). `ruleset` is pure.

Theory of operation. Three kinds of devices: those of `[[interface]]` are the LAN; a call's device, a modem line's
`ppp` device or a line's own, is the line; all others are strangers. The default is to drop.

    from       to the host                                         to the line
    LAN        mail, relay, DHCP, DNS, ssh, ping                   what `firewall.forward` lists, masqueraded
    line       answers; `relay.listen`                             -
    strangers  answers                                             nothing
    the host   -                                                   Posthouse's and chrony's users; answers

The line is open while a call is up alone: its device is then an element of the set `open`. Between calls a device that
is up by itself carries nothing either way. What belongs to a connection that was allowed passes in both directions,
with the ICMP errors about it: path MTU discovery works (RFC 4890 §4.3.1). Neighbour discovery and router advertisements
pass on links, with the hop limit that proves them local (RFC 4861 §7.1).

The table is loaded in one transaction, whole or not at all, after a trial by `nft --check`; other tables of the host
are not touched.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from appliance import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["TABLE", "Nft", "Rules", "ruleset"]

TABLE: Final = "inet posthouse"
SBIN: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
NFT_S: Final = 10.0
"""One run of nft; it takes some 20 ms."""
SAID_LIMIT: Final = 2000
SSH, DNS = 22, 53
DHCP_SERVER, DHCP_CLIENT = 67, 68
REFUSE: Final = "reject with icmpx type admin-prohibited"
"""On our own side of the line: who may not is told at once. From the line nobody is told anything."""


@dataclass(frozen=True, slots=True)
class Rules:
    """`lan`: devices of interfaces, but for lines' own, which are no LAN; `leased`: those of lines that have their
    address by DHCP from us, and must renew it without a call too; `lines`: those that may be a call's, `*` at the end
    for any number; `mail`, `relay`: TCP ports; `forward`: as configured; `users`: the numbers of those that may send on
    the line."""

    lan: tuple[str, ...]
    lines: tuple[str, ...]
    mail: tuple[int, ...]
    relay: tuple[int, ...]
    forward: tuple[str, ...]
    users: tuple[int, ...]
    leased: tuple[str, ...] = ()


def ruleset(rules: Rules) -> str:
    """What `nft -f` reads: the table replaced by this one. `open` is empty in it."""
    lan, lines, leased = _names(rules.lan), _names(rules.lines), _names(rules.leased)
    services = sorted({SSH, DNS, *rules.mail, *rules.relay})
    out = [
        f"table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        "\tset open {",
        "\t\ttype ifname",
        "\t}",
        "",
        *_chain("input", "type filter hook input priority filter; policy drop;", [
            'iifname "lo" accept',
            *_if(lines, f"iifname {lines} jump from_line"),
            *_if(lan, f"iifname {lan} jump from_lan"),
            "ct state established,related accept",
            *_NEIGHBOURS,
        ]),
        *_chain("from_line", "", [
            *_if(leased, f"iifname {leased} udp sport {DHCP_SERVER} udp dport {DHCP_CLIENT} accept"),
            "iifname != @open drop",
            "ct state established,related accept",
            *_NEIGHBOURS,
            *_if(rules.relay, f"tcp dport {_set(rules.relay)} ct state new accept"),
            "drop",
        ]),
        *_chain("from_lan", "", [
            "ct state established,related accept",
            *_NEIGHBOURS,
            "icmp type echo-request accept",
            "icmpv6 type echo-request accept",
            f"udp dport {{ {DNS}, {DHCP_SERVER}, {DHCP_CLIENT} }} accept",
            f"tcp dport {_set(services)} ct state new accept",
            REFUSE,
        ]),
        *_chain("forward", "type filter hook forward priority filter; policy drop;", [
            "tcp flags syn tcp option maxseg size set rt mtu",
            *_if(lan, f"iifname {lan} oifname {lan} accept"),
            "iifname @open ct state established,related accept",
            "oifname @open ct state established,related accept",
            *(_forward(text, lan) for text in rules.forward if lan),
            *_if(lan, f"iifname {lan} {REFUSE}"),
        ]),
        *_chain("output", "type filter hook output priority filter; policy accept;", [
            *_if(lines, f"oifname {lines} jump to_line"),
        ]),
        *_chain("to_line", "", [
            *_if(leased, f"oifname {leased} udp sport {DHCP_CLIENT} udp dport {DHCP_SERVER} accept"),
            f"oifname != @open {REFUSE}",
            "ct state established,related accept",
            *_NEIGHBOURS,
            *_if(rules.users, f"meta skuid {_set(rules.users)} accept"),
            REFUSE,
        ]),
        *_chain("postrouting", "type nat hook postrouting priority srcnat;", [
            *(_if(lan, f"iifname {lan} oifname @open masquerade") if rules.forward else ()),
        ]),
        "}",
        "",
    ]  # fmt: skip
    return "\n".join(out)


_NEIGHBOURS: Final = (
    "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } "
    "ip6 hoplimit 255 accept",
)


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    return [f"\tchain {name} {{", *(f"\t\t{line}" for line in (hook, *rules) if line), "\t}", ""]


def _if(wanted: object, *rules: str) -> tuple[str, ...]:
    return rules if wanted else ()


def _names(devices: Sequence[str]) -> str:
    return "{ " + ", ".join(f'"{d}"' for d in dict.fromkeys(devices)) + " }" if devices else ""


def _set(numbers: Sequence[int]) -> str:
    return "{ " + ", ".join(str(n) for n in dict.fromkeys(numbers)) + " }"


def _forward(text: str, lan: str) -> str:
    network, protocol, port = text.split()
    family = "ip6" if ipaddress.ip_network(network).version == 6 else "ip"
    return f"iifname {lan} oifname @open {family} saddr {network} {protocol} dport {port} ct state new accept"


class Nft:
    """The program. Every method raises OSError with what it said, and is bounded in time."""

    def __init__(self, program: str = "") -> None:
        self._program = program or shutil.which("nft", path=SBIN) or "nft"

    async def load(self, text: str) -> None:
        """Tries the text, then loads it: all of it or nothing."""
        await self._run("--check", "--file", "-", text=text)
        await self._run("--file", "-", text=text)

    async def listed(self) -> str:
        """The table as the kernel has it, without what its sets hold; "" where there is none."""
        try:
            return await self._run("--stateless", "--terse", "list", "table", *TABLE.split())
        except OSError:
            return ""

    async def remove(self) -> None:
        """No table of ours is there."""
        await self._run("--file", "-", text=f"table {TABLE}\ndelete table {TABLE}\n")

    async def set_open(self, device: str) -> None:
        """This device is the line's, and no other; "" for none."""
        lines = [f"flush set {TABLE} open", *([f'add element {TABLE} open {{ "{device}" }}'] if device else [])]
        await self._run("--file", "-", text="\n".join(lines) + "\n")

    async def _run(self, *arguments: str, text: str = "") -> str:
        try:
            with trio.fail_after(NFT_S):
                done = await trio.run_process(
                    [self._program, *arguments], stdin=text.encode(), capture_stdout=True, stderr=subprocess.STDOUT,
                    check=False,
                )  # fmt: skip
        except trio.TooSlowError:
            raise TimeoutError(f"nft did not end within {NFT_S:g} s") from None
        said = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            first = next(iter(said.strip().splitlines()), "it did not say why")
            raise OSError(f"nft: {events.clean(first, SAID_LIMIT)}")
        return said
