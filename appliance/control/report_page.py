"""`posthouse report --html`: one page that needs nothing else, with plots of its own drawing. Pure.

The plots are SVG in the page: bars by day, what was paid before what a call for each message would have cost, and bars
by user. No script, font or file is fetched, and the page says so to the browser (Content-Security-Policy).
"""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from html import escape
from typing import TYPE_CHECKING, Any, Final

from appliance.control.report_view import money
from appliance.control.views import size, span
from appliance.events import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["page"]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 920, 220, 64, 28, 12
GAP: Final = 0.25
"""Of a bar's place that stays free."""
MOST_BARS: Final = 400
"""Days plotted: more are no bars any more. The tables have all."""
STEPS: Final = (Decimal(1), Decimal(2), Decimal(5), Decimal(10))
STYLE: Final = """
:root{color-scheme:light dark;--ink:#1d2733;--soft:#5d6b7a;--line:#d9dfe6;--paid:#1769aa;--each:#c9d6e3;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ef;--soft:#98a5b3;--line:#33404d;--paid:#5fb0ee;--each:#3a4a5a;
--paper:#12181f}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:960px;margin:2em auto;
padding:0 20px}
h1{font-size:1.5em;margin:0}h2{font-size:1.1em;margin:2em 0 .5em}p{margin:.3em 0}.soft{color:var(--soft)}
.tiles{display:flex;flex-wrap:wrap;gap:12px;margin:1.2em 0}.tile{border:1px solid var(--line);border-radius:6px;
padding:10px 16px;min-width:110px}.tile b{display:block;font-size:1.35em}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;white-space:nowrap}
td,th{padding:4px 7px;text-align:right;
border-bottom:1px solid var(--line)}td:first-child,th:first-child{text-align:left}
th{white-space:normal;color:var(--soft);font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.paid{fill:var(--paid)}.each{fill:var(--each)}.grid{stroke:var(--line)}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 1em;vertical-align:-1px}
@media print{body{margin:0}}
""".replace("\n", "")


def page(report: Mapping[str, Any], site: str) -> str:
    """The whole page."""
    title = f"Posthouse at {escape(clean(site))}: calls and what they cost"
    body = [f"<h1>{title}</h1>"]
    if not report["total"]:
        body.append("<p>No call has ended yet.</p>")
    else:
        body.append(f'<p class="soft">{report["since"]} to {report["until"]}</p>')
        for total in report["total"]:
            body += _currency(report, total)
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _currency(report: Mapping[str, Any], total: Mapping[str, Any]) -> list[str]:
    """Everything that was paid in one currency, or, on lines that are free, not paid."""
    currency = total["currency"]
    days, months, users = ([r for r in report[p] if r["currency"] == currency] for p in ("days", "months", "users"))
    tiles = [
        (str(total["calls"]), "calls"),
        (span(total["seconds"]), "on the line"),
        (f"{total['sent']} / {total['fetched']}", "sent / fetched"),
        (f"{size(total['bytes_out'])} / {size(total['bytes_in'])}", "bytes out / in"),
    ]
    if currency:
        tiles += [
            (money(total["cost"], currency), "paid"),
            (money(total["each_cost"], currency), "with a call for each message"),
        ]
    paid, each = ("cost", "each_cost") if currency else ("calls", "each_calls")
    unit = currency or "calls"
    key = (
        f'<p class="soft"><span class="key" style="background:var(--paid)"></span>'
        f"{'paid' if currency else 'calls made'}"
        f'<span class="key" style="background:var(--each)"></span>with a call for each message</p>'
    )
    out = ['<div class="tiles">']
    out += [f'<div class="tile"><b>{escape(value)}</b><span class="soft">{text}</span></div>' for value, text in tiles]
    out += ["</div>", f"<h2>By day, {unit}</h2>", key, _columns(days, paid, each)]
    out += [f"<h2>Time on the line by day, minutes</h2>{_columns(days, 'seconds', '', scale=60)}"]
    out += [f"<h2>By user, {unit}</h2>", _bars(users, paid, each)]
    out += ["<h2>Months</h2>", _table(months, "month"), "<h2>Users</h2>", _table(users, "user")]
    return [*out, "<h2>Days</h2>", _table(days[::-1], "day")]


