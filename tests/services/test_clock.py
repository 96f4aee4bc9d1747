"""Whether the wall clock is trusted, where it starts while it is not, and who is believed about it."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from appliance import clock
from appliance.clock import DOUBT_S, HostClock, Seen, SystemClock, build_time
from fakes.host_clock import FakeHost

BUILT = 1_760_000_000.0
SEEN = BUILT + 1_000_000
LATER = SEEN + 50_000
DAY = 86400.0


@pytest.fixture(params=[False, True], ids=["settable", "not-settable"])
def refuses(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def begun(host: FakeHost, seen: Seen | None = None) -> SystemClock:
    it = SystemClock(built=BUILT, host=host)
    it.begin(seen or Seen(SEEN))
    return it


@pytest.mark.parametrize(
    ("host", "seen", "trusted", "starts"),
    [
        (LATER, SEEN, True, LATER),
        (LATER, 0.0, True, LATER),  # the first start ever
        (SEEN, SEEN, True, SEEN),
        (SEEN - 1, SEEN, False, SEEN),
        (0.0, SEEN, False, SEEN),  # a board without a battery
        (BUILT + 5, 0.0, True, BUILT + 5),
        (BUILT - 5, 0.0, False, BUILT),
        (BUILT - 5, BUILT - 50, False, BUILT),  # last used with an older version
    ],
)
def test_at_the_start(refuses: bool, host: float, seen: float, trusted: bool, starts: float) -> None:
    it = begun(FakeHost(host, refuses=refuses), Seen(seen))
    assert (it.trusted, it.now().wall) == (trusted, starts)


def test_a_guess_goes_on_and_stays_one(refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
    host = FakeHost(0.0, refuses=refuses)
    it = begun(host)
    host.advance(3 * DAY)
    assert (it.trusted, it.now().wall, it.now().boot) == (False, SEEN + 3 * DAY, 20 + 3 * DAY)
    assert host.wall() == (3 * DAY if refuses else SEEN + 3 * DAY)
    assert ("can't be set (Operation not permitted)" in caplog.text) == refuses


@pytest.mark.parametrize("boot_id", ["this", "next"])
def test_a_guess_is_one_over_a_restart_in_the_same_boot(refuses: bool, boot_id: str) -> None:
    host = FakeHost(0.0, refuses=refuses)
    it = begun(host)
    host.advance(100)
    kept = Seen.parse(it.seen().as_bytes())
    host.advance(100)
    if boot_id == "next":  # with a battery after all: the clock went on
        host = FakeHost(LATER, boot=5, boot_id="next", refuses=refuses)
    again = begun(host, kept)
    assert again.trusted == (boot_id == "next")
    assert again.now().wall >= kept.wall


def test_set_while_no_process_ran(refuses: bool) -> None:
    host = FakeHost(0.0, refuses=refuses)
    kept = begun(host).seen()
    host.step(LATER)
    again = begun(host, kept)
    assert (again.trusted, again.now().wall) == (True, LATER)


@pytest.mark.parametrize(
    ("before", "word", "trusted", "after"),
    [
        (0.0, LATER, True, LATER),
        (0.0, SEEN - DAY, True, SEEN - DAY),  # the last time seen was of a clock that was ahead
        (0.0, BUILT - 1, False, SEEN),  # nobody is believed that
        (0.0, SEEN + 1, True, SEEN),  # as good as right: no step
        (LATER, LATER + 7200, True, LATER),  # a network with the wrong zone
        (LATER, LATER - 7200, True, LATER),
        (LATER, LATER - DOUBT_S, True, LATER - DOUBT_S),
        (LATER + 4000 * DAY, LATER, True, LATER),  # a battery clock that is years ahead
    ],
)
def test_the_networks_word(refuses: bool, before: float, word: float, trusted: bool, after: float) -> None:
    it = begun(FakeHost(before, refuses=refuses))
    it.told(word, "the network of gsm")
    assert (it.trusted, it.now().wall) == (trusted, after)


def test_the_networks_word_is_good_for_the_next_start(refuses: bool) -> None:
    """What a clock in the future had left is forgotten."""
    host = FakeHost(0.0, refuses=refuses)
    it = begun(host, Seen(SEEN + 4000 * DAY))
    it.told(LATER, "the network of gsm")
    host.advance(10)
    assert it.seen() == Seen(LATER + 10, "this")
    assert begun(FakeHost(LATER + 20, boot=0, boot_id="next"), it.seen()).trusted


def test_chronys_word(refuses: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host = FakeHost(0.0, refuses=refuses)
    it = begun(host)
    host.step(LATER)  # makestep
    it.confirmed("chrony")
    assert (it.trusted, it.now().wall) == (True, LATER)
    it.confirmed("chrony")
    assert len([r for r in caplog.records if "is trusted" in r.message]) == 1


def test_chrony_confirms_a_guess_that_was_right(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    it = begun(FakeHost(SEEN - 1))
    it.confirmed("chrony")
    assert it.trusted and "the clock is trusted: chrony" in caplog.text


def test_a_host_that_is_right_takes_the_place_of_our_own_offset() -> None:
    """The network's word was 10 s off; the host's clock could not be set by us, chrony sets it."""
    host = FakeHost(0.0, refuses=True)
    it = begun(host)
    it.told(LATER, "the network of gsm")
    host.advance(60)
    host.step(LATER + 70)
    assert (it.trusted, it.now().wall) == (True, LATER + 70)


@pytest.mark.parametrize(
    ("start", "step", "trusted"),
    [
        (0.0, LATER, True),
        (0.0, SEEN - DAY, True),
        (0.0, BUILT - 1, False),
        (LATER, SEEN - DAY, True),  # a clock that was ahead is set back
        (LATER, 0.0, False),
    ],
)
def test_somebody_sets_the_hosts_clock(start: float, step: float, trusted: bool) -> None:
    host = FakeHost(start)
    it = begun(host)
    host.advance(30)
    host.step(step)
    assert (it.trusted, it.now().wall) == (trusted, step)


def test_steps_are_in_the_journal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    host = FakeHost(0.0)
    it = begun(host)
    host.advance(10)
    it.told(LATER, "the network of gsm")
    assert [r.message for r in caplog.records] == [
        "the clock went from 1970-01-01T00:00:00.000Z to 2025-10-20T22:40:00.000Z: the last time seen",
        "the clock went from 2025-10-20T22:40:10.000Z to 2025-10-21T12:33:20.000Z: the network of gsm",
        "the clock is trusted: the network of gsm",
    ]


@pytest.mark.parametrize(
    "damaged", [b"", b"{}", b"[]", b"null", b'{"seen": "x", "boot_id": "", "guess": null}', b"\xff"]
)
def test_a_damaged_record(damaged: bytes) -> None:
    with pytest.raises(ValueError):
        Seen.parse(damaged)


def test_the_build_is_the_time_of_the_packages_own_file() -> None:
    package = Path(clock.__file__).with_name("__init__.py")
    assert build_time() == package.stat().st_mtime > 0


def test_the_hosts_own_clocks() -> None:
    host = HostClock()
    shown = float(subprocess.run(["date", "+%s.%N"], capture_output=True, check=True, timeout=10).stdout)
    assert abs(host.wall() - shown) < 5
    assert host.boot() > 0 and len(host.boot_id) == 36
    it = SystemClock()
    it.begin(Seen(0.0))
    assert it.trusted


def test_the_hosts_clock_is_left_alone_unless_it_is_ours() -> None:
    """Also where root runs it: a state folder from elsewhere sets nobody's clock."""
    before = time.time()
    with pytest.raises(PermissionError):
        HostClock().set_wall(before + 1000)
    it = SystemClock()
    it.begin(Seen(before + 1000))
    assert not it.trusted and it.now().wall >= before + 1000
    assert time.time() < before + 500
