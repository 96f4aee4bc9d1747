"""Mail as it really comes: what a gateway must carry byte for byte. An `X-Corpus-Id` in each finds it again.

`Mail.data` are the wire bytes, CRLF line ends, no dots doubled. `KINDS` says what each kind is for. Kinds in `NO_FINAL`
have no end of the last line, which only BDAT can carry.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

BIG = 10 * 1024 * 1024

KINDS: dict[str, str] = {
    "plain": "an ordinary text",
    "eight-bit": "bytes above 127 in no particular encoding (RFC 6152)",
    "utf8-body": "UTF-8 text",
    "utf8-header": "UTF-8 in a header field without SMTPUTF8, as many programs send it",
    "long-line": "lines of 5,000 and 70,000 bytes where 998 is the limit (RFC 5322 §2.1.1)",
    "dots": "lone dots, lines that begin with dots, a dot at the end (RFC 5321 §4.5.2)",
    "no-final-newline": "the last line has no end",
    "empty-body": "a header and nothing behind it",
    "blank-lines": "nothing but empty lines in the body, before and behind",
    "nul": "NUL bytes",
    "controls": "tabs, form feeds, escapes, DEL",
    "folded": "folded fields, empty fields, fields with trailing blanks",
    "many-fields": "400 header fields",
    "from-line": "a body line that begins with `From `, and one already quoted",
    "mime": "an attachment in base64, an inner message, a boundary that looks like a dot line",
    "trailing-blanks": "blanks and tabs at line ends and on lines of their own",
    "no-date": "neither Date nor Message-ID",
    "bare-words": "a header of the barest sort: From alone",
    "many-recipients": "one hundred recipients",
}
NO_FINAL = frozenset({"no-final-newline"})
ADDED_TO = frozenset({"no-date", "bare-words"})
"""A submission server adds Message-ID and Date to these (RFC 6409 §8)."""


@dataclass(frozen=True)
class Mail:
    ident: str
    kind: str
    sender: str
    recipients: tuple[str, ...]
    data: bytes = field(repr=False)

    @property
    def wire(self) -> bytes:
        """As a DATA transaction carries it: with the last line's end (RFC 5321 §4.1.1.4)."""
        return self.data if self.data.endswith(b"\r\n") else self.data + b"\r\n"


def make(
    kind: str, ident: str, sender: str, recipients: Iterable[str], *, size: int = 1500, extra: bytes = b""
) -> Mail:
    """A mail of that kind; same arguments, same bytes. `size`: of its ordinary text. `extra`: header lines."""
    to = tuple(recipients)
    rng = random.Random(f"{kind} {ident}")
    if kind == "many-recipients" and len(to) == 1:
        local, _, domain = to[0].partition("@")
        to = tuple(f"{local}-{i}@{domain}" for i in range(100))
    fields = [f"From: <{sender}>".encode()]
    if kind != "bare-words":
        fields += [
            f"To: {', '.join(f'<{r}>' for r in to[:5])}".encode(),
            f"Subject: {kind} {ident}".encode(),
            *((b"Date: Mon, 02 Jun 2025 07:30:00 +0900", f"Message-ID: <{ident}@corpus.example>".encode())
              if kind != "no-date" else ()),
        ]  # fmt: skip
    fields.append(f"X-Corpus-Id: {ident}".encode())
    fields += _FIELDS.get(kind, [])
    return Mail(
        ident, kind, sender, to, b"".join(f + b"\r\n" for f in fields) + extra + b"\r\n" + _body(kind, rng, size)
    )


