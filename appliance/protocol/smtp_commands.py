"""MAIL FROM and RCPT TO, read: paths and the parameters of the extensions that are offered. SANS-IO, no state."""

from __future__ import annotations

from typing import Final

from appliance.protocol.smtp_events import MailFrom, RcptTo
from appliance.protocol.smtp_syntax import (
    SyntaxProblem,
    decode_xtext,
    parse_address,
    parse_path,
    take_flag,
    take_number,
    take_text,
    take_word,
)

__all__ = ["parse_mail", "parse_rcpt"]

MAX_SIZE: Final = 2**63
"""Of the number in SIZE= (RFC 1870 §6 allows 20 digits)."""


def parse_mail(argument: str, *, esmtp: bool) -> MailFrom:
    """What follows `MAIL `. Raises SyntaxProblem."""
    if argument[:5].upper() != "FROM:":
        raise SyntaxProblem(501, "5.5.4", "MAIL FROM:<address> is expected")
    address, given = parse_path(argument[5:])
    if given and not esmtp:
        raise SyntaxProblem(555, "5.5.4", "parameters need EHLO")
    event = MailFrom(
        sender=parse_address(address, utf8="SMTPUTF8" in given) if address else "",
        size=take_number(given, "SIZE", 0, MAX_SIZE) or 0,
        body=take_word(given, "BODY", ("7BIT", "8BITMIME")),
        smtputf8=take_flag(given, "SMTPUTF8"),
        ret=take_word(given, "RET", ("FULL", "HDRS")),
        envid=_xtext(take_text(given, "ENVID", 100)),
        mt_priority=take_number(given, "MT-PRIORITY", -9, 9),
    )
    given.pop("AUTH", None)  # RFC 4954 §5: taken, and not believed
    if given:
        raise SyntaxProblem(555, "5.5.4", f"{next(iter(given))} is not known here")
    return event


def _xtext(text: str) -> str:
    """Checked, and left as it came: so it goes on (RFC 3461 §5.2.1)."""
    decode_xtext(text)
    return text


def parse_rcpt(argument: str, *, esmtp: bool, utf8: bool) -> RcptTo:
    """What follows `RCPT `; `utf8`: MAIL said SMTPUTF8. Raises SyntaxProblem."""
    if argument[:3].upper() != "TO:":
        raise SyntaxProblem(501, "5.5.4", "RCPT TO:<address> is expected")
    address, given = parse_path(argument[3:])
    if given and not esmtp:
        raise SyntaxProblem(555, "5.5.4", "parameters need EHLO")
    if address.lower() != "postmaster":  # RFC 5321 §4.5.1
        parse_address(address, utf8=utf8)
    notify = take_text(given, "NOTIFY", 100).upper()
    words = set(notify.split(",")) if notify else set()
    if not words <= {"SUCCESS", "FAILURE", "DELAY"} and words != {"NEVER"}:
        raise SyntaxProblem(501, "5.5.4", "NOTIFY is NEVER, or some of SUCCESS, FAILURE, DELAY")
    orcpt = take_text(given, "ORCPT", 500)
    if orcpt:
        kind, semicolon, value = orcpt.partition(";")
        if not kind or not semicolon:
            raise SyntaxProblem(501, "5.5.4", "ORCPT is TYPE;ADDRESS")
        if orcpt.isascii():
            decode_xtext(value)
        elif not utf8 or any("\udc80" <= c <= "\udcff" for c in orcpt):  # RFC 6533 §3
            raise SyntaxProblem(501, "5.5.4", "an ORCPT beyond ASCII needs SMTPUTF8, and is UTF-8")
    if given:
        raise SyntaxProblem(555, "5.5.4", f"{next(iter(given))} is not known here")
    return RcptTo(address, notify, orcpt)
