"""Places of the configuration as the console offers them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.schema import ROOT
from appliance.console.paths import joined, places, values

DATA = {"user": [{"name": "hanako", "account": [{"host": "h"}]}, {}], "mail": {"smtp": ["a:25"]}}

OFFERED = [
    ("", "", [k + {"mail": ".", "user": "[", "line": "["}.get(k, "") for k in ("mail", "user", "line")]),
    ("ma", "", ["mail."]),
    ("mail", "", ["mail."]),
    ("mail.f", "", ["mail.fetch_limit"]),
    ("us", "", ["user["]),
    ("user[", "", ["user[hanako].", "user[1].", "user[2]."]),
    ("user[h", "", ["user[hanako]."]),
    ("user[hanako].q", "", ["user[hanako].quota"]),
    ("user[0].acc", "", ["user[0].account["]),
    ("user[0].account[", "", ["user[0].account[0].", "user[0].account[1]."]),
    ("account[0].ho", "user[hanako]", ["account[0].host"]),
    ("[h", "user", ["[hanako]."]),
    ("mail.smtp[", "", ["mail.smtp[0]", "mail.smtp[1]"]),
    ("mail.smtp.", "", []),
    ("nonsense.x", "", []),
    ("user[nobody].", "", []),
    ("mail]x", "", []),
]  # fmt: skip


@pytest.mark.parametrize(("begun", "context", "typed"), OFFERED)
def test_what_a_path_can_go_on_with(begun: str, context: str, typed: list[str]) -> None:
    offered = [choice.typed for choice in places(begun, context, DATA)]
    if begun:
        assert offered == typed
    else:
        assert set(typed) <= set(offered) and len(offered) == len(ROOT.entries)


@given(st.text(alphabet='maiuser[]."0 \\', max_size=20))
def test_no_path_is_too_strange(begun: str) -> None:
    for choice in places(begun, "", DATA):
        assert choice.typed.startswith(begun.rpartition(".")[0])
    values("", begun, "", DATA)


def test_a_value_is_described_and_its_words_are_offered() -> None:
    assert [c.name for c in values("", "mail.imap", "", DATA)] == ["VALUE", "true", "false"]
    assert [c.name for c in values("st", "account[0].tls", "user[0]", DATA)] == ["VALUE", "starttls"]
    assert 'a duration such as "90s"' in values("", "schedule.every", "", DATA)[0].help
    assert "unknown key" in values("", "mail.imapp", "", DATA)[0].help
    assert "a table" in values("", "mail", "", DATA)[0].help


@pytest.mark.parametrize(("context", "path", "whole"), [
    ("", "mail.", "mail"), ("", "user[", "user"), ("user[0]", "quota", "user[0].quota"), ("user", "[0]", "user[0]"),
    ("user[0]", "", "user[0]"), ("", "", ""),
])  # fmt: skip
def test_paths_are_joined(context: str, path: str, whole: str) -> None:
    assert joined(context, path) == whole
