"""A relay server that says anything at all: a login, and what others ask of it, go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.protocol import relay
from appliance.storage.disk import Disk
from appliance.terminal import holder, sentences
from appliance.terminal.callee import Callee
from appliance.terminal.dial import Endpoint
from appliance.terminal.state import State
from fakes.terminal import house

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=9) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = ("id", "from", "to", "service", "certificate", "path", "wait", "ticket", "reason", "presence", "back_in", "text",
        "entries", "last", "name", "relay", "age", "services", "code")  # fmt: skip
BODIES = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=8)
ROUGH = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ROUGH
@given(BODIES, st.lists(BODIES | ANYTHING, max_size=3))
def test_every_body_becomes_words_and_json(body: dict[str, Any], rows: list[Any]) -> None:
    plain = holder._plain(body)
    json.dumps(plain, allow_nan=False)
    for text in (sentences.refusal("pc2", "ssh", body), sentences.waiting("pc2", "ssh", plain)):
        assert text.isprintable()
    for entry in holder._entries({"entries": rows})["entries"]:
        json.dumps(entry, allow_nan=False)
        assert "".join(sentences.row(entry)).isprintable()


class Unheard:
    """A session whose answers nobody reads."""

    address, name = Endpoint("127.0.0.1", 1), "pc1"

    async def send(self, kind: str, body: Any = None) -> None:
        relay.encode(kind, body)


@ROUGH
@given(st.lists(st.tuples(st.sampled_from(["invite", "ready", "cancel"]), BODIES), max_size=5))
def test_every_call_that_comes_in_is_taken_or_passed_over(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, dict[str, Any]]]
) -> None:
    state = State(tmp_path_factory.getbasetemp() / "hostile", Disk())
    state.prepare()
    session: Any = Unheard()

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                callee = Callee(state, {"": Endpoint("127.0.0.1", 1)}, lambda text: None, nursery)
                for kind, body in calls:
                    callee.take(session, kind, body)

    trio.run(main)


async def test_a_login_outlives_whatever_its_relay_server_says(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        process = await one.login()
        odd: list[Any] = [[], {}, 7, "x", -1, 1e308, b"x" * 20, None, [b""], {"a": []}]
        for kind in ("invite", "ready", "unavailable", "waiting", "cancel", "table", "welcome", "new", "pong", "route"):
            for value in odd:
                await h.relay.logins["pc1"].send(kind, **dict.fromkeys(KEYS, value))
        done = await one.run("list")
        assert done.returncode == 0 and b"pc1" in done.stdout, done.stderr
        assert "is logged in" in one.said and one.said.count("is logged in") == 1 and process.returncode is None


@pytest.mark.parametrize("data", [b"\xff" * 8, b"\0\0\0\x01\xc1", relay.encode("error", {"code": "internal"})])
async def test_what_is_no_message_ends_the_connection_and_another_is_made(tmp_path: Path, data: bytes) -> None:
    async with house(tmp_path) as h:
        one = h.terminal("pc1")
        await one.login()
        login = h.relay.logins["pc1"]
        await login.stream.send_all(data)
        if b"error" in data:
            await login.cut()
        await one.until(lambda: h.relay.logins.get("pc1") not in (None, login), "another login")
