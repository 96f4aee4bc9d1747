"""What the first start says of a call: a sentence for every outcome, and for every state on the way."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.call import LineState, Outcome
from appliance.console.setup.advice import ADVICE, STATES, advice


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_sentences(outcome: Outcome) -> None:
    said = ADVICE[outcome]
    assert said.what[0].isupper() and said.what.endswith(".")
    assert "-" not in outcome.value or outcome.value not in said.what, "in plain words"
    assert (said.todo == "") == (outcome is Outcome.COMPLETE)
    assert not said.todo or (said.todo[0].isupper() and said.todo.endswith("."))
    assert advice({"outcome": outcome.value, "failed": 0}) == said


def test_no_two_say_the_same() -> None:
    assert len({said.what for said in ADVICE.values()}) == len(Outcome) == len(ADVICE)


@pytest.mark.parametrize("call", [{"outcome": "complete", "failed": 1}])
def test_a_call_in_which_a_server_failed_is_not_complete(call: dict[str, Any]) -> None:
    assert advice(call) == ADVICE[Outcome.PARTIAL]


def test_every_state_has_its_words() -> None:
    assert set(STATES) == set(LineState)
    assert len(set(STATES.values())) == len(STATES)
