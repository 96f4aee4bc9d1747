"""The client's side of IMAP, sans-IO: RFC 3501 and 9051 as far as fetching and deleting mail goes, with SASL-IR (4959),
LITERAL+ and LITERAL- (7888), UIDPLUS (4315), COMPRESS=DEFLATE (4978), CONDSTORE and VANISHED (7162), ESEARCH (4731).

It owns the state of one connection: what was asked, and what each answer means. It knows nothing of sockets, deadlines,
mailboxes or which messages are wanted.

Rules.
1. A command is answered when its tag comes back (RFC 3501 §2.2.2); what is untagged before it belongs to the oldest
   command that asks for such a thing. Searches are asked one at a time (§5.5), but where ESEARCH names them.
2. Up to the login each command waits for the answer before it; so does SELECT, which decides what is asked. COMPRESS
   may go out behind a question, but nothing behind it: there the bytes change (RFC 4978 §3). All else goes out at once.
3. Only UIDs are used, and only BODY.PEEK, which marks nothing as read (RFC 3501 §6.4.5).
4. The body of a message goes out as it comes, never held as a whole.
5. Nothing is expunged without UIDPLUS: a plain EXPUNGE takes what others have marked, too (RFC 4315 §2.1).
6. What comes behind the answer to STARTTLS was not protected, and ends the connection.

| asked for           | what is untagged                   | OK                              | NO, BAD                |
|---------------------|------------------------------------|---------------------------------|------------------------|
| (greeting)          |                                    | STARTTLS if wanted, or login    | BYE: `Refused`         |
| CAPABILITY          | CAPABILITY                         | goes on                         | nothing is offered     |
| STARTTLS            |                                    | `StartTls`, CAPABILITY after it | `Refused`              |
| AUTHENTICATE, LOGIN | CAPABILITY                         | `Ready`                         | `Refused`              |
| SELECT, EXAMINE     | EXISTS, UIDVALIDITY, UIDNEXT, …    | `Selected`                      | `Refused`              |
| COMPRESS            |                                    | `Compressed`                    | `Compressed`, not on   |
| SEARCH              | SEARCH, ESEARCH                    | `Found`                         | `Refused`              |
| FETCH of sizes      | FETCH                              | `Listing`                       | `Listing` of what came |
| FETCH of headers    | FETCH: `Header`                    | `Header` without data: the rest | as OK                  |
| FETCH of bodies     | `BodyBegin`, `BodyData`, `BodyEnd` | `Fetched`                       | `Fetched`, not done    |
| STORE, UID EXPUNGE  | EXPUNGE, VANISHED                  | `Deleted`                       | `Deleted`, not done    |
| LOGOUT              | BYE                                | `Closed`                        | `Closed`               |
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Final

from appliance.protocol import imap_events as ev
from appliance.protocol.errors import LocalProtocolError, RemoteProtocolError
from appliance.protocol.imap_command import ALONE, BEHIND, Ask, Command, compose, plain_login
from appliance.protocol.imap_compression import Compression
from appliance.protocol.imap_lexer import (
    Continuation,
    Data,
    ImapLexer,
    Item,
    LiteralBegin,
    LiteralData,
    LiteralEnd,
    Status,
    Streamed,
    Value,
)
from appliance.protocol.imap_syntax import (
    MONTHS,
    fetch_response,
    folder_name,
    internal_date,
    number_of,
    read_set,
    uid_set,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import date

__all__ = ["HEADER_BYTES", "ImapClient"]

HEADER_BYTES: Final = 128 * 1024
"""Of a header no more is asked for."""

_TEMPORARY: Final = frozenset({"UNAVAILABLE", "INUSE", "IN-USE", "LIMIT", "SERVERBUG", "CONTACTADMIN"})  # RFC 5530 §3
_HEAD: Final = re.compile(r"(?i)BODY\[(?:HEADER|TEXT)")
_KEY: Final = re.compile(r"(?i)BODY\[([^\]]*)\](?:<([0-9]+)>)?")


class ImapClient:
    """One connection. `receive` what came and act on its events; send `data_to_send` after every call of any method.
    `starttls`: TLS must be had by STARTTLS, before the login.
    """

    def __init__(self, login: str, password: str, *, starttls: bool = False) -> None:
        self.capabilities: frozenset[str] = frozenset()
        """In upper case."""
        self.exists = 0
        """Messages in the folder, as the server last said."""
        self._login, self._password, self._want_tls = login, password, starttls
        self._lexer = ImapLexer()
        self._out = bytearray()
        self._commands: deque[Command] = deque()
        self._asked: dict[str, Command] = {}
        self._writing: Command | None = None  # waits for + before its next piece
        self._greeted = self._ready = self._over = self._quitting = self._bye = False
        self._number = 0
        self._selecting: dict[str, int] = {}
        self._uid_of: dict[int, int] = {}  # sequence number -> UID, for servers that name a UID behind its body
        self._body: tuple[Command, int] | None = None  # the message that is coming
        self._compression: Compression | None = None

    # ---- facts
    @property
    def can_compress(self) -> bool:
        return "COMPRESS=DEFLATE" in self.capabilities and self._compression is None

    @property
    def compresses(self) -> bool:
        """Or will, unless it is refused."""
        return self._compression is not None or any(c.ask is Ask.COMPRESS for c in self._asked.values())

    @property
    def expunges(self) -> bool:
        """Whether `delete` makes messages go, and does not merely mark them."""
        return "UIDPLUS" in self.capabilities or "IMAP4REV2" in self.capabilities

    @property
    def searches_at_once(self) -> bool:
        """Whether answers to searches say whose they are (RFC 4731)."""
        return "ESEARCH" in self.capabilities or "IMAP4REV2" in self.capabilities

    @property
    def awaiting(self) -> bool:
        """Whether an answer is due."""
        return bool(self._asked) or not self._greeted

    @property
    def over(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._over or self._quitting

    def data_to_send(self) -> bytes:
        """What is to go out now; it is handed over once."""
        out = bytes(self._out)
        self._out.clear()
        return self._compression.pack(out) if out and self._compression is not None else out

    # ---- commands, once Ready
    def select(self, folder: str, *, read_only: bool = False) -> None:
        """Opens a folder; answered by `Selected`."""
        self._selecting = {"uidvalidity": 0, "uidnext": 0, "modseq": 0}
        self._uid_of.clear()
        self.exists = 0
        verb = "EXAMINE" if read_only else "SELECT"
        parameter = " (CONDSTORE)" if "CONDSTORE" in self.capabilities else ""
        if "QRESYNC" in self.capabilities and not read_only:  # VANISHED, one line for all that is expunged
            self._command(Ask.ENABLE, "ENABLE QRESYNC")
            parameter = ""
        self._command(Ask.SELECT, f"{verb} ", folder_name(folder), parameter)

    def compress(self) -> None:
        """COMPRESS DEFLATE; answered by `Compressed`."""
        self._command(Ask.COMPRESS, "COMPRESS DEFLATE")

    def search(self, *, larger_than: int = 0) -> None:
        """Every UID that is there, of messages with more octets than that; answered by `Found`. Only where
        `searches_at_once` holds may others be unanswered."""
        which = f"LARGER {larger_than}" if larger_than else "ALL"
        command = self._command(Ask.SEARCH, f"UID SEARCH {'RETURN (ALL) ' if self.searches_at_once else ''}{which}")
        command.whole_folder = not larger_than

    def search_since(self, day: date) -> None:
        """Those that came there on that day or later, in the server's own time; answered by `Found`."""
        month = MONTHS[day.month - 1].decode().capitalize()
        self._command(Ask.SEARCH, f"UID SEARCH SINCE {day.day}-{month}-{day.year}")

    def search_message_id(self, message_id: str) -> None:
        """Those whose Message-ID has this in it; answered by `Found`."""
        if not (message_id.isascii() and message_id.isprintable()):
            raise LocalProtocolError("a Message-ID is printable ASCII")
        self._command(Ask.SEARCH, "UID SEARCH HEADER MESSAGE-ID ", message_id)

    def sizes(self, uids: Collection[int], *, from_uid: int = 0, arrivals: bool = False) -> None:
        """Sizes of these, or of all from `from_uid` on, and their times of arrival; answered by one `Listing`."""
        which = f"{from_uid}:*" if from_uid else uid_set(uids)
        what = "RFC822.SIZE INTERNALDATE" if arrivals else "RFC822.SIZE"
        command = self._command(Ask.SIZES, f"UID FETCH {which} ({what})")
        command.all_uids = () if from_uid else tuple(uids)

    def headers(self, uids: Collection[int]) -> None:
        """Whole headers; answered by a `Header` each."""
        self._fetch(Ask.HEADERS, uids, f"BODY.PEEK[HEADER]<0.{HEADER_BYTES}>")

    def beginnings(self, uids: Collection[int], octets: int) -> None:
        """Whole headers and so many octets of what is behind them; answered by a `Header` each, both in one."""
        self._fetch(Ask.HEADERS, uids, f"BODY.PEEK[HEADER]<0.{HEADER_BYTES}> BODY.PEEK[TEXT]<0.{octets}>")

    def header_fields(self, uids: Collection[int], fields: Collection[str]) -> None:
        """Some fields of the header; answered by a `Header` each."""
        self._fetch(Ask.HEADERS, uids, f"BODY.PEEK[HEADER.FIELDS ({' '.join(fields)})]")

    def retrieve(self, uids: Collection[int]) -> None:
        """Whole messages; answered by bodies in any order, then `Fetched`."""
        self._fetch(Ask.BODIES, uids, "BODY.PEEK[]")

    def retrieve_part(self, uid: int, offset: int, length: int) -> None:
        """`length` octets of one message from `offset` on; answered as `retrieve`."""
        self._fetch(Ask.BODIES, [uid], f"BODY.PEEK[]<{offset}.{length}>")

    def delete(self, uids: Collection[int]) -> None:
        """Marks them as deleted and, with UIDPLUS, expunges them and no others; answered by one `Deleted`."""
        which = uid_set(uids)
        command = self._command(Ask.STORE, f"UID STORE {which} +FLAGS.SILENT (\\Deleted)")
        command.all_uids = tuple(uids)
        if self.expunges:
            command = self._command(Ask.EXPUNGE, f"UID EXPUNGE {which}")
            command.all_uids = tuple(uids)

    def logout(self) -> None:
        """Answered by `Closed`. Nothing may be asked any more."""
        self._command(Ask.LOGOUT, "LOGOUT")
        self._quitting = True

    def tls_started(self) -> None:
        """The handshake is done: what was learnt before it is forgotten (RFC 3501 §6.2.1)."""
        self._want_tls = False
        self.capabilities = frozenset()
        self._queue(Ask.CAPABILITY, "CAPABILITY")

    def _fetch(self, ask: Ask, uids: Collection[int], what: str) -> None:
        # The UID comes anyway (RFC 3501 §6.4.8); asked for, it comes in front of the body.
        command = self._command(ask, f"UID FETCH {uid_set(uids)} (UID {what})")
        command.uids = dict.fromkeys(uids)
        command.all_uids = tuple(uids)

    # ---- sending
    def _command(self, ask: Ask, *parts: str) -> Command:
        if not self._ready or self.over:
            raise LocalProtocolError("nothing can be asked now")
        return self._queue(ask, *parts)

    def _queue(self, ask: Ask, *parts: str) -> Command:
        """`parts`: text as it stands and strings to be quoted, in turn."""
        command = Command(ask, compose(parts, self.capabilities))
        self._commands.append(command)
        self._pump()
        return command

    def _pump(self) -> None:
        while self._commands and self._writing is None and not any(c.ask in ALONE for c in self._asked.values()):
            first = self._commands[0].ask
            before = {c.ask for c in self._asked.values()}
            if first in ALONE and not before <= BEHIND.get(first, frozenset()):
                return
            command = self._commands.popleft()
            self._number += 1
            command.tag = f"A{self._number}"
            command.pieces[0] = command.tag.encode() + b" " + command.pieces[0]
            self._asked[command.tag] = command
            self._write(command)

    def _write(self, command: Command) -> None:
        self._out += command.pieces.popleft()
        self._writing = command if command.pieces else None

    # ---- receiving
    def receive(self, data: bytes) -> list[ev.Event]:
        """What `data` means; b"" is the end of the stream. Raises RemoteProtocolError, after which the connection is
        as good as closed. What came before it in `data` holds, so an error behind events is not raised but told by a
        `Closed` behind them."""
        if self._over:
            return []
        if not data:
            self._over = True
            return [ev.Closed(self._quitting and self._bye, "the server closed the connection")]
        events: list[ev.Event] = []
        try:
            for piece in self._compression.unpack(data) if self._compression is not None else (data,):
                self._lexer.feed(piece)
                while not self._over and (item := self._lexer.next()) is not None:
                    events += self._on_item(item)
        except RemoteProtocolError as error:
            self._over = True
            if not events:
                raise
            events.append(ev.Closed(False, str(error)))
        if not self._over:
            self._pump()
        return events

    def _on_item(self, item: Item) -> Iterator[ev.Event]:
        match item:
            case Status(tag="*"):
                yield from self._on_untagged_status(item)
            case Status():
                yield from self._on_tagged(item)
            case Continuation():
                if self._writing is None:
                    raise RemoteProtocolError("the server asked for more of nothing")
                self._write(self._writing)
            case Data(values):
                yield from self._on_data(values)
            case LiteralBegin(values, key, size):
                command, uid = self._body = self._whose(values)
                command.uids.pop(uid, None)
                found = _KEY.fullmatch(key)
                yield ev.BodyBegin(uid, int(found[2] or 0) if found else 0, size)
            case LiteralData(data):
                assert self._body is not None
                yield ev.BodyData(self._body[1], data)
            case LiteralEnd():
                assert self._body is not None
                yield ev.BodyEnd(self._body[1])
                self._body = None

    def _whose(self, values: list[Value]) -> tuple[Command, int]:
        """The command and the UID that a body of this FETCH response is of. Raises RemoteProtocolError."""
        number, items = fetch_response(values)
        uid = number_of(items.get("UID"))
        for command in self._asked.values():
            if command.ask is Ask.BODIES and command.uids:
                wanted = uid or (next(iter(command.uids)) if len(command.uids) == 1 else self._uid_of.get(number, 0))
                if wanted in command.uids:
                    return command, wanted
        raise RemoteProtocolError(f"the body of a message that was not asked for: {uid or number}")

    # ---- untagged
    def _on_untagged_status(self, status: Status) -> Iterator[ev.Event]:
        if status.kind == "BYE":
            self._bye = True
            if not self._quitting:
                self._over = True
                yield ev.Closed(False, status.text or "the server said BYE")
            return
        if status.code == "CAPABILITY":
            self._capable(status.argument.split())
        elif status.code in ("UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ"):
            key = "modseq" if status.code == "HIGHESTMODSEQ" else status.code.lower()
            self._selecting[key] = int(status.argument) if re.fullmatch("[0-9]{1,20}", status.argument) else 0
        if not self._greeted:
            self._greeted = True
            yield from self._on_greeting(status)

    def _on_greeting(self, status: Status) -> Iterator[ev.Event]:
        if status.kind == "PREAUTH" and self._want_tls:
            yield from self._refuse("the server does not offer STARTTLS", permanent=True)  # RFC 9051 §7.1.4
        elif status.kind == "PREAUTH":
            self._ready = True
            yield ev.Ready()
        elif status.kind != "OK":
            yield from self._refuse(status.text, permanent=False)
        elif not self.capabilities:
            self._queue(Ask.CAPABILITY, "CAPABILITY")
        else:
            yield from self._go_on()

    def _capable(self, words: list[str]) -> None:
        self.capabilities = frozenset(w.upper() for w in words)

    def _on_data(self, values: list[Value]) -> Iterator[ev.Event]:
        first = values[0].upper() if values and isinstance(values[0], str) else ""
        second = values[1].upper() if len(values) > 1 and isinstance(values[1], str) else ""
        if first == "CAPABILITY":
            self._capable([v for v in values[1:] if isinstance(v, str)])
        elif first == "SEARCH" and (command := self._first(Ask.SEARCH)):
            command.found.update(n for v in values[1:] if (n := number_of(v)))
        elif first == "ESEARCH" and (command := self._searching(values[1:2])):
            words = [v if isinstance(v, str) else "" for v in values]
            if "ALL" in words[:-1]:
                command.found.update(read_set(words[words.index("ALL") + 1]))
            if command.whole_folder:
                self._uid_of = dict(enumerate(sorted(command.found), 1))
        elif second == "EXISTS":
            self.exists = number_of(values[0])
        elif second == "EXPUNGE":
            gone = number_of(values[0])
            self.exists = max(0, self.exists - 1)
            self._uid_of = {n - (n > gone): uid for n, uid in self._uid_of.items() if n != gone}
        elif first == "VANISHED" and second:  # without a list, (EARLIER), before the set (RFC 7162 §3.2.10)
            self.exists = max(0, self.exists - len(read_set(second)))
            self._uid_of.clear()
        elif second == "FETCH":
            yield from self._on_fetch(values)

    def _searching(self, correlator: list[Value]) -> Command | None:
        """The search that an ESEARCH response is of: (TAG "A3"), which old servers leave out."""
        match correlator:
            case [[str(), bytes() as tag]]:
                return self._asked.get(tag.decode("ascii", "replace"))
        return self._first(Ask.SEARCH)

    def _first(self, ask: Ask) -> Command | None:
        return next((c for c in self._asked.values() if c.ask is ask), None)

    def _on_fetch(self, values: list[Value]) -> Iterator[ev.Event]:
        number, items = fetch_response(values)
        uid = number_of(items.get("UID")) or self._uid_of.get(number, 0)
        if uid:
            self._uid_of[number] = uid
        if "RFC822.SIZE" in items and (sizes := self._first(Ask.SIZES)) and uid:
            arrived = items.get("INTERNALDATE")
            when = internal_date(arrived) if isinstance(arrived, bytes) else None
            sizes.listed[uid] = ev.Listed(uid, number_of(items["RFC822.SIZE"]), when)
        heads = {key: value for key, value in items.items() if _HEAD.match(key)}
        for command in self._asked.values() if heads else ():
            if command.ask is Ask.HEADERS and uid in command.uids:
                del command.uids[uid]
                # The header, then what is behind it, whatever order they came in.
                yield ev.Header(uid, b"".join(v for _, v in sorted(heads.items()) if isinstance(v, bytes)))
                break
        for key, value in items.items():
            part = _KEY.fullmatch(key)
            if part is not None and not part[1] and not isinstance(value, Streamed):  # so short that it came as a
                data = value if isinstance(value, bytes) else b""  # string, or NIL
                command, uid = self._whose(values)
                command.uids.pop(uid, None)
                yield ev.BodyBegin(uid, int(part[2] or 0), len(data))
                if data:
                    yield ev.BodyData(uid, data)
                yield ev.BodyEnd(uid)

    # ---- tagged
    def _on_tagged(self, status: Status) -> Iterator[ev.Event]:
        command = self._asked.pop(status.tag, None)
        if command is None or status.kind not in ("OK", "NO", "BAD"):
            raise RemoteProtocolError(f"an answer to nothing: {status.tag} {status.kind} {status.text[:80]}")
        if self._writing is command:
            self._writing = None
        if status.code == "CAPABILITY":
            self._capable(status.argument.split())
        ok = status.kind == "OK"
        text = status.text or f"{command.ask} was answered {status.kind}"
        match command.ask:
            case Ask.CAPABILITY if not self._ready:
                yield from self._go_on()
            case Ask.STARTTLS if ok:
                if not self._lexer.between_responses:
                    raise RemoteProtocolError("something came unprotected behind the answer to STARTTLS")
                yield ev.StartTls()
            case Ask.LOGIN if ok:
                self._ready = True
                if status.code != "CAPABILITY" and not self.capabilities:
                    self._queue(Ask.CAPABILITY, "CAPABILITY")
                yield ev.Ready()
            case Ask.LOGIN:
                yield from self._refuse(text, permanent=status.code not in _TEMPORARY and status.kind == "NO")
            case Ask.STARTTLS:
                yield from self._refuse(text, permanent=False)
            case Ask.SELECT if ok:
                s = self._selecting
                yield ev.Selected(s["uidvalidity"], s["uidnext"], self.exists, s["modseq"])
            case Ask.SELECT | Ask.SEARCH if not ok:
                yield ev.Refused(text, permanent=status.code not in _TEMPORARY)
            case Ask.COMPRESS:
                if ok:
                    self._begin_compressing()
                yield ev.Compressed(ok)
            case Ask.SEARCH:
                yield ev.Found(tuple(sorted(command.found)))
            case Ask.SIZES:
                yield ev.Listing(tuple(command.listed[uid] for uid in sorted(command.listed)))
            case Ask.HEADERS:
                for uid in command.uids:
                    yield ev.Header(uid, None)
            case Ask.BODIES:
                yield ev.Fetched(command.all_uids, ok, text)
            case Ask.STORE if not self.expunges or not ok:
                yield ev.Deleted(command.all_uids, ok, text)
                if not ok:  # what is not marked can't be expunged: that answer says nothing more
                    self._unmarked(command.all_uids)
            case Ask.EXPUNGE if not command.failed:
                yield ev.Deleted(command.all_uids, ok, text)
            case Ask.LOGOUT:
                self._over = True
                yield ev.Closed(True, status.text)

    def _unmarked(self, uids: tuple[int, ...]) -> None:
        for command in (*self._asked.values(), *self._commands):
            if command.ask is Ask.EXPUNGE and command.all_uids == uids:
                command.failed = "not marked"

    def _refuse(self, text: str, *, permanent: bool) -> Iterator[ev.Event]:
        self._over = True
        yield ev.Refused(text, permanent)

    def _go_on(self) -> Iterator[ev.Event]:
        if self._want_tls:
            if "STARTTLS" not in self.capabilities:
                yield from self._refuse("the server does not offer STARTTLS", permanent=True)
            else:
                self._queue(Ask.STARTTLS, "STARTTLS")
        elif "AUTH=PLAIN" in self.capabilities:
            self._ask_login(plain_login(self._login, self._password, self.capabilities))
        elif "LOGINDISABLED" in self.capabilities:
            yield from self._refuse("the server takes no login here (LOGINDISABLED)", permanent=True)
        else:
            self._ask_login(compose(("LOGIN ", self._login, " ", self._password), self.capabilities))

    def _ask_login(self, pieces: deque[bytes]) -> None:
        self._commands.append(Command(Ask.LOGIN, pieces))
        # What is offered behind the login is another list (RFC 3501 §6.2.3); asked for where the answer has none.
        self.capabilities = frozenset()
        self._pump()

    def _begin_compressing(self) -> None:
        """From behind the answer's line on, both ways (RFC 4978 §3)."""
        self._compression = Compression()
        rest = self._lexer.take_rest()
        for piece in self._compression.unpack(rest):
            self._lexer.feed(piece)