def _columns(days: Sequence[Mapping[str, Any]], paid: str, each: str, *, scale: int = 1) -> str:
    """A column a day, from the first to the last."""
    days = _each_day(days)
    values = [(Decimal(str(d[paid])) / scale, Decimal(str(d[each])) / scale if each else Decimal(0)) for d in days]
    top = _nice(max((max(pair) for pair in values), default=Decimal(0)))
    plot_w, plot_h = WIDTH - LEFT - 8, HEIGHT - TOP - BOTTOM
    step = plot_w / max(1, len(days))

    def y(value: Decimal) -> float:
        return TOP + plot_h * float(1 - value / top)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    out += _grid(top, y)
    for i, (day, (a, b)) in enumerate(zip(days, values, strict=True)):
        x, width = LEFT + step * (i + GAP / 2), step * (1 - GAP)
        for value, kind in ((b, "each"), (a, "paid")):
            if value:
                out.append(
                    f'<rect class="{kind}" x="{x:.1f}" y="{y(value):.1f}" width="{max(0.5, width):.1f}" '
                    f'height="{TOP + plot_h - y(value):.1f}"><title>{day["day"]}: {_short(value)}</title></rect>'
                )
    every = max(1, -(-len(days) // 8))
    for i in range(0, len(days), every):
        x = LEFT + step * (i + 0.5)
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{days[i]["day"]}</text>')
    return "".join(out) + "</svg>"


def _each_day(days: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """With those on which there was no call; the last `MOST_BARS`."""
    known = {day["day"]: day for day in days}
    none = dict.fromkeys(("calls", "each_calls", "seconds", "cost", "each_cost"), 0)
    last = date.fromisoformat(max(known))
    first = max(date.fromisoformat(min(known)), last - timedelta(days=MOST_BARS - 1))
    names = [(first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1)]
    return [known.get(name, {"day": name, **none}) for name in names]


def _grid(top: Decimal, y: Callable[[Decimal], float]) -> list[str]:
    out = []
    for n in range(5):
        value = top * n / 4
        at = y(value)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    return out


def _bars(users: Sequence[Mapping[str, Any]], paid: str, each: str) -> str:
    """A bar a user, the dearest first."""
    rows = sorted(users, key=lambda u: Decimal(str(u[paid])), reverse=True)
    top = max((max(Decimal(str(u[paid])), Decimal(str(u[each]))) for u in rows), default=Decimal(0)) or Decimal(1)
    left, high = 150, 26
    out = [f'<svg viewBox="0 0 {WIDTH} {high * max(1, len(rows)) + 8}" role="img">']
    for i, user in enumerate(rows):
        y, name = i * high + 4, escape(clean(user["user"])[:24] or "nobody's")
        out.append(f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{name}</text>')
        for figure, kind, height in ((each, "each", 18), (paid, "paid", 10)):
            value = Decimal(str(user[figure]))
            length = (WIDTH - left - 90) * float(value / top)
            out.append(
                f'<rect class="{kind}" x="{left}" y="{y + (18 - height) / 2:.0f}" width="{length:.1f}" '
                f'height="{height}"/>'
            )
        longest = max(Decimal(str(user[paid])), Decimal(str(user[each])))
        figures = " / ".join(_short(Decimal(str(user[figure]))) for figure in (paid, each))
        x = left + (WIDTH - left - 90) * float(longest / top) + 6
        out.append(f'<text x="{x:.1f}" y="{y + 13}">{figures}</text>')
    return "".join(out) + "</svg>"


def _table(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    heads = (name, "calls", "time", "out", "in", "sent", "fetched", "cost", "calls for each", "cost for each")
    out = ["<table><thead><tr>", *(f"<th>{h}</th>" for h in heads), "</tr></thead><tbody>"]
    for row in rows:
        cells = (
            clean(row[name]) or "nobody's",
            row["calls"],
            span(row["seconds"]),
            size(row["bytes_out"]),
            size(row["bytes_in"]),
            row["sent"],
            row["fetched"],
            money(row["cost"], row["currency"]),
            row["each_calls"],
            money(row["each_cost"], row["currency"]),
        )
        out += ["<tr>", *(f"<td>{escape(str(cell))}</td>" for cell in cells), "</tr>"]
    return "".join(out) + "</tbody></table>"


def _nice(value: Decimal) -> Decimal:
    """The next of 1, 2, 5, 10, … at or above, to end a scale with."""
    if value <= 0:
        return Decimal(1)
    power = Decimal(10) ** value.adjusted()
    return next(step * power for step in STEPS if step * power >= value)


def _short(value: Decimal) -> str:
    """Three digits that count, so that a quarter of every scale is told exactly; whole numbers in full."""
    short = value.quantize(Decimal(1)) if value >= 100 else Decimal(f"{value:.3g}").normalize()
    return f"{short:f}"
