"""What `status`, `queue`, `calls` and the other listings look like to a person: the JSON of DESIGN §6 in, text out,
times in the site's zone. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import tzinfo

__all__ = [
    "Savings", "calls", "interfaces", "lines", "message", "peers", "progress", "queue", "savings", "size", "status",
    "terminals", "users", "went_wrong", "why",
]  # fmt: skip


def size(n: float) -> str:
    """Bytes for a person: `0`, `812`, `4.5K`, `12M`."""
    for unit in ("", "K", "M", "G"):
        if n < 1000 or unit == "G":
            return f"{n:.0f}{unit}" if n >= 10 or not unit else f"{n:.1f}{unit}"
        n /= 1024
    raise AssertionError("unreachable")


def span(seconds: float) -> str:
    """Seconds for a person: `8 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    s = round(seconds)
    if s < 120:
        return f"{s} s"
    minutes, hours, days = s // 60, s // 3600, s // 86400
    if minutes < 120:
        return f"{minutes} min"
    if hours < 48:
        return f"{hours} h {minutes % 60} min"
    return f"{days} d {hours % 24} h"


def when(text: str | None, zone: tzinfo) -> str:
    """An RFC 3339 time as this zone's; "-" for none."""
    if not text:
        return "-"
    return datetime.fromisoformat(text).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def status(s: Mapping[str, Any], zone: tzinfo) -> str:
    """`posthouse status`."""
    line, queued = s["line"], s["queue"]
    clock = "" if s["clock_trusted"] else "; the clock is NOT trusted"
    lines = [f"{s['site']}: Posthouse {s['version']}, up {span(s['uptime_s'])}{clock}"]
    if line["name"]:
        number = f" {clean(line['number'])}" if line["number"] else ""
        why = f" ({line['reason']})" if line["reason"] else ""
        lines.append(f"line      {line['name']}: {line['state']}{number}{why} since {when(line['since'], zone)}")
    next_call = when(line["next_call"], zone) if line["next_call"] else "none planned"
    lines.append(f"next call {next_call}: {line['next_call_reason']}")
    extra = [
        f"{queued[k]} {text}" for k, text in (("in_doubt", "in doubt"), ("held", "held"), ("bulk", "bulk")) if queued[k]
    ]
    oldest = f", the oldest for {span(queued['oldest_s'])}" if queued["oldest_s"] else ""
    waiting = f"{_count(queued['messages'], 'message')}, {size(queued['bytes'])}{oldest}"
    lines.append(f"queue     {waiting}{' (' + ', '.join(extra) + ')' if extra else ''}")
    listeners = "; ".join(f"{k} {', '.join(v)}" for k, v in s["listeners"].items() if v)
    lines.append(f"LAN       {_count(s['users'], 'user')}; {listeners or 'no listener'}")
    if s["listeners"]["relay"] or any(s["peers"].values()):
        here, there = s["terminals"]["local"], s["terminals"]["remote"]
        peers = ", ".join(f"{n} {state}" for state, n in s["peers"].items() if n) or "none"
        lines.append(f"relay     {_count(here, 'terminal')} here, {there} elsewhere; peers: {peers}")
        lines.append(f"          {s['fingerprint']}")
    if s.get("update"):
        lines.append(f"update    {clean(s['update'])}")
    troubled = [f"{name} {state}" for name, state in s["services"].items() if state != "running"]
    lines.append(f"services  {', '.join(troubled) if troubled else 'all running'}")
    return "\n".join(lines)


def progress(what: Mapping[str, Any], zone: tzinfo) -> str:
    """A line of `posthouse status --watch`."""
    at = datetime.now(zone).strftime("%H:%M:%S")
    text = clean(what["text"])
    if what["next_call"]:  # the first line tells of it, in UTC
        text = text.replace(what["next_call"], when(what["next_call"], zone))
    return f"{at} {what['state']:<12} {text}"


def queue(messages: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse queue`."""
    if not messages:
        return "the queue is empty"
    rows = [("ID", "STATE", "SIZE", "RECEIVED", "TRIES", "FROM", "TO")]
    for m in messages:
        open_ones = [r["address"] for r in m["recipients"] if r["state"] in ("queued", "in-doubt")]
        to = clean(open_ones[0]) if open_ones else "-"
        more = f" +{len(open_ones) - 1}" if len(open_ones) > 1 else ""
        sender = f"<{clean(m['sender'])}>"
        rows.append(
            (
                m["id"],
                m["state"],
                size(m["size"]),
                when(m["received"], zone),
                str(m["attempts"]),
                sender,
                f"<{to}>{more}",
            )
        )
    return table(rows)


def message(m: Mapping[str, Any], zone: tzinfo) -> str:
    """`posthouse queue show ID`."""
    lines = [
        f"id        {m['id']}",
        f"state     {m['state']}, {_count(m['attempts'], 'attempt')}, priority {m['priority']}",
        f"received  {when(m['received'], zone)}",
        f"size      {m['size']} bytes",
        f"from      <{clean(m['sender'])}>",
    ]
    for r in m["recipients"]:
        reply = f": {clean(r['reply'])}" if r["reply"] else ""
        lines.append(f"to        <{clean(r['address'])}> {r['state']}{reply}")
    return "\n".join(lines)


def calls(ledger: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse calls`, with how many calls were saved."""
    if not ledger:
        return "no call was made yet"
    rows = [
        (
            "ID",
            "STARTED",
            "LINE",
            "REASON",
            "OUTCOME",
            "DIALS",
            "LENGTH",
            "RATE",
            "OUT",
            "IN",
            "SENT",
            "FETCHED",
            "COST",
        )
    ]
    for c in ledger:
        length = span(c["duration_s"]) if c["duration_s"] else "-"
        rows.append(
            (
                str(c["id"]),
                when(c["started"], zone),
                c["line"],
                c["reason"],
                c["outcome"] or "under way",
                str(c["dials"]),
                length,
                str(c["rate"] or "-"),
                size(c["bytes_out"]),
                size(c["bytes_in"]),
                str(c["sent"]),
                str(c["fetched"]),
                f"{c['cost']} {c['currency']}" if c["currency"] else "-",
            )
        )
    return table(rows) + "\n" + savings(ledger).sentence


