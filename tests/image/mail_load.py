"""Mail clients of a LAN that keep a board busy, and what they were promised.

Each promise is remembered with the length that the disk's write log had: a mail was answered 250 when the log was so long,
may be gone where its user began to delete it, must be gone where that was answered. `judge` holds what is found on a disk
against it.
"""

from __future__ import annotations

import base64
import imaplib
import poplib
import random
import re
import smtplib
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fakes.netns import Namespace

HOST = "192.168.77.1"
"""The board on its LAN."""
DOMAIN = "harbour.example"
SPOOL = "the spool"
FAR = "somebody@far.example"
PASSWORD = "Blau-Kessel-42"
UNREAD, POP3_USER, IMAP_USER = USERS = ("hanako", "taro", "jiro")
"""Nobody reads hanako's mail meanwhile; taro deletes by POP3; jiro's is looked at and expunged by IMAP, and deleted by POP3."""
CLIENT_S = 300.0
"""An answer: a second on an idle machine."""
SENDERS = 8
SIZES = ((60, 200, 4_000), (25, 5_000, 30_000), (12, 40_000, 200_000), (3, 500_000, 1_000_000))
"""(weight, from, to): below and above what the redo log takes, and what is streamed to the disk."""
PLACES = (
    (40, (SPOOL,)),
    (15, ("hanako",)),
    (15, ("taro",)),
    (15, ("jiro",)),
    (10, ("hanako", "taro")),
    (5, ("jiro", SPOOL)),
)
_NUMBER = re.compile(rb"^X-Number: (\d+)\r?$", re.MULTILINE)


@dataclass(eq=False)
class Mail:
    """`places`: where it belongs, once each. The rest are lengths of the log: where it was answered 250, where it may be
    gone from a place, where it must be gone."""

    number: int
    data: bytes
    places: tuple[str, ...]
    accepted: int | None = None
    leaves: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)


def number_of(data: bytes) -> int:
    found = _NUMBER.search(data)
    return int(found[1]) if found else -1


class Load:
    """`run` sends `count` mails by SENDERS clients of the network namespace `lan`, while others read; returns when all were
    accepted."""

    def __init__(self, log: Path, lan: Namespace, count: int, rng: random.Random) -> None:
        self._log = log
        self._lan = lan
        self._rng = rng
        self.mails = [self._mail(n, count) for n in range(count)]
        self._next = iter(self.mails)
        self._lock = threading.Lock()
        self._sent = threading.Event()
        self._errors: list[BaseException] = []
        self.rounds: Counter[str] = Counter()

    def _mail(self, number: int, count: int) -> Mail:
        low, high = self._rng.choices([s[1:] for s in SIZES], [s[0] for s in SIZES])[0]
        (places,) = self._rng.choices([p[1] for p in PLACES], [p[0] for p in PLACES])
        head = (
            f"From: hanako@{DOMAIN}\r\nTo: you@far.example\r\nSubject: {number} of {count}\r\nX-Number: {number}\r\n"
            f"Message-ID: <{number}@{DOMAIN}>\r\nDate: Tue, 1 Sep 2026 10:00:00 +0000\r\n\r\n"
        )
        body = base64.encodebytes(self._rng.randbytes(self._rng.randint(low, high) * 3 // 4)).replace(b"\n", b"\r\n")
        return Mail(number, head.encode() + body, places)

    @property
    def length(self) -> int:
        """Of the write log now. What is caused from now on stands behind it."""
        return self._log.stat().st_size

    def run(self) -> None:
        readers = [self._thread(self._read_by_pop3), self._thread(self._read_by_imap)]
        senders = [self._thread(self._send) for _ in range(SENDERS)]
        for thread in senders:
            thread.join()
        self._sent.set()
        for thread in readers:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _thread(self, work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                with self._lan.inside():
                    work()
            except BaseException as error:
                self._errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    # ---- the clients
    def _send(self) -> None:
        with smtplib.SMTP(HOST, 25, timeout=CLIENT_S) as client:
            while not self._errors:
                with self._lock:
                    mail = next(self._next, None)
                if mail is None:
                    return
                to = [FAR if place == SPOOL else f"{place}@{DOMAIN}" for place in mail.places]
                refused = client.sendmail(f"hanako@{DOMAIN}", to, mail.data)
                mail.accepted = self.length
                assert not refused, refused

    def _read_by_pop3(self) -> None:
        while not self._sent.is_set():
            self._delete_by_pop3(POP3_USER)

    def _delete_by_pop3(self, user: str) -> None:
        """Reads and deletes every other message."""
        client = poplib.POP3(HOST, 110, timeout=CLIENT_S)
        client.user(user)
        client.pass_(PASSWORD)
        deleted = []
        for n in range(1, client.stat()[0] + 1, 2):
            data = b"\r\n".join(client.retr(n)[1]) + b"\r\n"
            mail = self.mails[number_of(data)]
            assert data.endswith(mail.data), f"mail {mail.number} is read otherwise than it was sent"
            client.dele(n)
            deleted.append(mail)
        before = self.length
        for mail in deleted:
            mail.leaves[user] = before
        client.quit()
        after = self.length
        for mail in deleted:
            mail.gone[user] = after
        self.rounds[f"{user} by POP3"] += 1

    def _read_by_imap(self) -> None:
        """Looks, so that Dovecot moves what is new; sets flags; expunges one; and then the same user comes by POP3."""
        tls = ssl.create_default_context()
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        while not self._sent.is_set():
            client = imaplib.IMAP4(HOST, 143, timeout=CLIENT_S)
            client.starttls(tls)
            client.login(IMAP_USER, PASSWORD)
            if int(client.select()[1][0] or b"0"):
                client.store("1:*", "+FLAGS", "\\Seen")
                parts = client.fetch("1", "(BODY.PEEK[])")[1]
                (data,) = (part[1] for part in parts if isinstance(part, tuple))
                self.mails[number_of(data)].leaves[IMAP_USER] = self.length
                client.store("1", "+FLAGS", "\\Deleted")
                client.expunge()
            client.logout()
            self.rounds[f"{IMAP_USER} by IMAP"] += 1
            self._delete_by_pop3(IMAP_USER)


def judge(mails: list[Mail], found: Iterable[tuple[str, bytes]], length: int) -> list[str]:
    """What is wrong on a disk where the power went when the log was `length` long. `found`: (place, message) each."""
    wrong = []
    there: Counter[tuple[str, int]] = Counter()
    for place, data in found:
        number = number_of(data)
        if number < 0 or not data.endswith(mails[number].data):
            wrong.append(f"in {place} something that nobody sent, or not whole: {data[:300]!r}")
        else:
            there[place, number] += 1
    for mail in mails:
        for place in mail.places:
            count = there.pop((place, mail.number), 0)
            accepted = mail.accepted is not None and mail.accepted <= length
            may_be_gone = mail.leaves.get(place, length) < length
            must_be_gone = mail.gone.get(place, length + 1) <= length
            if count > 1:
                wrong.append(f"mail {mail.number} is {count} times in {place}")
            elif count and must_be_gone:
                wrong.append(f"mail {mail.number} was deleted and is back in {place}")
            elif not count and accepted and not may_be_gone:
                wrong.append(f"mail {mail.number} was accepted at {mail.accepted} and is not in {place}")
    wrong += [f"mail {number} is in {place}, where it does not belong" for place, number in there]
    return wrong
