"""What would happen to a call of a name now, and why, in one sentence (`posthouse why NAME`): follows the route as a
connection request would (RELAY §4, §5), and says where it would stop.

It must not know sockets or calls; it looks at the directory and the peers, and is told of calls what it needs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from appliance.relay.request import PATH_LIMIT, takes_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.relay.directory import Directory
    from appliance.relay.peers import Peers

    CallFor = Callable[[float], tuple[float | None, str]]

__all__ = ["why"]

SLACK_S: Final = 1.0
"""A call that is held for less is made when it is wanted, and one within it is made now: moments are looked up one
after the other."""


def why(
    directory: Directory,
    peers: Peers,
    name: str,
    *,
    site: str,
    is_account: bool,
    causes_calls: bool,
    moment: Callable[[float], str],
    line_budget: Callable[[], float | None] = lambda: None,
    call_for: CallFor = lambda seconds: (seconds, ""),
) -> str:
    """`is_account`: it may log in here; `causes_calls`: `schedule.connection_request`; `moment(seconds)`: that far from
    now, in words; `line_budget` as in `Requests`; `call_for(seconds)`: the call that a request would have which wants
    one so far from now: in how many seconds, None for never, and why it is then."""
    call = f"a call of {name}"
    found, row = directory.find(name), directory.row(name)
    rival = directory.conflict(name)
    conflict = f"; {rival} has a terminal of this name too, which is not believed" if rival is not None else ""
    if directory.is_device(name):
        since = f" since {moment(-row['age'])}" if row is not None else ""
        seen = "it answers" if row is not None and row["presence"] == "online" else f"it does not answer{since}"
        return f"{call} is tried at once: it is a device of this relay server, and {seen}{conflict}"
    if found is None or row is None:
        never = "it has an account here and has never" if is_account else "no terminal of that name has"
        return f"{call} is refused (not-registered): {never} logged in{conflict}"
    here, presence, path = row["relay"] == site, row["presence"], row["path"]
    where = "here" if here else f"at {row['relay']}"
    by = "" if here or len(path) < 3 else f" by way of {', '.join(reversed(path[1:-1]))}"
    if takes_line(found) and (seconds := line_budget()) is not None:
        if math.isinf(seconds):
            return f"{call} is refused (line-budget): the line's budget does not allow it{conflict}"
        wait = _wait(True, seconds, causes_calls, moment, call_for)
        lasts = f"the line's budget does not last for a circuit before {moment(seconds)}"
        return f"{call} is refused (line-budget): {lasts}; {wait}{conflict}"
    if presence == "online":
        if len(path) > PATH_LIMIT:
            return f"{call} is refused (loop): it passes {len(path)} relay servers, and {PATH_LIMIT} are the most"
        return f"{call} rings now: it is logged in {where}{by}{conflict}"
    since = moment(-row["age"])
    if presence == "offline":
        reason = f"it {'logged out here at' if here else f'has not been logged in {where} since'} {since}"
    elif presence == "expired":
        reason = f"no relay server knows a way to {row['relay']} any more"
    elif here:
        reason = f"its connection broke off at {since}"
    elif presence == "suspended":
        back = f", and is back at {moment(row['back_in'])}" if row["back_in"] is not None else ""
        reason = f"the line to {row['relay']}{by} is down by plan since {since}{back}"
    else:
        reason = _lost(peers, row["relay"], by, since)
    wait = _wait(found.by_call, found.back_in, causes_calls, moment, call_for)
    return f"{call} is refused ({presence}): {reason}; {wait}{conflict}"


def _lost(peers: Peers, owner: str, by: str, since: str) -> str:
    way = peers.routes.best(owner, peers.now())
    if way is not None and way[1].state == "up":
        return f"its connection to {owner} broke off at {since}"
    if way is not None and peers.all[way[0]].link is None:
        return f"the link to {way[0]} is lost since {since}"
    return f"the way to {owner}{by} is lost since {since}"


def _wait(
    by_call: bool, back_in: float | None, causes_calls: bool, moment: Callable[[float], str], call_for: CallFor
) -> str:
    if not by_call:
        return "made with --wait it rings when that is over"
    if not causes_calls:
        return "made with --wait it rings in a later call (schedule.connection_request is off)"
    wanted = back_in or 0.0
    seconds, why = call_for(wanted)
    if seconds is None:
        return f"made with --wait it rings in a later call, and none is planned ({why})"
    at = f"at {moment(seconds)}" if seconds > SLACK_S else "now"
    held = f" ({why})" if why and seconds > wanted + SLACK_S else ""
    return f"made with --wait it causes a call {at}{held}"