def terminals(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse terminals`."""
    if not rows:
        return "no terminal has logged in yet"
    out = [("NAME", "PRESENCE", "SINCE", "AT", "VIA", "SERVICES")]
    for r in rows:
        presence = r["presence"] + (f", back {when(r['back_at'], zone)}" if r["back_at"] else "")
        via = " > ".join(clean(hop) for hop in reversed(r["path"])) or "-"
        services = ", ".join(clean(s) for s in r["services"]) or "-"
        out.append((clean(r["name"]), presence, when(r["since"], zone), clean(r["relay"]), via, services))
    return table(out)


def peers(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse peers`."""
    if not rows:
        return "no peer is configured"
    out = [("NAME", "ADDRESS", "STATE", "SINCE", "BACK", "ENTRIES", "IN", "OUT")]
    for r in rows:
        moved = (str(r["entries"]), size(r["bytes_in"]), size(r["bytes_out"]))
        times = (when(r["since"], zone), when(r["back_at"], zone))
        out.append((clean(r["name"]), r["address"] or "they call us", r["state"], *times, *moved))
    return table(out)


def lines(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse lines`."""
    if not rows:
        return "no line is configured"
    out = [("NAME", "KIND", "AT", "STATE", "SINCE", "NUMBERS")]
    for r in rows:
        state = clean(r["unusable"]) or r["state"] or "-"
        numbers = ", ".join(clean(number) for number in r["numbers"]) or "-"
        out.append((clean(r["name"]), r["kind"], clean(r["device"]), state, when(r["since"], zone), numbers))
    return table(out)


def interfaces(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse interfaces`."""
    if not rows:
        return "no interface is configured: the host's network is left as it is"
    out = [("NAME", "DEVICE", "STATE", "MTU", "ADDRESSES")]
    for r in rows:
        device = r["device"] + (f" ({', '.join(r['ports'])})" if r["ports"] else "")
        addresses = ", ".join(r["addresses"]) or "-"
        dhcp = " by DHCP" if r["dhcp"] else ""
        out.append((r["name"], device, r["state"], str(r["mtu"] or "-"), addresses + dhcp))
    return table(out)


def users(rows: Sequence[Mapping[str, Any]], zone: tzinfo) -> str:
    """`posthouse users`."""
    if not rows:
        return "no user is configured"
    out = [("NAME", "LOGIN", "MESSAGES", "SIZE", "QUOTA", "ADDRESSES", "FETCHES FROM")]
    for r in rows:
        quota = size(r["quota"]) if r["quota"] else "-"
        fetches = ", ".join(f"{clean(a['login'])} at {clean(a['host'])}" for a in r["accounts"]) or "-"
        may = "yes" if r["may_log_in"] else "no"
        addresses = ", ".join(clean(address) for address in r["addresses"]) or "-"
        out.append((clean(r["name"]), may, str(r["messages"]), size(r["bytes"]), quota, addresses, fetches))
    return table(out)


_WHY: Final = {
    "busy": "the number was busy",
    "no-answer": "nobody answered",
    "no-carrier": "no carrier came",
    "no-dialtone": "the telephone line gives no dial tone: look at the cable",
    "blacklisted": "the modem refuses the number for a while",
    "delayed": "the modem puts the number off for a while",
    "timeout": "the modem gave no result within `dial_timeout`",
    "modem-silent": "the modem does not answer AT: look at power, cable, `port` and `baud`",
    "modem-error": "the modem answered ERROR: look at `init`",
    "pin-refused": "the SIM refused the PIN",
    "no-network": "the modem found no network",
    "negotiation-failed": "the call was answered, but no connection could be negotiated",
    "login-refused": "the provider refused the login",
    "carrier-lost": "the line dropped",
    "interrupted": "the call was interrupted",
    "max-call": "the call reached `max_call`, or the end of the budget",
    "hung-up": "it was hung up by hand, or Posthouse was stopped",
}


def why(call: Mapping[str, Any]) -> str:
    """Why a call that was asked for is not complete, in one line."""
    number = f" to {clean(call['number'])}" if call["number"] else ""
    return f"call {call['id']}{number} failed: {went_wrong(call['outcome'])}; dialled {_times(call['dials'])}"


def went_wrong(outcome: str) -> str:
    """What an outcome other than complete and partial means, for a person."""
    return _WHY.get(outcome, outcome)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


class Savings(NamedTuple):
    """`calls` connected and ended; `messages` sent and fetched by them; `saved`: calls that were not needed."""

    calls: int
    messages: int
    saved: int

    @property
    def sentence(self) -> str:
        carried = f"{_count(self.calls, 'call')} carried {_count(self.messages, 'message')}"
        return f"{carried}; with a call for each message that is {_count(self.saved, 'call')} saved"


def savings(ledger: Sequence[Mapping[str, Any]]) -> Savings:
    """What the ledger says was saved: one call for each message sent or fetched would have been made, against those
    that were. A call under way does not count yet, one that reached nobody never."""
    ended = [c for c in ledger if c["connected"] and c["ended"]]
    messages = sum(c["sent"] + c["fetched"] for c in ended)
    return Savings(len(ended), messages, max(0, messages - len(ended)))


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
