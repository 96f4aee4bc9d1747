"""The power goes behind every single operation, and what was not flushed is dropped, kept, torn or mixed: every
message that was answered 250 is there once and whole, every other one is absent or complete.

The scenario runs once on a recording disk; each cut is then a folder of its own, recovered as at a start.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio

from appliance.clock import SystemClock
from appliance.config.model import Mail, Site, Smarthost, User
from appliance.mail.envelope import Envelope, Recipient, RecipientState, Verdict
from appliance.mail.office import PostOffice
from appliance.mail.store.mailbox import Mailbox, StoredMessage
from appliance.mail.store.spool import Spool
from appliance.storage.committer import Committer
from appliance.storage.disk import Disk
from appliance.storage.paths import StatePaths
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from appliance.storage.redo import RedoDisk

SITE = Site(name="harbour", domain="harbour.example")
USERS = [User(name=n, addresses=(f"{n}@harbour.example",)) for n in ("hanako", "taro")]
MAIL = Mail(smarthost=(Smarthost(host="smtp.isp.example"),))
OK = "250 2.0.0 kept"


@dataclasses.dataclass
class Stores:
    """All that keeps mail below one root."""

    spool: Spool
    boxes: dict[str, Mailbox]
    office: PostOffice

    def everywhere(self) -> list[bytes]:
        """The bytes of every message that is served or would be sent."""
        out = [self.spool.path(e).read_bytes() for e in self.spool.messages.values()]
        for box in self.boxes.values():
            for message in box.messages():
                with box.open(message) as file:
                    out.append(file.read())
        return out


def open_stores(root: Path, plain: Disk, log_bytes: int) -> tuple[Stores, Committer]:
    """As `posthouse run` opens them; `log_bytes` 0: without the redo log."""
    disk = plain
    if log_bytes:
        disk = RedoDisk(plain, root, log_bytes=log_bytes)
        disk.open_log()
    paths = StatePaths(root)
    paths.make(disk)
    committer = Committer(disk, root)
    clock = SystemClock()
    spool = Spool(paths, disk, committer, clock)
    spool.recover()
    boxes = {u.name: Mailbox(u.name, paths, committer, site=SITE.name) for u in USERS}
    for box in boxes.values():
        box.recover()
    office = PostOffice(spool, committer, clock)
    office.configure(SITE, MAIL, USERS, boxes)
    return Stores(spool, boxes, office), committer


async def submit(stores: Stores, name: str, recipients: list[str], size: int) -> Envelope:
    """As an SMTP session does it; returns where it would say 250."""
    sender = "hanako@harbour.example"
    envelope = Envelope(id=stores.spool.new_id(), sender=sender, recipients=[], received=1_800_000_000.0)
    submission = stores.office.begin(envelope)
    for address in recipients:
        assert stores.office.add(submission, Recipient(address)) is None
    draft = stores.spool.draft(envelope.id)
    draft.write_nowait(stores.office.return_path(submission))
    await draft.write(f"Subject: {name}\r\n\r\n".encode())
    body = (name.encode() + b".") * (size // (len(name) + 1)) + b"end\r\n"
    for at in range(0, len(body), 50_000):
        await draft.write(body[at : at + 50_000])
    await stores.office.accept(submission, draft)
    return envelope


def body_of(name: str, size: int) -> bytes:
    return f"Subject: {name}\r\n\r\n".encode() + (name.encode() + b".") * (size // (len(name) + 1)) + b"end\r\n"


SIZES = {
    "remote": 300, "local": 200, "both": 400, "mixed": 500, "large": 150_000, "seen": 250, "read": 270, "sent": 100,
    "failed": 120,
}  # fmt: skip
RECIPIENTS = {
    "remote": ["a@far.example"],
    "local": ["hanako@harbour.example"],
    "both": ["hanako@harbour.example", "taro@harbour.example"],
    "mixed": ["taro@harbour.example", "b@far.example", "c@far.example"],
    "large": ["d@far.example"],
    "seen": ["taro@harbour.example"],
    "read": ["taro@harbour.example"],
    "sent": ["e@far.example"],
    "failed": ["f@far.example", "g@far.example"],
}
COPIES = {"both": 2, "mixed": 2}


async def scenario(stores: Stores, disk: RecordingDisk) -> None:
    """Marks `+name` where 250 is said and `-name` where a message may be gone from then on (`~`: before it)."""
    mark = disk.mark
    envelopes = {}
    for name, recipients in RECIPIENTS.items():
        envelopes[name] = await submit(stores, name, recipients, SIZES[name])
        mark(f"+{name}")
        if name in ("seen", "read"):
            mark(f"{name} by IMAP")
            see(stores.boxes["taro"], disk)
    office = stores.office
    await office.in_doubt(envelopes["sent"], [0])
    mark("?sent")
    mark("~sent")
    await office.settle(envelopes["sent"], {0: Verdict(RecipientState.DELIVERED, OK)}, host="smtp")
    mark("-sent")
    mark("~failed")
    verdicts = {0: Verdict(RecipientState.FAILED, "550 5.1.1 nobody"), 1: Verdict(RecipientState.QUEUED, "451 later")}
    await office.settle(envelopes["failed"], verdicts, host="smtp")
    await office.settle(envelopes["failed"], {1: Verdict(RecipientState.DELIVERED, OK)}, host="smtp")
    mark("-failed")
    await office.hold(envelopes["remote"], True)
    mark("held")
    await office.hold(envelopes["remote"], False)
    mark("~read")
    await stores.boxes["taro"].delete([m for m in stores.boxes["taro"].messages() if _holds(m, "read")])
    mark("-read")
    messages = [m for m in stores.boxes["hanako"].messages() if m.size < 400]
    mark("~local")
    await stores.boxes["hanako"].delete(messages[:1])
    mark("-local")


def see(box: Mailbox, disk: RecordingDisk) -> None:
    """What Dovecot does when a user's IMAP program has looked: beside Posthouse, and without a flush."""
    for message in box.messages():
        if message.path.parent.name == "new":
            disk.rename(message.path, box.root / "cur" / f"{message.base}:2,")
            disk.rename(box.root / "cur" / f"{message.base}:2,", box.root / "cur" / f"{message.base}:2,S")


