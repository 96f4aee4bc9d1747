"""Virtual machines as fixtures: booted once, saved, and loaded anew for each scenario, so that none sees another's traces.

    boot       what scripts/guest-root made, with this checkout in the initramfs
    saved      (machine, how to prepare it) -> a snapshot; each is made once a session
    machine    starts one from a snapshot; ended with the test, whatever happens
    telephone  the exchange and the two modems

Boards with the image: `boards`.

Every test here has a time budget (`@pytest.mark.seconds`), and one that fails shows the machines' consoles and logs.
"""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from . import provider as provider_machine
from . import site as site_machine
from .boards import image as image
from .boards import start as start
from .boards import stick as stick
from .guest import Guest
from .machines import Snapshots, make_boot
from .qemu import Boot, Machine, running
from .telephone import Telephone

SCENARIO_S = 300
"""A test's budget where it names none. A scenario takes 10 to 40 s on an idle machine."""

_witnesses: list[tuple[str, Callable[[], str]]] = []
"""What a failed test shows beside the consoles: (title, a function that gets the text)."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: Any = yield
    if report.failed and report.when != "teardown":
        for machine in running():
            report.sections.append((f"console of {machine.name}", machine.console()))
        for title, tell in _witnesses:
            try:
                said = tell()
            except Exception as error:
                said = f"not to be had: {error}"
            report.sections.append((title, said))
    return report


@pytest.fixture
def witness() -> Iterator[Callable[[str, Callable[[], str]], None]]:
    """witness(title, tell): a failed test shows what tell() gives."""
    yield lambda title, tell: _witnesses.append((title, tell))
    _witnesses.clear()


@pytest.fixture(autouse=True)
def time_budget(request: pytest.FixtureRequest) -> Iterator[None]:
    """Ends a scenario that takes too long, wherever it hangs."""
    marker = request.node.get_closest_marker("seconds")
    seconds = marker.args[0] if marker else SCENARIO_S

    def over(*_: object) -> None:
        raise AssertionError(f"the scenario did not end within its {seconds} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Short, for unix sockets have at most 107 characters of path."""
    path = Path(tempfile.mkdtemp(prefix="ph-vm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def boot(folder: Path) -> Boot:
    return make_boot(folder)


@pytest.fixture(scope="session")
def snapshots(folder: Path, boot: Boot) -> Snapshots:
    return Snapshots(folder, boot)


Start = Callable[..., Guest]


@pytest.fixture
def machine(folder: Path, snapshots: Snapshots) -> Iterator[Start]:
    """machine(name, prepare, modem=…) -> a guest that goes on from where `prepare` left it, its clock set. `kind`: snapshots of
    machines of another kind."""
    started: list[Machine] = []

    def start(
        name: str, prepare: Callable[[Guest], None], *, modem: Path | None = None, kind: Snapshots = snapshots
    ) -> Guest:
        left = signal.alarm(
            0
        )  # a snapshot is the session's: it has deadlines of its own, and is not the scenario's time
        saved = kind.of(name, prepare)
        signal.alarm(left)
        one = Machine(name, folder / f"{name}.now", kind.boot, saved, modem)
        started.append(one)
        one.start()
        guest = Guest(one)
        guest.set_clock()
        return guest

    try:
        yield start
    finally:
        for one in started:
            one.end()
            shutil.rmtree(one.folder, ignore_errors=True)
        _witnesses.clear()


@pytest.fixture
def telephone(folder: Path) -> Iterator[Telephone]:
    with Telephone(folder) as network:
        _witnesses.append(("the site's modem", lambda: network.transcript))
        yield network


@pytest.fixture
def provider(machine: Start, telephone: Telephone) -> provider_machine.Provider:
    guest = machine("provider", provider_machine.prepare, modem=telephone.folder / "provider.modem")
    provider = provider_machine.Provider(guest)
    _witnesses.append(("the provider's logs", provider.logs))
    return provider


@pytest.fixture
def site(machine: Start, telephone: Telephone) -> site_machine.Site:
    """The site's machine, Posthouse not yet running."""
    site = site_machine.Site(machine("site", site_machine.prepare, modem=telephone.folder / "site.modem"))
    _witnesses.append(("Posthouse's journal", site.journal))
    return site
