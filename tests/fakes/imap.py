"""An IMAP server in memory, scripted, that can break at every step, as `fakes.provider`'s servers do."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from fakes.provider import Cut, Provider, Wire

ALL = ("IMAP4rev1", "SASL-IR", "AUTH=PLAIN", "LITERAL-", "UIDPLUS", "COMPRESS=DEFLATE", "CONDSTORE", "ESEARCH",
       "ENABLE", "QRESYNC")  # fmt: skip


class _Deflated(trio.abc.Stream):
    """A stream compressed as RFC 4978 says, the server's side."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._out = zlib.compressobj(9, wbits=-15)
        self._in = zlib.decompressobj(wbits=-15)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(self._out.compress(data) + self._out.flush(zlib.Z_SYNC_FLUSH))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            data = await self._stream.receive_some(max_bytes)
            if not data:
                return b""
            if out := self._in.decompress(bytes(data)):
                return out

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@dataclass
class ImapProvider(Provider):
    """`mails`: UID -> message, the folder INBOX; `folders` those beside it. `answer(verb, argument)` may give another
    answer than the usual one, without its tag. `sent` counts bytes of messages that went out, `asked` the FETCHes of
    bodies; `uid_last`: the UID comes behind the body."""

    mails: dict[int, bytes] = field(default_factory=dict)
    folders: dict[str, dict[int, bytes]] = field(default_factory=dict)
    arrived: dict[int, str] = field(default_factory=dict)
    uidvalidity: int = 1700000000
    uidnext: int = 0
    modseq: int = 1
    capabilities: tuple[str, ...] = ALL
    answer: Callable[[str, str], str | None] = lambda verb, argument: None
    marked: set[int] = field(default_factory=set)
    uid_last: bool = False
    asked: list[str] = field(default_factory=list)

    def add(self, data: bytes) -> int:
        uid = max([0, self.uidnext - 1, *self.mails]) + 1
        self.mails[uid] = data
        self.uidnext = uid + 1
        self.modseq += 1
        return uid

    def _caps(self, *, secure: bool, login: bool) -> str:
        words = [w for w in self.capabilities if not (login and w.startswith("AUTH="))]
        return " ".join([*words, *(["STARTTLS"] if self.starttls and not secure else [])])

    async def session(self, wire: Wire) -> None:
        secure = self.tls is not None and not self.starttls
        open_folder = self.mails
        qresync = False
        self.point("connected")
        wire.say(self.answer("CONNECT", "") or f"* OK [CAPABILITY {self._caps(secure=secure, login=False)}] ready")
        self.point("greeted")
        while True:
            line = await wire.line()
            tag, _, rest = line.partition(" ")
            self.commands.append(rest)
            verb, _, argument = rest.partition(" ")
            if verb == "UID":
                verb, _, argument = argument.partition(" ")
            self.point(f"got {verb}")
            reply = self.answer(verb, argument)
            if reply == "drop":
                raise Cut
            done = reply or f"OK {verb} done"
            if reply is not None:
                pass
            elif verb == "CAPABILITY":
                wire.say(f"* CAPABILITY {self._caps(secure=secure, login=False)}")
            elif verb == "AUTHENTICATE":
                if " " not in argument:
                    wire.say("+ ")
                    argument = "PLAIN " + await wire.line()
                _, name, password = base64.b64decode(argument.split()[1]).decode().split("\0")
                if self.login not in (None, (name, password)):
                    done = "NO [AUTHENTICATIONFAILED] wrong"
                else:
                    done = f"OK [CAPABILITY {self._caps(secure=secure, login=True)}] logged in"
            elif verb == "LOGIN":
                done = f"OK [CAPABILITY {self._caps(secure=secure, login=True)}] logged in"
            elif verb == "ENABLE":
                qresync = argument == "QRESYNC"
                wire.say(f"* ENABLED {argument}")
            elif verb in ("SELECT", "EXAMINE"):
                name = argument.removesuffix(" (CONDSTORE)").strip('"')
                open_folder = self.mails if name == "INBOX" else self.folders.get(name, {})
                wire.say(f"* {len(open_folder)} EXISTS")
                wire.say(f"* OK [UIDVALIDITY {self.uidvalidity}] UIDs valid")
                if self.uidnext:
                    wire.say(f"* OK [UIDNEXT {self.uidnext}] Predicted next UID")
                if qresync or argument.endswith("(CONDSTORE)"):
                    wire.say(f"* OK [HIGHESTMODSEQ {self.modseq}] Highest")
                done = f"OK [READ-{'ONLY' if verb == 'EXAMINE' else 'WRITE'}] {verb} done"
            elif verb == "SEARCH":
                self._search(wire, tag, argument, open_folder)
            elif verb == "FETCH":
                await self._fetch(wire, argument, open_folder)
            elif verb == "STORE":
                self.marked |= set(self._uids(argument.split()[0], open_folder))
            elif verb == "EXPUNGE":
                going = [uid for uid in self._uids(argument, open_folder) if uid in self.marked]
                if qresync and going:
                    wire.say(f"* VANISHED {','.join(map(str, going))}")
                for uid in going:
                    if not qresync:
                        wire.say(f"* {sorted(open_folder).index(uid) + 1} EXPUNGE")
                    del open_folder[uid]
                    self.marked.discard(uid)
                    self.modseq += 1
                self.point("expunged")
            elif verb == "LOGOUT":
                wire.say("* BYE bye")
            wire.say(f"{tag} {done}")
            if not wire.buffer or verb in ("LOGOUT", "COMPRESS", "STARTTLS"):
                await wire.flush()
            self.point(f"answered {verb}")
            if verb == "LOGOUT":
                return
            if verb == "COMPRESS" and reply is None:
                wire.stream = _Deflated(wire.stream)
            if verb == "STARTTLS" and reply is None:
                assert self.tls is not None
                wire.stream = trio.SSLStream(wire.stream, self.tls, server_side=True, https_compatible=True)
                secure = True

    @staticmethod
    def _uids(text: str, folder: dict[int, bytes]) -> list[int]:
        top = max(folder, default=0)
        out: set[int] = set()
        for part in text.split(","):
            first, _, last = part.partition(":")
            a, b = sorted(top if n == "*" else int(n) for n in (first, last or first))
            out |= {uid for uid in folder if a <= uid <= b}
        return sorted(out)

    def _search(self, wire: Wire, tag: str, argument: str, folder: dict[int, bytes]) -> None:
        found = sorted(folder)
        if " MESSAGE-ID " in f" {argument}":
            wanted = argument.rpartition("MESSAGE-ID ")[2].strip('"').encode()
            found = [uid for uid in found if wanted in folder[uid]]
        if larger := re.search(r"LARGER (\d+)", argument):
            found = [uid for uid in found if len(folder[uid]) > int(larger[1])]
        if argument.startswith("RETURN"):
            wire.say(f'* ESEARCH (TAG "{tag}") UID' + (f" ALL {','.join(map(str, found))}" if found else ""))
        else:
            wire.say("* SEARCH" + "".join(f" {uid}" for uid in found))

    async def _fetch(self, wire: Wire, argument: str, folder: dict[int, bytes]) -> None:
        which, _, what = argument.partition(" ")
        if "BODY.PEEK[]" in what:
            self.asked.append(argument)
        for uid in self._uids(which, folder):
            data, number = folder[uid], sorted(folder).index(uid) + 1
            if "RFC822.SIZE" in what:
                date = self.arrived.get(uid, "05-Jan-2026 11:00:00 +0000")
                wire.say(f'* {number} FETCH (UID {uid} RFC822.SIZE {len(data)} INTERNALDATE "{date}")')
                continue
            found = re.search(r"BODY\.PEEK(\[[^]]*\])(?:<(\d+)\.(\d+)>)?", what)
            assert found
            head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
            if found[1].startswith("[HEADER.FIELDS"):
                head = b"".join(
                    x + b"\r\n" for x in head.split(b"\r\n") if x.lower().startswith((b"message-id:", b"date:"))
                )
            part = data if found[1] == "[]" else head + b"\r\n"
            offset = int(found[2] or 0)
            part = part[offset : offset + int(found[3])] if found[2] else part
            if text := re.search(r"BODY\.PEEK\[TEXT\]<0\.(\d+)>", what):
                body = data.partition(b"\r\n\r\n")[2][: int(text[1])]
                wire.out += f"* {number} FETCH (UID {uid} BODY[TEXT]<0> {{{len(body)}}}\r\n".encode() + body
                wire.out += f" BODY[HEADER]<0> {{{len(head)}}}\r\n".encode() + head + b")\r\n"
                continue
            key = f"BODY{found[1]}" + (f"<{offset}>" if found[2] else "")
            wire.out += f"* {number} FETCH ({'' if self.uid_last else f'UID {uid} '}{key} {{{len(part)}}}\r\n".encode()
            wire.out += part[: len(part) // 2]
            await wire.flush()
            if found[1] == "[]":
                self.point("half a message")
            wire.out += part[len(part) // 2 :] + (f" UID {uid})\r\n" if self.uid_last else ")\r\n").encode()
