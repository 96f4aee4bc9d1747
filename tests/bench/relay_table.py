"""The login table: how soon a change is seen at a peer, and what a redial costs where little has changed. The peer here is
the bench, with a relay server's own frames."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench import relay_load as load
from tests.fakes.relay_client import Key
from tests.interop.product import PASSWORD
from tests.interop.relay_world import RelaySite

CHANGES = 100
ENTRIES, CHANGED = 10_000, 100
FRAME_ENTRIES = 500
TOLD_S = 60.0
GOAL_MS, GOAL_KB = 15, 8
PEERS = ("x", "y")


def wait_online(terminal: load.Terminal, names: tuple[str, ...]) -> None:
    """Until all of these are in the table that this terminal sees."""
    online: set[str] = set()
    until = time.monotonic() + TOLD_S
    while not online >= set(names):
        if time.monotonic() > until:
            raise TimeoutError(f"not online: {set(names) - online}")
        terminal.send("list")
        last = False
        while not last:
            kind, body = terminal.next()
            if kind == "table":
                online |= {e["name"] for e in body["entries"] if e["presence"] == "online"}
                last = body["last"]
        time.sleep(0.02)


def bench(folder: Path) -> None:
    root = folder / "table"
    hub = RelaySite(root, "hub", terminals=("pc1",), peers=dict.fromkeys(PEERS))
    hub.start()
    try:
        _changes(hub)
        _redial(hub)
    finally:
        hub.stop()


def _secret(hub: RelaySite, peer: str) -> bytes:
    return bytes.fromhex(hub.secrets[f"peer-{peer}"])


def _link(hub: RelaySite, peer: str, have: dict[str, list[int]]) -> load.PeerLink:
    return load.PeerLink(hub.at, peer, "hub", _secret(hub, peer), have)


def _changes(hub: RelaySite) -> None:
    """From the moment when a terminal has logged in or says `bye` until the peer has the entry."""
    link, key = _link(hub, "y", {}), Key("bench")
    load.Terminal(hub.at, "pc1", key, PASSWORD).close()
    times = []
    for i in range(CHANGES):
        terminal = load.Terminal(hub.at, "pc1", key, PASSWORD)
        if i % 2:
            begun = time.monotonic()  # `welcome` has just come
        else:
            _entry(link, 0)
            begun = time.monotonic()
            terminal.send("bye", reason="logout")
        _entry(link, 2 if i % 2 == 0 else 0)
        times.append(1000 * (time.monotonic() - begun))
        if i % 2:
            terminal.send("bye", reason="logout")
            _entry(link, 2)
        terminal.close()
    link.close()
    quick = sorted(times)[int(0.9 * len(times))]
    print(
        f"\na change is at a peer after: median {statistics.median(times):.1f} ms, nine of ten {quick:.1f} ms "
        f"(goal: median below {GOAL_MS})",
        flush=True,
    )


def _entry(link: load.PeerLink, presence: int) -> None:
    """Until pc1 is told with this presence."""
    while True:
        body = link.expect("update", "route", "have", "ack")
        if any(entry[0] == "pc1" and entry[3] == presence for entry in body.get("entries", ())):
            return


def _redial(hub: RelaySite) -> None:
    """x has 10,000 entries, y knows them; y is away while x changes one in a hundred, and comes again."""
    x = _link(hub, "x", {})
    _tell(x, 0, list(range(1, ENTRIES + 1)))
    y = _link(hub, "y", {})
    known = _until(y, ENTRIES)
    y.close()
    _tell(x, ENTRIES, list(range(ENTRIES + 1, ENTRIES + CHANGED + 1)))
    time.sleep(1)
    y = _link(hub, "y", known)
    y.bytes_in = y.bytes_out = 0
    known = _until(y, ENTRIES + CHANGED)
    y.send("ping")
    while y.next()[0] != "pong":
        pass
    kb = (y.bytes_in + y.bytes_out) / 1000
    print(
        f"a redial where {CHANGED} of {ENTRIES} entries have changed: {kb:.1f} KB of frames (goal: below {GOAL_KB})",
        flush=True,
    )
    y.close()
    x.close()


EPOCH = 1_800_000_000


def _tell(x: load.PeerLink, base: int, seqs: list[int]) -> None:
    """x's own entries in a full run, or changes of every hundredth of them behind `base`."""
    full = base == 0
    for at in range(0, len(seqs), FRAME_ENTRIES):
        part = seqs[at : at + FRAME_ENTRIES]
        entries: list[list[Any]] = [
            [f"pc{s}", s, 1_700_000_000_000 + s, 0, 0, [], bytes(32)]
            if full
            else [f"pc{(s - ENTRIES) * (ENTRIES // CHANGED)}", s, 1_700_000_000_000 + s, 2, 0]
            for s in part
        ]
        x.send("update", owner="x", epoch=EPOCH, base=base, seq=part[-1], last=part[-1] == seqs[-1], entries=entries)
        base = part[-1]


def _until(y: load.PeerLink, seq: int) -> dict[str, list[int]]:
    """-> what y has once it has x's entries up to that one."""
    have: dict[str, list[int]] = {}
    while have.get("x", [0, 0])[1] < seq:
        body = y.expect("update", "route", "have", "ack")
        if "entries" in body:
            have[body["owner"]] = [body["epoch"], body["seq"]]
    return have
