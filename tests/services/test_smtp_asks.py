"""Mail to get-TOKEN@ and delete-TOKEN@: what stays upstream is asked for by its own user alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.mail.store.fetched import FetchedRecord, Known, KnownState
from fakes.office import FAR, HANAKO, TARO
from fakes.smtp_house import LOGIN, House, smtp_house

TOKEN = "0123456789ab"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with smtp_house(tmp_path) as it:
        yield it


@pytest.mark.parametrize("automatic", [b"", b"Auto-Submitted: auto-replied\r\n", b"Precedence: bulk\r\n"])
@pytest.mark.parametrize("what", ["get", "delete"])
async def test_a_large_message_is_asked_for_by_its_own_user(house: House, what: str, automatic: bytes) -> None:
    record = await stub_record(house, "hanako")
    await house.start(trusted_networks=("127.0.0.0/8",))
    client = await house.hello()
    to = f"{what}-{TOKEN}@harbour.example".encode()
    said = [
        b"MAIL FROM:<hanako@harbour.example>\r\n",
        b"RCPT TO:<" + to + b">\r\n",
        b"DATA\r\n",
        automatic + b"Subject: x\r\n\r\ndelete it\r\n.\r\n",
    ]
    assert [(await client.codes(s))[0][:3] for s in said] == ["250", "250", "354", "250"]
    assert {uid: ask.value for uid, ask in record.asks.items()} == ({} if automatic else {"u1": what})
    assert house.sent() == []
    assert not list(house.office.paths.incoming.iterdir())


@pytest.mark.parametrize("what", ["get", "delete"])
@pytest.mark.parametrize(("login", "owner"), [(LOGIN, "taro"), (b"", "hanako")], ids=["another's", "no login"])
async def test_nobody_else_asks_for_it_nor_learns_that_it_is_there_and_nothing_is_sent_on(
    house: House, login: bytes, owner: str, what: str
) -> None:
    record = await stub_record(house, owner)
    await house.start(unknown="upstream", trusted_networks=("127.0.0.0/8",))
    client = await house.hello(login)
    await client.codes(b"MAIL FROM:<hanako@harbour.example>\r\n")
    tokens = (TOKEN, "ffffffffffff")
    taken, free = [(await client.say(f"RCPT TO:<{what}-{t}@harbour.example>\r\n".encode()))[0] for t in tokens]
    assert taken == free and taken.startswith("550 5.1.1 ")
    assert record.asks == {}


async def test_an_ask_among_other_recipients(house: House) -> None:
    record = await stub_record(house, "hanako")
    await house.start()
    client = await house.hello()
    to = (FAR, f"get-{TOKEN}@harbour.example", TARO)
    said = [
        f"MAIL FROM:<{HANAKO}>\r\n",
        *(f"RCPT TO:<{r}>\r\n" for r in to),
        "DATA\r\n",
        "Subject: x\r\n\r\nhi\r\n.\r\n",
    ]
    codes = [(await client.codes(s.encode()))[0][:3] for s in said]
    assert codes == ["250", "250", "250", "250", "354", "250"]
    assert list(record.asks) == ["u1"]
    assert [[r.address for r in e.recipients] for e in house.office.office.pending()] == [[FAR]]
    assert len(house.office.mailbox("taro")) == 1


async def stub_record(house: House, user: str) -> FetchedRecord:
    """The record of an account of that user, with one message that stays upstream."""
    office = house.office
    office.paths.fetched.mkdir(exist_ok=True)
    record = FetchedRecord(
        office.committer.disk, office.committer, office.paths.fetched, "x", corrupt=office.paths.corrupt
    )
    await record.add(Known("u1", KnownState.STUB, 5_000_000, "", TOKEN))
    office.office.stubs.replace([(user, record)])
    return record
