"""The console's tree of verbs: what a line means, what is wrong with it and where, what could come next."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.arguments import parser
from appliance.console.parse import Choice, LineError, argv, choices, completions, parse
from appliance.console.tree import ARGUMENTS, ROWS

CANDIDATES = {"message": lambda begun, given: [Choice(n, "", n) for n in ("m1", "m22") if n.startswith(begun)]}

MEANT = [
    ("show status", "status"),
    ("sh st", "status"),
    ("  show   status ", "status"),
    ("show queue", "queue"),
    ("show queue m1", "queue show -- m1"),
    ("show queue 'm 1'", "queue show -- 'm 1'"),
    ("que h -x", "queue hold -- -x"),
    ("queue", "queue"),
    ("queue show m1", "queue show -- m1"),
    ("quit", "@exit"),
    ("user add taro taro@harbour.example", "user add -- taro taro@harbour.example"),
    ("dial", "dial --watch"),
    ("term rem pc11", "config delete -- relay.account[pc11]"),
    ("term rem PC_11", "config delete -- relay.account[PC_11]"),  # also what should not have been added
    ("terminal enrol pc11", "enrol -- pc11"),
    ("why pc11", "why -- pc11"),
    ('set mail.smtp ["a:1",  "b:2"]', """config set -- mail.smtp '["a:1",  "b:2"]'"""),
    ("set user[0].quota '-5'  ", '''config set -- user[0].quota "'-5'" '''),
    ("commit", "config commit"),
    ('commit comm "why not"', "config commit '--comment=why not'"),
    ("commit confirm comment why  not", "config commit --confirm=10m '--comment=why  not'"),
    ("commit conf 5m", "config commit --confirm=5m"),
    ("config confirm", "config confirm"),
    ("rollb", "config rollback 0"),
    ("dial f", "dial --force --watch"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "runs"), MEANT)
def test_a_line_stands_for_a_command_line(line: str, runs: str) -> None:
    assert argv(parse(line)) == shlex.split(runs)


WRONG = [
    ("shwo status", 0, "unknown word; expected "),
    ("show staus", 5, "unknown word; expected "),
    ("show status now", 12, "nothing more is expected here"),
    ("show", 5, "not complete; expected "),
    ("queue hold", 11, "not complete; expected ID"),
    ("", 1, "not complete"),
    ('"', 0, "unknown word"),
    ("compare -1", 8, "is no N: so many commits ago"),
    ("commit confirm soon", 15, "is no TIME: a duration"),
    ("why PC11", 4, "is no NAME: a terminal's name, 1 to 63 of a-z 0-9 - ."),
    ("terminal enrol pc_11", 15, "is no LOGIN: the name of a terminal that logs in here, 1 to 63 of a-z 0-9 - ."),
]  # fmt: skip


@pytest.mark.parametrize(("line", "at", "text"), WRONG)
def test_an_error_points_at_its_word(line: str, at: int, text: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(line)
    assert caught.value.at == at
    assert text in str(caught.value)


def test_a_question_mark_in_a_text_is_text() -> None:
    assert choices("commit comment why", {}) == [] == choices("set mail.smtp x", {})


def test_what_could_be_several_words_says_which() -> None:
    with pytest.raises(LineError, match="could be release or remove"):
        parse("queue re m1")


def names(line: str) -> list[str]:
    return [choice.name for choice in choices(line, CANDIDATES)]


def test_a_question_lists_what_may_come() -> None:
    assert {"show", "dial", "queue"} <= set(names(""))
    assert names("sh") == ["show"]
    assert names("dial ") == ["force", "(Enter)"]
    assert names("queue hold ") == ["ID", "m1", "m22"]
    assert names("queue hold m2") == ["ID", "m22"]
    with pytest.raises(LineError, match="unknown word"):
        names("queue hodl ")


def test_a_word_that_leads_to_one_verb_alone_is_explained_by_it() -> None:
    told = {choice.name: choice.help for choice in choices("", CANDIDATES)}
    assert told["set"] == "set one place of the candidate, the configuration to be"
    assert told["user"] == "user add, passwd or remove"
    told = {choice.name: choice.help for choice in choices("commit ", CANDIDATES)}
    assert told["comment"] == "comment TEXT" and told["(Enter)"] == "check the candidate and put it in force"


def test_what_is_known_of_a_value_there_is_said_once() -> None:
    known = {"value": lambda begun, given: [Choice("VALUE", "a size", "")]}
    assert [(c.name, c.help) for c in choices("set mail.message_limit ", known)] == [("VALUE", "a size")]


def test_a_new_name_is_not_offered_among_the_old_ones() -> None:
    known = {"user": lambda begun, given: [Choice("hanako", "", "hanako")], "terminal": lambda begun, given: 1 / 0}
    assert [c.name for c in choices("user add ", known)] == ["NEW"] == [c.name for c in choices("terminal add ", known)]
    assert [c.name for c in choices("user passwd ", known)] == ["USER", "hanako"]


def test_completion_takes_the_place_of_the_last_word() -> None:
    assert completions("show sta", CANDIDATES) == (
        3,
        [Choice("status", "the line, the queue and the services", "status")],
    )
    width, found = completions("queue hold ", CANDIDATES)
    assert (width, [c.typed for c in found]) == (0, ["m1", "m22"])
    assert completions("nonsense ", CANDIDATES)[1] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.pattern)
def test_each_row_is_a_line_that_the_command_line_takes(row) -> None:  # type: ignore[no-untyped-def]
    line = row.pattern.replace("[", "").replace("]", "")
    for name in ARGUMENTS:
        line = " ".join(("7m" if name == "TIME" else "7") if word == name else word for word in line.split(" "))
    parsed = parse(line)
    assert parsed.row is row
    assert row.help and len(row.help) < 78
    runs = argv(parsed)
    if not runs[0].startswith("@") and runs != ["--version"]:
        assert parser(runs).parse_args(runs)


def test_every_argument_is_used() -> None:
    used = {word for row in ROWS for word in row.pattern.replace("[", " ").replace("]", " ").split() if word.isupper()}
    assert used == set(ARGUMENTS)


@given(st.text(max_size=60))
def test_no_line_is_too_strange(line: str) -> None:
    for strange in (line, "show " + line, "queue hold " + line):
        try:
            parse(strange)
        except LineError as error:
            assert 0 <= error.at <= len(strange) + 1
        completions(strange, CANDIDATES)