_MIME = [b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=utf-8", b"Content-Transfer-Encoding: 8bit"]
_FIELDS: dict[str, list[bytes]] = {
    "eight-bit": _MIME,
    "utf8-body": _MIME,
    "utf8-header": ["X-Place: Zürich 横浜 🚢".encode()],
    "mime": [b"MIME-Version: 1.0", b'Content-Type: multipart/mixed; boundary="."'],
    "folded": [
        b"X-Folded: one\r\n\ttwo\r\n    three",
        b"X-Empty:",
        b"X-Blank:   ",
        b"X-Tail: text   ",
        b"x-CASE: kept",
    ],
    "many-fields": [b"X-Field-%03d: value %d" % (i, i) for i in range(400)],
    "big": [b"MIME-Version: 1.0", b"Content-Type: application/octet-stream", b"Content-Transfer-Encoding: base64"],
}


def _body(kind: str, rng: random.Random, size: int) -> bytes:
    text = _text(rng, size)
    match kind:
        case "eight-bit":
            return bytes(rng.randrange(0x80, 0x100) for _ in range(400)) + b"\r\n" + text
        case "utf8-body":
            return "港の天気は晴れ。Größe, naïve, Ελλάδα, 👍\r\n".encode() * 10 + text
        case "long-line":
            return text + b"x" * 5000 + b"\r\n" + b".y" * 35000 + b"\r\n" + text
        case "dots":
            return b".\r\n..\r\n...\r\n.begin\r\n.\r\n\r\n.\r\nend.\r\n..\r\n.\r\n"
        case "no-final-newline":
            return text + b"the last line has no end"
        case "empty-body":
            return b""
        case "blank-lines":
            return b"\r\n\r\n\r\nx\r\n\r\n\r\n"
        case "nul":
            return b"before\0behind\r\n\0\r\n" + text
        case "controls":
            return b"\ttab\x0b\x0c\x07\x08\x1b[31mred\x7f\r\n" + text
        case "from-line":
            return b"From here to there\r\n>From quoted\r\nFrom \r\n" + text
        case "trailing-blanks":
            return b"three   \r\n \r\n\t\r\n   three before\r\n" + text
        case "mime":
            part = b"Content-Type: text/plain\r\n\r\n" + text
            inner = b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nFrom: <inner@far.example>\r\n\r\ninner\r\n"
            file = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            file += b"cG9zdGhvdXNlIHBvc3Rob3VzZSBwb3N0aG91c2U=\r\n" * 50
            return b"".join(b"--.\r\n" + p for p in (part, inner, file)) + b"--.--\r\n"
        case "big":
            line = rng.randbytes(38).hex().encode() + b"\r\n"
            return line * (BIG // len(line))
    return text


def _text(rng: random.Random, size: int) -> bytes:
    words = (b"".join(rng.choices(_LETTERS, k=rng.randint(2, 9))) for _ in range(size))
    out = bytearray()
    while len(out) < size:
        out += b" ".join(next(words) for _ in range(11)) + b"\r\n"
    return bytes(out)


_LETTERS = [bytes([c]) for c in b"abcdefghijklmnopqrstuvwxyz"]


def ident(data: bytes) -> str:
    """The X-Corpus-Id of a message, "" when it has none."""
    found = re.search(rb"(?mi)^X-Corpus-Id: *(\S+)", data.partition(b"\r\n\r\n")[0])
    return found[1].decode() if found else ""


_FIELD = re.compile(rb"[!-9;-~]+:")


def difference(got: bytes, sent: bytes, *, final_newline: bool = True) -> str:
    """ "" when `got` is `sent` with at most whole header fields on top, which is all that a relay may add; else what
    differs. `final_newline`: the way may have added the end of the last line."""
    wanted = [sent] if sent.endswith(b"\r\n") or not final_newline else [sent, sent + b"\r\n"]
    for want in wanted:
        if got.endswith(want):
            above = got[: len(got) - len(want)]
            if above and not above.endswith(b"\r\n"):
                continue
            lines = above.split(b"\r\n")[:-1]
            odd = [line for i, line in enumerate(lines) if not (_FIELD.match(line) or (i and line[:1] in b" \t"))]
            return f"added on top is what is no header field: {odd[0]!r}" if odd else ""
    want = wanted[-1]
    got_head, _, got_body = got.partition(b"\r\n\r\n")
    want_head, _, want_body = want.partition(b"\r\n\r\n")
    if got_body == want_body:
        lost = [line for line in want_head.split(b"\r\n") if line not in got_head.split(b"\r\n")]
        return f"header fields were changed: {lost[:3]!r}; now {got_head[-300:]!r}"
    at = next((i for i, (a, b) in enumerate(zip(got_body, want_body, strict=False)) if a != b),
              min(len(got_body), len(want_body)))  # fmt: skip
    near = slice(max(0, at - 15), at + 15)
    where = f"bodies differ at byte {at} of {len(want_body)} (got {len(got_body)})"
    return f"{where}: {got_body[near]!r} for {want_body[near]!r}"
