"""The relay server against HAProxy, nginx's stream module, socat and Syncthing's relay server, with direct loopback as the
limit; everything in one run, each round all of them in turn, the median of the rounds.

What is measured is the relay server alone: circuits carry plain bytes here, the terminals' seal is theirs. Every program
has one thread. On a machine with few processors sender, receiver and relay servers share them: read the ratios.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config import passwords
from tests.bench import relay_load as load
from tests.bench import relay_memory, relay_table
from tests.bench import relay_rivals as rivals
from tests.fakes.relay_client import Key
from tests.interop.product import PASSWORD
from tests.interop.providers import private_folder
from tests.interop.relay_world import RelaySite

STREAM_S = 2.0
SETUP_S = 1.0
FORGOTTEN = 8000
"""Connections in TIME_WAIT that may be left of the one measured before."""
TRIPS = 4000
AT_ONCE = 48
"""Connections or circuits that are being made at the same time."""
PINGS_S = 10.0
PARTS = ("throughput", "trip", "setup", "memory", "table")


def bench(rounds: int, only: str = "") -> None:
    if lacking := rivals.lacking():
        raise SystemExit(f"scripts/bench relay compares with programs that are not installed; as root: {lacking}")
    load1 = os.getloadavg()[0]
    print(f"{os.cpu_count()} processors, load before {load1:.1f}; the median of {rounds}", flush=True)
    with private_folder("bench") as folder:
        wanted = [only] if only else list(PARTS)
        if {"throughput", "trip", "setup"} & set(wanted):
            with _routes(folder) as routes:
                if "throughput" in wanted:
                    _throughput(routes, rounds)
                if "trip" in wanted:
                    _trips(routes, rounds)
                if "setup" in wanted:
                    _setup(routes, rounds)
        if "memory" in wanted:
            relay_memory.bench(folder, lambda root, name, terminals: site(root, name, terminals, {}))
        if "table" in wanted:
            relay_table.bench(folder)


# ---- ways from here to here
@dataclass
class Route:
    """`pair` connects one stream; `pids` are the programs between; `rate` makes connections and gives how many a second
    there were, None where it is not compared."""

    name: str
    pair: Callable[[], load.Pair]
    pids: Callable[[], list[int]]
    rate: Callable[[], float] | None = None
    streams: tuple[int, ...] = (1, 100)
    figures: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def note(self, what: str, n: int, value: float) -> None:
        self.figures.setdefault((what, n), []).append(value)

    def of(self, what: str, n: int = 0) -> float:
        return statistics.median(self.figures[what, n])


@contextlib.contextmanager
def _routes(folder: Path) -> Iterator[list[Route]]:
    sink = load.Sink()
    with contextlib.ExitStack() as stack:
        out = [Route("direct", lambda: sink.pair(("127.0.0.1", sink.port)), list)]

        def rival(name: str, make: Callable[[int], tuple[list[str], int]], hops: int, *, rate: bool = False) -> None:
            to, pids = sink.port, []
            for _ in range(hops):
                argv, to = make(to)
                pids.append(stack.enter_context(rivals.child(argv, to, folder)))
            at = ("127.0.0.1", to)
            out.append(
                Route(
                    name,
                    lambda: sink.pair(at),
                    lambda: [p for pid in pids for p in load.below(pid)],
                    (lambda: load.plain_connections(at, sink, SETUP_S, AT_ONCE)) if rate else None,
                )
            )

        rival("HAProxy", lambda to: rivals.haproxy(folder, to, splice=False), 1, rate=True)
        rival("HAProxy, splice", lambda to: rivals.haproxy(folder, to, splice=True), 1)
        rival("nginx stream", lambda to: rivals.nginx(folder, to), 1, rate=True)
        rival("socat", lambda to: rivals.socat(folder, to), 1)
        out.append(_posthouse(stack, folder, 1))
        rival("2 HAProxy", lambda to: rivals.haproxy(folder, to, splice=False), 2)
        rival("2 HAProxy, splice", lambda to: rivals.haproxy(folder, to, splice=True), 2)
        rival("2 nginx stream", lambda to: rivals.nginx(folder, to), 2)
        out.append(_posthouse(stack, folder, 2))
        yield out
    sink.sock.close()


def cheap_hash(password: str) -> str:
    """As `posthouse passwd`, but checked in no time."""
    stored = passwords._Stored(1, 1, 1, b"bench", "")
    key = passwords._derive(password.encode(), stored)
    number = passwords._encode_number
    return f"$7${passwords._DIGITS[1]}{number(1, 5)}{number(1, 5)}bench${key}"


def site(folder: Path, name: str, terminals: tuple[str, ...], peers: dict[str, RelaySite | str | None]) -> RelaySite:
    made = RelaySite(folder / name, name, peers=peers)
    hashed = cheap_hash(PASSWORD)
    made.config["relay"]["account"] = [
        {"name": t, "password": hashed, "may_call": ["*"], "callers": ["*"]} for t in terminals
    ]
    made.start()
    return made


def _posthouse(stack: contextlib.ExitStack, folder: Path, servers: int) -> Route:
    callers, callees = (tuple(f"{who}{i}" for i in range(8)) for who in ("caller", "callee"))
    root = folder / f"posthouse{servers}"
    if servers == 1:
        a = b = site(root, "a", callers + callees, {})
        stack.callback(a.stop)
    else:
        b = site(root, "b", callees, {"a": None})
        stack.callback(b.stop)
        a = site(root, "a", callers, {"b": b})
        stack.callback(a.stop)
    keys = [Key("bench"), Key("bench")]
    near = [load.Terminal(a.at, name, keys[0], PASSWORD) for name in callers]
    far = [load.Terminal(b.at, name, keys[1], PASSWORD, ("raw",)) for name in callees]
    stack.callback(lambda: [t.close() for t in (*near, *far)])
    relay_table.wait_online(near[0], callees)
    pairs = list(zip(near, far, strict=True))
    quiet = threading.Lock()  # nobody but one uses the control connections

    def pair() -> load.Pair:
        with quiet:
            one = pairs.pop(0)
            pairs.append(one)
            return load.circuit(*one, "raw")

    def rate() -> float:
        with quiet:
            return load.circuits(pairs, SETUP_S, AT_ONCE // len(pairs))

    over = threading.Event()

    def answer_pings() -> None:
        """The other routes have their turn for longer than the relay server waits for a word."""
        while not over.wait(PINGS_S):
            with quiet:
                for terminal in (*near, *far):
                    terminal.answer_pings()

    answering = threading.Thread(target=answer_pings, daemon=True)
    answering.start()
    stack.callback(answering.join)  # before the terminals are closed, and behind its being told
    stack.callback(over.set)

    def pids() -> list[int]:
        return [s.process.pid for s in {id(s): s for s in (a, b)}.values() if s.process is not None]

    name = "Posthouse" if servers == 1 else "2 Posthouse"
    return Route(name, pair, pids, rate)


# ---- figures
def _throughput(routes: list[Route], rounds: int) -> None:
    for _ in range(rounds):
        for route in routes:
            for n in route.streams:
                pairs = [route.pair() for _ in range(n)]
                before = load.cpu_s(route.pids())
                total, seconds = load.stream(pairs, STREAM_S)
                route.note("MB/s", n, total / seconds / 1e6)
                route.note("CPU", n, (load.cpu_s(route.pids()) - before) / (total / 1e9))
    print("\nthroughput, and CPU seconds of all programs between for each GB", flush=True)
    print(f"{'':20}{'1: MB/s':>10}{'CPU s/GB':>10}{'100: MB/s':>11}{'CPU s/GB':>10}")
    for route in routes:
        figures = [route.of(what, n) for n in (1, 100) for what in ("MB/s", "CPU")]
        print("{:20}{:>10.0f}{:>10.3f}{:>11.0f}{:>10.3f}".format(route.name, *figures), flush=True)
    print("goal: ahead of HAProxy with splice at 1 and at 100, in both")


def _trips(routes: list[Route], rounds: int) -> None:
    for _ in range(rounds):
        for route in routes:
            p50, p99 = load.round_trips(route.pair(), TRIPS)
            route.note("p50", 0, p50)
            route.note("p99", 0, p99)
    direct = routes[0]
    print(f"\nround trip added to direct loopback's (p50 {direct.of('p50'):.0f}, p99 {direct.of('p99'):.0f}), µs")
    for route in routes[1:]:
        print(f"{route.name:20}{route.of('p50') - direct.of('p50'):>10.0f}{route.of('p99') - direct.of('p99'):>10.0f}")
    print("goal: no more than HAProxy's", flush=True)


def _setup(routes: list[Route], rounds: int) -> None:
    for _ in range(rounds):
        for route in routes:
            if route.rate is not None:
                load.wait_forgotten(FORGOTTEN)
                before, begun = load.cpu_s(route.pids()), time.monotonic()
                rate = route.rate()
                spent = load.cpu_s(route.pids()) - before
                route.note("rate", 0, rate)
                route.note("per CPU", 0, rate * (time.monotonic() - begun) / max(spent, 0.01))
    print(f"\nset up: connections or circuits a second with {AT_ONCE} under way, and per second of the programs' CPU")
    by_name = {route.name: route for route in routes if route.rate is not None}
    for route in by_name.values():
        rate, per_cpu = route.of("rate"), route.of("per CPU")
        of = by_name["HAProxy"]
        ratios = f"{rate / of.of('rate'):.2f} and {per_cpu / of.of('per CPU'):.2f} of HAProxy's"
        print(f"{route.name:20}{rate:>10.0f}{per_cpu:>10.0f}   {ratios}")
    print("goal: 0.6 of HAProxy's plain connections", flush=True)