def _holds(message: StoredMessage, name: str) -> bool:
    return message.path.read_bytes().endswith(body_of(name, SIZES[name]))


async def record(root: Path, log_bytes: int) -> RecordingDisk:
    disk = RecordingDisk(root)
    stores, committer = open_stores(root, disk, log_bytes)
    async with trio.open_nursery() as nursery:
        await nursery.start(committer.run)
        await scenario(stores, disk)
        nursery.cancel_scope.cancel()
    return disk


def promised(disk: RecordingDisk, n: int) -> tuple[set[str], set[str], set[str]]:
    """Behind `n` operations: the messages that must be there, those that may be, those that are in doubt."""
    must: set[str] = set()
    may = set(SIZES)
    doubt: set[str] = set()
    for at, what in disk.marks:
        name = what[1:]
        if at <= n and what[0] == "+":
            must.add(name)
        if at <= n and what[0] == "?":
            doubt.add(name)
        if at <= n and what[0] == "~":
            must.discard(name)
            doubt.discard(name)
        if at <= n and what[0] == "-":
            may.discard(name)
    return must, may, doubt


LOGS = [0, 16 * 1024, 512 * 1024]
"""No redo log; one so small that it is full all the time, even for one batch; one that holds the whole scenario."""


@pytest.mark.parametrize("log_bytes", LOGS)
@pytest.mark.parametrize("fate", list(Fate))
async def test_every_prefix_of_operations(fate: Fate, log_bytes: int, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    disk = await record(tmp_path / "live", log_bytes)
    assert len(disk.operations) > 60
    checked = 0
    for n in range(len(disk.operations) + 1):
        for seed in range(3 if fate is Fate.MIXED else 1):
            root = tmp_path / f"{n}-{seed}"
            root.mkdir()
            power_cut(disk, n, fate, root, seed=1000 * seed + n)
            stores, _ = open_stores(root, Disk(), log_bytes)
            must, may, doubt = promised(disk, n)
            found = stores.everywhere()
            where = f"behind operation {n} ({disk.operations[n - 1] if n else 'none'}), {fate}, seed {1000 * seed + n}"
            for name, size in SIZES.items():
                copies = [f for f in found if f.endswith(body_of(name, size)) and b"report-type" not in f]
                expected = COPIES.get(name, 1)
                if name in must:
                    assert len(copies) == expected, f"{name} is there {len(copies)} times {where}"
                else:
                    assert len(copies) <= expected, f"{name} is there {len(copies)} times {where}"
                    assert name in may or not copies, f"{name} came back {where}"
                found = [f for f in found if f not in copies]
            strange = [f for f in found if b"report-type" not in f]
            assert not strange, f"{len(strange)} damaged messages are served {where}: {strange[0][:60]!r}"
            for name in doubt & must:
                envelope = next(e for e in stores.spool.messages.values() if e.size == _sent_size(stores, name))
                assert envelope.recipients[0].state is RecipientState.IN_DOUBT, f"{name} is not in doubt {where}"
            checked += 1
    assert checked > len(disk.operations)


def _sent_size(stores: Stores, name: str) -> int:
    return len(body_of(name, SIZES[name]))


@pytest.mark.parametrize("log_bytes", LOGS)
@pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.KEPT, Fate.MIXED])
async def test_a_second_cut_in_the_recovery(fate: Fate, log_bytes: int, tmp_path: Path) -> None:
    """Recovering changes the disk too: cut again behind each of its own operations."""
    (tmp_path / "live").mkdir()
    disk = await record(tmp_path / "live", log_bytes)
    for n in range(10, len(disk.operations), 7):
        first = tmp_path / f"first-{n}"
        first.mkdir()
        power_cut(disk, n, Fate.MIXED, first, seed=n)
        again = RecordingDisk(first)
        again.adopt()
        stores, _ = open_stores(first, again, log_bytes)
        whole = sorted(stores.everywhere())
        for m in range(again.adopted, len(again.operations) + 1):
            second = tmp_path / f"second-{n}-{m}"
            second.mkdir()
            power_cut(again, m, fate, second, seed=m)
            assert sorted(open_stores(second, Disk(), log_bytes)[0].everywhere()) == whole, (
                f"cut {n}, then {m} of recovery"
            )
