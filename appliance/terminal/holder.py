"""The one holder of a terminal's login: joins the keeper of the login, the calls that come in, the requests that go out
and the local socket. `posthouse terminal login` is one for good; `list`, `connect` and `forward` are one for their own
duration where none is running, offer nothing, and step aside for a `login`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.events import clean
from appliance.terminal.callee import Callee
from appliance.terminal.dial import Unreachable
from appliance.terminal.fields import number, octets, text, texts
from appliance.terminal.local import Refused, listen_at, serve_local
from appliance.terminal.login import Keeper, LoginOver
from appliance.terminal.requests import Requests
from appliance.terminal.sentences import UNREACHABLE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from appliance.terminal.dial import Endpoint
    from appliance.terminal.session import Credentials, Session
    from appliance.terminal.state import State

    Show = Callable[[Mapping[str, Any]], Awaitable[None]]

__all__ = ["Holder"]

TABLE_S: Final = 300.0
"""For a whole table: some thousand entries over a slow line."""
TABLE_LIMIT: Final = 50_000
"""Names in a table; the relay server's own limit is 20,000 for each peer (RELAY §1)."""
SHOWN: Final = 500
"""Rows in a message on the local socket."""
WATCH_QUEUE: Final = 1024
"""Changes that a watching client has not read; one that falls further behind is let go and asks anew."""
LONGEST_WAIT_S: Final = 366 * 86400


