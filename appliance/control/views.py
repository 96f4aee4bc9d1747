"""What `status`, `queue` and `calls` look like to a person: the JSON of DESIGN §6 in, text out. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["calls", "message", "progress", "queue", "size", "status"]


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


def when(text: str | None) -> str:
    """An RFC 3339 time as local time; "-" for none."""
    if not text:
        return "-"
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def status(s: Mapping[str, Any]) -> str:
    """`posthouse status`."""
    line, queued = s["line"], s["queue"]
    clock = "" if s["clock_trusted"] else "; the clock is NOT trusted"
    lines = [f"{s['site']}: Posthouse {s['version']}, up {span(s['uptime_s'])}{clock}"]
    if line["name"]:
        number = f" {clean(line['number'])}" if line["number"] else ""
        why = f" ({line['reason']})" if line["reason"] else ""
        lines.append(f"line      {line['name']}: {line['state']}{number}{why} since {when(line['since'])}")
    next_call = when(line["next_call"]) if line["next_call"] else "none planned"
    lines.append(f"next call {next_call}: {line['next_call_reason']}")
    extra = [
        f"{queued[k]} {text}" for k, text in (("in_doubt", "in doubt"), ("held", "held"), ("bulk", "bulk")) if queued[k]
    ]
    oldest = f", the oldest for {span(queued['oldest_s'])}" if queued["oldest_s"] else ""
    waiting = f"{queued['messages']} messages, {size(queued['bytes'])}{oldest}"
    lines.append(f"queue     {waiting}{' (' + ', '.join(extra) + ')' if extra else ''}")
    listeners = "; ".join(f"{k} {', '.join(v)}" for k, v in s["listeners"].items() if v)
    lines.append(f"LAN       {s['users']} users; {listeners or 'no listener'}")
    troubled = [f"{name} {state}" for name, state in s["services"].items() if state != "running"]
    lines.append(f"services  {', '.join(troubled) if troubled else 'all running'}")
    return "\n".join(lines)


def progress(what: Mapping[str, Any]) -> str:
    """A line of `posthouse status --watch`."""
    at = datetime.now().astimezone().strftime("%H:%M:%S")
    return f"{at} {what['state']:<12} {clean(what['text'])}"


def queue(messages: Sequence[Mapping[str, Any]]) -> str:
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
            (m["id"], m["state"], size(m["size"]), when(m["received"]), str(m["attempts"]), sender, f"<{to}>{more}")
        )
    return table(rows)


def message(m: Mapping[str, Any]) -> str:
    """`posthouse queue show ID`."""
    lines = [
        f"id        {m['id']}",
        f"state     {m['state']}, {m['attempts']} attempts, priority {m['priority']}",
        f"received  {when(m['received'])}",
        f"size      {m['size']} bytes",
        f"from      <{clean(m['sender'])}>",
    ]
    for r in m["recipients"]:
        reply = f": {clean(r['reply'])}" if r["reply"] else ""
        lines.append(f"to        <{clean(r['address'])}> {r['state']}{reply}")
    return "\n".join(lines)


def calls(ledger: Sequence[Mapping[str, Any]]) -> str:
    """`posthouse calls`, with how many calls were saved: one a message sent or fetched, against those made."""
    if not ledger:
        return "no call was made yet"
    rows = [("ID", "STARTED", "LINE", "REASON", "OUTCOME", "DIALS", "LENGTH", "RATE", "OUT", "IN", "SENT", "FETCHED")]
    for c in ledger:
        length = span(c["duration_s"]) if c["duration_s"] else "-"
        rows.append(
            (
                str(c["id"]),
                when(c["started"]),
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
            )
        )
    made = sum(1 for c in ledger if c["connected"])
    single = sum(c["sent"] + c["fetched"] for c in ledger)
    saved = f"{made} calls carried {single} messages; with a call for each that is {max(0, single - made)} calls saved"
    return table(rows) + "\n" + saved


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
