"""Password checks: names and addresses, what is remembered, the queue, and clients that guess."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from appliance.config.model import User
from appliance.config.passwords import hash_password, is_password_hash, verify_password
from appliance.mail.lan import logins as module
from appliance.mail.lan.logins import LoginBusy, Logins

HANAKO = User(name="hanako", password="stored-h", addresses=("Hanako@Harbour.example", "h@isp.example"))
TARO = User(name="taro", password="stored-t", addresses=("taro@harbour.example",))
NOBODY = User(name="locked")


class Verifier:
    """Stands for the hash: 'pw' fits 'stored-h', 'tp' 'stored-t'. Counts, and can be made to wait."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.go = threading.Event()
        self.go.set()
        self.running = self.most = 0

    def __call__(self, password: str, stored: str) -> bool:
        self.calls.append((password, stored))
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.wait(30)
        self.running -= 1
        return (password, stored) in (("pw", "stored-h"), ("tp", "stored-t"))


@pytest.fixture
def verifier() -> Verifier:
    return Verifier()


@pytest.fixture
def logins(verifier: Verifier) -> Logins:
    return Logins([HANAKO, TARO, NOBODY], verify=verifier)


@pytest.fixture
def check(logins: Logins) -> Callable:
    async def check(name: str, password: str, client: str = "192.168.77.20") -> User | None:
        return await logins.check(name, password, service="pop3", client=client)

    return check


@pytest.mark.parametrize(
    "name", ["hanako", "HANAKO", "hanako@harbour.example", "Hanako@HARBOUR.Example", "h@isp.example"]
)
async def test_by_name_and_by_any_address(check: Callable, name: str) -> None:
    assert await check(name, "pw") is HANAKO


@pytest.mark.parametrize(
    ("name", "password"),
    [("hanako", "PW"), ("hanako", ""), ("hanako", "tp"), ("nobody", "pw"), ("", ""), ("locked", ""), ("locked", "pw")],
)
async def test_refused(check: Callable, verifier: Verifier, name: str, password: str) -> None:
    assert await check(name, password) is None
    assert len(verifier.calls) == 1  # known or not: one check of the same cost
    assert verifier.calls[0][1].startswith("stored-")


async def test_a_failure_is_in_the_journal_cleaned_and_without_the_password(
    check: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        await check("ev\x1b[31mil\u202e", "top secret")
    (record,) = caplog.records
    assert record.getMessage() == "pop3: 192.168.77.20 gave a wrong name or password for ev\ufffd[31mil\ufffd"
    assert "top secret" not in str(record.__dict__)


async def test_a_success_is_remembered_and_only_that(check: Callable, verifier: Verifier, logins: Logins) -> None:
    for _ in range(3):
        assert await check("hanako", "pw") is HANAKO
        assert await check("h@isp.example", "pw", "192.168.77.21") is HANAKO
    assert len(verifier.calls) == 1
    assert await check("hanako", "wrong") is None
    assert await check("hanako", "pw") is HANAKO
    assert len(verifier.calls) == 2
    assert b"pw" not in b"".join(logins._remembered.values())


async def test_a_changed_configuration_holds_at_once(check: Callable, verifier: Verifier, logins: Logins) -> None:
    assert await check("hanako", "pw") is HANAKO
    changed = User(name="hanako", password="stored-t")
    logins.replace([changed])
    assert await check("hanako", "pw") is None
    assert await check("h@isp.example", "pw") is None
    assert await check("hanako", "tp") is changed
    logins.replace([])
    assert await check("hanako", "tp") is None
    assert is_password_hash(verifier.calls[-1][1])


async def test_one_check_at_a_time_and_a_bounded_queue(logins: Logins, verifier: Verifier) -> None:
    verifier.go.clear()
    got: list[User | None] = []

    async def one(client: str) -> None:
        got.append(await logins.check("taro", "no" + client, service="smtp", client=client))

    async with trio.open_nursery() as nursery:
        for i in range(module.QUEUE_LIMIT):
            nursery.start_soon(one, str(i))
        while logins._waiting < module.QUEUE_LIMIT:
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(LoginBusy):
            await logins.check("taro", "tp", service="smtp", client="late")
        verifier.go.set()
    assert got == [None] * module.QUEUE_LIMIT
    assert verifier.most == 1
    assert (await logins.check("taro", "tp", service="smtp", client="late")) is TARO


async def test_the_same_login_many_times_at_once_is_checked_once(check: Callable, verifier: Verifier) -> None:
    got: list[User | None] = []

    async def one() -> None:
        got.append(await check("hanako", "pw"))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert got == [HANAKO] * 20
    assert len(verifier.calls) == 1


async def test_a_client_that_guesses_waits_longer_each_time(
    check: Callable, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.autojump_threshold = 0.01
    waits = []
    for _ in range(12):
        began = trio.current_time()
        assert await check("hanako", "wrong") is None
        waits.append(trio.current_time() - began)
    assert waits == [0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]
    began = trio.current_time()
    assert await check("hanako", "pw", "192.168.77.99") is HANAKO  # somebody else does not wait
    assert trio.current_time() == began
    assert await check("hanako", "pw") is HANAKO  # a right guess would be known at once otherwise
    assert trio.current_time() - began == 30
    await trio.sleep(module.FORGET_S)
    began = trio.current_time()
    for _ in range(3):
        await check("hanako", "wrong")
    assert trio.current_time() == began


async def test_clients_are_not_remembered_without_end(check: Callable, logins: Logins) -> None:
    for i in range(module.CLIENT_LIMIT + 10):
        await check("x", "y", str(i))
    assert len(logins._failures) == module.CLIENT_LIMIT
    assert "0" not in logins._failures


async def test_with_the_real_hash() -> None:
    stored = await trio.to_thread.run_sync(hash_password, "pass wörd")
    logins = Logins([User(name="hanako", password=stored)], verify=verify_password)
    assert await logins.check("hanako", "pass wörd", service="smtp", client="c") is not None
    assert await logins.check("hanako", "pass word", service="smtp", client="c") is None
    assert await logins.check("hanako", "\udcff", service="smtp", client="c") is None
    assert await Logins([], verify=verify_password).check("hanako", "x", service="smtp", client="c") is None