class Holder:
    """`hold` is called once, by whoever has the lock on the state folder."""

    def __init__(
        self,
        state: State,
        who: Credentials,
        say: Callable[[str], None],
        *,
        offers: Mapping[str, Endpoint] | None = None,
        ask: Callable[[str], Awaitable[bool]] | None = None,
        temporary: bool = False,
    ) -> None:
        self._state = state
        self._say = say
        self._offers = dict(offers or {})
        self._ask = ask
        self._temporary = temporary
        self._keeper = Keeper(who, state, say, on_end=self._session_over, take=self._take)
        self._requests = Requests(self._keeper)
        self._callee: Callee | None = None
        self._listing = trio.Lock()
        self._listeners: set[trio.MemorySendChannel[Mapping[str, Any]]] = set()
        self._watched: Session | None = None  # the one that tells every change
        self._table = _Table()
        self._scope = trio.CancelScope()

    async def hold(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `stop`, or another login steps in for a temporary one. Raises LoginOver where the login ends by itself
        (a temporary holder tells its clients instead), and OSError where the socket can't be made."""
        listener = await listen_at(self._state.socket)
        over: LoginOver | None = None
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self._callee = Callee(self._state, self._offers, self._say, nursery, self._ask)
                    verbs = {"connect": self._connect, "list": self._list, "step-aside": self._step_aside}
                    nursery.start_soon(serve_local, listener, verbs)
                    task_status.started()
                    try:
                        await self._keeper.run()
                    except LoginOver as why:
                        over = why
                        if self._temporary:
                            await trio.sleep_forever()
                    nursery.cancel_scope.cancel()
        finally:
            self._state.socket.unlink(missing_ok=True)
        if over is not None and not self._temporary:
            raise over

    async def stop(self) -> None:
        """Logs out; `hold` returns."""
        await self._keeper.stop()
        self._scope.cancel()

    # ---- what the relay server says
    def _take(self, session: Session, kind: str, body: Mapping[str, Any]) -> None:
        if kind == "table":
            self._table.take(body)
            for listener in list(self._listeners):
                try:
                    listener.send_nowait(body)
                except trio.WouldBlock:
                    listener.close()
                    self._listeners.discard(listener)
        elif not self._requests.take(kind, body) and self._callee is not None:
            self._callee.take(session, kind, body)

    def _session_over(self) -> None:
        self._watched = None
        self._table.whole.set()
        if self._callee is not None:
            self._callee.session_over()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    # ---- the local socket's verbs
    def _check(self) -> None:
        if self._keeper.over is not None:
            raise Refused(str(self._keeper.over), self._keeper.over.code)

    async def _connect(self, given: Mapping[str, Any], show: Show) -> dict[str, Any]:
        try:
            id, to, service = bytes.fromhex(given["id"]), str(given["to"]), str(given["service"])
            wait_s = float(given.get("wait", 0))
        except (KeyError, ValueError, TypeError) as error:
            raise Refused(f"that is no request: {error}", 2) from None

        async def progress(body: Mapping[str, Any]) -> None:
            await show({"waiting": _plain(body)})

        kind, body, session = await self._requests.run(id, to, service, min(wait_s, LONGEST_WAIT_S), progress)
        if kind == "ready" and session is not None:
            where = session.address
            return {
                "ready": {
                    "relay": [where.host, where.port],
                    "name": session.name,
                    "ticket": octets(body, "ticket").hex(),
                    "certificate": octets(body, "certificate").hex(),
                }
            }
        if session is None and body.get("reason") == "no-relay":
            self._no_relay()
        return {"unavailable": _plain(body)}

    def _no_relay(self) -> None:
        self._check()
        raise Refused(f"no login at the relay server just now: {self._keeper.trouble}", UNREACHABLE)

    async def _list(self, given: Mapping[str, Any], show: Show) -> dict[str, Any]:
        """The whole table, then, with `watch`, every change."""
        session = await self._requests.session()
        if session is None:
            self._no_relay()
            return {}
        sender, changes = trio.open_memory_channel["Mapping[str, Any]"](WATCH_QUEUE)
        try:
            # `list` and `table` carry no id: one question at a time, and where changes come by themselves none at all.
            async with self._listing:
                if self._watched is not session:
                    await self._ask_table(session, watch=bool(given.get("watch")))
                rows = self._table.rows()
                if given.get("watch"):
                    self._listeners.add(sender)
            for at in range(0, len(rows), SHOWN):
                await show(_entries({"entries": rows[at : at + SHOWN]}))
            await show({"last": True})
            while given.get("watch"):
                await show(_entries(await changes.receive()))
        except (Unreachable, trio.EndOfChannel, trio.ClosedResourceError, trio.TooSlowError):
            raise Refused("the connection to the relay server broke", UNREACHABLE) from None
        finally:
            self._listeners.discard(sender)
        return {}

    async def _ask_table(self, session: Session, *, watch: bool) -> None:
        """The answer to the end, also where who asked has gone: the rest of it would be taken for another's."""
        self._table = _Table()
        with trio.CancelScope(shield=True), trio.fail_after(TABLE_S):
            await session.send("list", {"watch": watch})
            await self._table.whole.wait()
        if self._keeper.session is not session:
            raise Unreachable("it ended before the answer")
        if watch:
            self._watched = session

    async def _step_aside(self, given: Mapping[str, Any], show: Show) -> dict[str, Any]:
        if not self._temporary:
            raise Refused(
                "this terminal is logged in already, by another `posthouse terminal login` with the same --state"
            )
        # Without a bye: the login that steps in replaces ours, and what waits is taken up on it.
        self._scope.cancel()
        return {}


class _Table:
    """What the relay server has told of the table. `whole`: all of its answer, or all that will come of it."""

    def __init__(self) -> None:
        self.whole = trio.Event()
        self._rows: dict[str, tuple[float, Mapping[str, Any]]] = {}

    def take(self, body: Mapping[str, Any]) -> None:
        for row in _rows(body):
            name, gone = text(row, "name"), not text(row, "presence")
            if gone:
                self._rows.pop(name, None)
            elif name in self._rows or len(self._rows) < TABLE_LIMIT:
                self._rows[name] = trio.current_time(), row
        if body.get("last", True):
            self.whole.set()

    def rows(self) -> list[dict[str, Any]]:
        """As the relay server would say them now: times are relative."""
        now = trio.current_time()
        return [_later(row, now - told) for told, row in self._rows.values()]


def _later(row: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    age, back_in = number(row, "age"), number(row, "back_in")
    return {
        **row,
        "age": None if age is None else age + seconds,
        "back_in": None if back_in is None else max(0.0, back_in - seconds),
    }


def _plain(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a sentence is made of; the rest is nothing that JSON could carry."""
    said = {key: clean(text(body, key)) for key in ("reason", "presence", "text")}
    times = {key: number(body, key) for key in ("back_in", "wait", "age")}
    return {key: value for key, value in {**said, **times}.items() if value not in ("", None)}


def _rows(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = body.get("entries")
    return [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []


def _entries(body: Mapping[str, Any]) -> dict[str, Any]:
    return {"entries": [_entry(row) for row in _rows(body)]}


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": clean(text(row, "name")),
        "presence": clean(text(row, "presence")) or None,
        "relay": clean(text(row, "relay")),
        "path": [clean(name) for name in texts(row, "path")],
        "age": number(row, "age"),
        "services": [clean(name) for name in texts(row, "services")],
        "back_in": number(row, "back_in"),
    }
