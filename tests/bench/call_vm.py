"""A call's time and bytes by PPP, between two virtual machines (tests/image): 33,600 bit/s between their modems, Debian's
pppd, Postfix and Dovecot at the other end.

The modem's own time ends with CONNECT, which is the exchange's. Bytes of mail are seen by tcpdump at the provider, on
whose network they are the first and the last with a payload to or from a mail server; its clock is compared with ours
before and after. On-hook is the exchange's end of the call. What PPP costs in bytes is what the modems carried less what
the ledger has, which is the interface's count; the mail's bytes alone are tcpdump's payloads.
"""

from __future__ import annotations

import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.image import provider as provider_machine
from tests.image import site as site_machine
from tests.image.guest import Guest
from tests.image.machines import Snapshots, make_boot
from tests.image.provider import Provider
from tests.image.qemu import Machine
from tests.image.site import Site
from tests.image.telephone import Telephone

GUARD_S = 0.4
"""The guard time of the laboratory's modem there; +++ has one before it and one behind."""
LINGER_S = 1.0
GOAL_S = 1.0
DUMP = "/var/log/mail.dump"
SIZE = 3000


def message(n: int) -> bytes:
    line = b"The harbour is calm, the ferry leaves at ten as always.\r\n"
    head = f"From: hanako@harbour.example\r\nTo: a@far.example\r\nSubject: {n}\r\nMessage-ID: <{n}@harbour.example>\r\n\r\n"
    return head.encode() + line * (SIZE // len(line))


@contextmanager
def machines() -> Iterator[tuple[Site, Provider, Telephone]]:
    with tempfile.TemporaryDirectory(prefix="ph-vm-") as name, Telephone(Path(name)) as telephone:
        folder = Path(name)
        snapshots = Snapshots(folder, make_boot(folder))
        saved = {
            "provider": snapshots.of("provider", provider_machine.prepare),
            "site": snapshots.of("site", site_machine.prepare),
        }
        running: list[Machine] = []
        guests: dict[str, Guest] = {}
        try:
            for role, snapshot in saved.items():
                running.append(
                    Machine(role, folder / f"{role}.now", snapshots.boot, snapshot, folder / f"{role}.modem")
                )
                running[-1].start()
                guests[role] = Guest(running[-1])
                guests[role].set_clock()
            yield Site(guests["site"]), Provider(guests["provider"]), telephone
        finally:
            for machine in running:
                machine.end()


def bench(rounds: int) -> None:
    print(f"bearer ppp, two virtual machines, 33600 bit/s, {rounds} calls; seconds: median (longest)", flush=True)
    with machines() as (site, provider, telephone):
        site.config["schedule"]["linger"] = f"{LINGER_S:g}s"
        site.start()
        provider.guest.daemon(
            "tcpdump", "-i", "any", "-n", "-tt", "-l", "-q", "tcp port 25 or tcp port 110", log=DUMP
        )  # fmt: skip
        begins, ends, overhead, kinds = [], [], [], []
        for n in range(rounds):
            provider.deliver("hanako", message(n))
            site.send("somebody@world.example", message(1000 + n))
            since = len(provider.guest.get(DUMP))
            call = site.dial()
            assert (call["outcome"], call["sent"], call["fetched"]) == ("complete", 1, 1), call
            record = telephone.records[-1]
            assert record.connected is not None and record.ended is not None
            ahead = _clock(provider.guest)
            seen = payloads(provider.guest.get(DUMP)[since:].decode())
            begins.append(seen[0][0] - ahead - record.connected)
            ends.append(record.ended - (seen[-1][0] - ahead) - LINGER_S - 2 * GUARD_S)
            wire, counted = record.bytes_in + record.bytes_out, call["bytes_in"] + call["bytes_out"]
            overhead.append(wire - counted)
            kinds.append((wire, counted, sum(size for _, size in seen)))
            provider.wait_free()
        _seconds("CONNECT to the first byte of mail", begins)
        _seconds("last byte of mail to on-hook, beyond linger and two guard times", ends, GOAL_S)
        print(f"  PPP's overhead per call: {statistics.median(overhead):.0f} bytes (most: {max(overhead)}), both ways")
        for wire, counted, mail in kinds:
            print(f"    on the wire {wire}, of the interface {counted}, of mail sessions {mail}", flush=True)

        site.send("somebody@world.example", message(2000))
        site.dial_nowait()
        telephone.wait_carried(1500)
        began = time.monotonic()
        telephone.deaden()
        while telephone.network.site.modem.off_hook:
            assert time.monotonic() < began + 120, "the dead far end is not noticed"
            time.sleep(0.02)
        _seconds("a far end that is dead without a carrier's end, until on-hook", [time.monotonic() - began])
        assert site.wait_call_over()["outcome"] == "carrier-lost"


def payloads(dump: str) -> list[tuple[float, int]]:
    """(time, bytes) of each segment that carries any; tcpdump shows one of `any` once a device: ours is `ppp`."""
    found = re.findall(r"^(\d+\.\d+) ppp\S* +\S+ +IP \S+ > \S+ tcp (\d+)$", dump, re.M)
    return [(float(at), int(size)) for at, size in found if int(size)]


def _clock(guest: Guest) -> float:
    """How far a machine's clock is ahead of ours, to within half of what the question takes."""
    before = time.time()
    theirs = float(guest.sh("date +%s.%N"))
    return theirs - (before + time.time()) / 2


def _seconds(what: str, figures: list[float], goal: float | None = None) -> None:
    at_most = f"; goal {goal:g}" if goal is not None else ""
    print(f"  {what}: {statistics.median(figures):.3f} ({max(figures):.3f}){at_most}", flush=True)
