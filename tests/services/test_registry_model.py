"""The login table, by a stateful model (RELAY §3, §4): up to six relay servers in any topology, whatever may happen to
them and to the lines between them. When the links heal all tables agree, no name has two owners, nothing that logged
out stays online, and nobody that is gone is resurrected.

The registry, routes, exchange, directory and memory are the product's; wires, clocks, timers and the disk are not
(`fakes.relay_sites`). Frames take two entries here, so that small tables are cut into slices.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from appliance.relay import registry
from fakes.relay_sites import Site, Wire, World

SITES = ("a", "b", "c", "d", "e", "f")
NAMES = ("pc1", "pc2", "pc3", "pc4", "pc5", "pc6", "pc7")
FINGERPRINTS = (b"1" * 32, b"2" * 32)
SERVICES = ((), ("ssh",), ("ssh", "http"))
REACH = 4
"""Links: a path has four names."""
SEED = int(os.environ.get("POSTHOUSE_SEED") or random.SystemRandom().randrange(1 << 32))


class Network(RuleBasedStateMachine):
    world: World

    @initialize(data=st.data(), n=st.integers(2, 6))
    def build(self, data: Any, n: int) -> None:
        sites = SITES[:n]
        edges = {(data.draw(st.sampled_from(sites[:i])), sites[i]) for i in range(1, n)}  # a tree, and more
        pairs = [(a, b) for i, a in enumerate(sites) for b in sites[i + 1 :]]
        edges |= set(data.draw(st.lists(st.sampled_from(pairs), max_size=4)))
        self.world = World(sorted(edges), NAMES)
        for a, b in self.world.edges:
            if data.draw(st.booleans()):
                self.world.connect(a, b, slow=data.draw(st.booleans()))

    # ---- choosing
    def site(self, n: int) -> Site:
        sites = list(self.world.sites.values())
        return sites[n % len(sites)]

    def wire(self, n: int) -> Wire | None:
        wires = self.world.live()
        return wires[n % len(wires)] if wires else None

    # ---- terminals
    @rule(
        n=st.integers(0, 5),
        name=st.sampled_from(NAMES),
        who=st.sampled_from(FINGERPRINTS),
        what=st.sampled_from(SERVICES),
    )
    def login(self, n: int, name: str, who: bytes, what: tuple[str, ...]) -> None:
        self.site(n).login(name, who, what)

    @rule(n=st.integers(0, 5))
    def all_log_in(self, n: int) -> None:
        for name in NAMES:
            self.site(n).login(name, FINGERPRINTS[0], ())

    @rule(n=st.integers(0, 5), name=st.sampled_from(NAMES), said=st.booleans())
    def logout(self, n: int, name: str, said: bool) -> None:
        if name in self.site(n).online:
            self.site(n).logout(name, said=said)

    # ---- lines
    @rule(n=st.integers(0, 20), turned=st.booleans(), slow=st.booleans())
    def connect(self, n: int, turned: bool, slow: bool) -> None:
        """Also where there is a link already."""
        a, b = self.world.edges[n % len(self.world.edges)]
        self.world.connect(*((b, a) if turned else (a, b)), slow=slow)

    @rule(n=st.integers(0, 20), frames=st.integers(1, 6))
    def deliver(self, n: int, frames: int) -> None:
        if wire := self.wire(n):
            wire.deliver(frames)

    @rule(n=st.integers(0, 20))
    def deliver_all(self, n: int) -> None:
        if wire := self.wire(n):
            wire.deliver(200)

    @rule(n=st.integers(0, 20), end=st.integers(0, 1), which=st.integers(0, 7))
    def repeat(self, n: int, end: int, which: int) -> None:
        """An update or an ack arrives once more, behind others."""
        if (wire := self.wire(n)) and (taken := wire.ends[end].taken):
            wire.ends[end].take(taken[which % len(taken)])

    @rule(n=st.integers(0, 20), end=st.integers(0, 1))
    def reorder(self, n: int, end: int) -> None:
        if (wire := self.wire(n)) and (first := wire.ends[end].next()) is not None:
            second = wire.ends[end].next() if first[0] in ("update", "ack") else None
            if second is not None and second[0] in ("update", "ack"):
                wire.ends[end].take(second)
            wire.ends[end].take(first)
            if second is not None and second[0] not in ("update", "ack"):
                wire.ends[end].take(second)

    @rule(n=st.integers(0, 20), both=st.booleans(), end=st.integers(0, 1))
    def cut(self, n: int, both: bool, end: int) -> None:
        if wire := self.wire(n):
            wire.cut(both=both, first=end)

    @rule(n=st.integers(0, 20), back_in=st.none() | st.sampled_from([0.0, 7200.0]))
    def leave(self, n: int, back_in: float | None) -> None:
        if (wire := self.wire(n)) and wire.whole:
            wire.ends[0].leave("call-over", back_in)

    # ---- sites
    @rule(n=st.integers(0, 5))
    def settle(self, n: int) -> None:
        self.site(n).settle()

    @rule(n=st.integers(0, 5), crash=st.booleans())
    def restart(self, n: int, crash: bool) -> None:
        self.site(n).restart(crash=crash)

    @rule(n=st.integers(0, 5))
    def lose_state(self, n: int) -> None:
        self.site(n).restart(lost=True)

    @rule(n=st.integers(0, 5), days=st.sampled_from([-20000, -400, -1, 1, 400]))
    def jump(self, n: int, days: int) -> None:
        clock = self.site(n).clock
        clock.set_wall(max(0.0, clock.now().wall + days * 86400))

    @rule(n=st.integers(0, 5))
    def tidy(self, n: int) -> None:
        self.site(n).tidy()

    @rule(seconds=st.sampled_from([1.0, 70.0, 4000.0, 8 * 86400.0]))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    # ---- what must hold
    @precondition(lambda self: self.world.live())
    @rule()
    def heal(self) -> None:
        self.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.check()

    def check(self) -> None:
        world = self.world
        world.heal()
        assert not world.errors, world.errors
        for site in world.sites.values():
            reach = [owner for owner, links in world.distances(site.name).items() if links <= REACH]
            for owner in reach:
                assert owner in site.memory.registry.slices, (site.name, owner, site.peers.routes.neighbours)
                own, here = world.sites[owner].memory.registry.own, site.memory.registry.slices[owner]
                assert (here.epoch, here.seq, here.run) == (own.epoch, own.seq, None), (site.name, owner)
                assert site.table(owner) == world.sites[owner].table(owner), (site.name, owner)
            for name in NAMES:
                self.check_name(site, name, reach)

    def check_name(self, site: Site, name: str, reach: list[str]) -> None:
        owners = [o for o in reach if name in (self.world.sites[o].table(o) or {})]
        if name in (site.table(site.name) or {}):
            assert owners == [site.name], f"{name} has the owners {owners}"
        standing = site.directory.standing(name)
        assert (standing is None) == (not owners), (site.name, name, standing, owners, reach)
        row = site.directory.row(name)
        if standing is None or row is None:
            assert row is None
            return
        there = self.world.sites[standing[0]].online.get(name)
        assert (row["presence"] == "online") == (there == standing[1].counter), (name, row, there)


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch, expected_errors: list[str]) -> None:
    monkeypatch.setattr(registry, "FRAME_ENTRIES", 2)
    expected_errors.append("another relay server called")


def explore(examples: int, steps: int) -> None:
    """Who has the seed of a failure may wait for the smallest example of it."""
    phases = [Phase.generate, *([Phase.shrink] if "POSTHOUSE_SEED" in os.environ else [])]
    print(f"POSTHOUSE_SEED={SEED}")
    rough = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None, print_blob=False, phases=phases,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(seed(SEED)(Network), settings=rough)


def test_tables_agree_when_links_heal() -> None:
    explore(200, 40)


@pytest.mark.long
def test_tables_agree_when_links_heal_in_many_more_worlds() -> None:
    explore(5000, 80)
