"""Asks the questions of the first start one after the other, each answer checked as it is given, shows the result, and
lets a person go back from anywhere. It writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from appliance.config.faults import show
from appliance.config.keypath import PathError
from appliance.config.store import StoreError
from appliance.console.setup.draft import Answer, Draft
from appliance.console.setup.steps import NONE, STEPS
from appliance.console.setup.talk import Back

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.config.faults import Fault
    from appliance.console.setup.machine import Device
    from appliance.console.setup.steps import Step
    from appliance.console.setup.talk import Talk

__all__ = ["Found", "Surroundings", "Wizard"]

SEARCH: Final = "search"
FOLDERS: Final = "folders"
"""What was answered on the command line."""
_HASH: Final = re.compile(r'^(password = )"\$7\$.*"$', re.MULTILINE)


class Found(Protocol):
    """A serial port that was asked: `modem.probe.Probed`."""

    @property
    def port(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def profile(self) -> str: ...
    @property
    def baud(self) -> int: ...
    @property
    def flow(self) -> str: ...
    @property
    def wants_pin(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is looked at: the serial ports there are, what answers at some of them (seconds), the network devices, and
    the terminal that we sit at, which is no modem's."""

    ports: Callable[[], Sequence[str]]
    search: Callable[[Sequence[str]], Sequence[Found]]
    devices: Callable[[], Sequence[Device]]
    terminal: str = ""


class Wizard:
    """`draft` is what was answered so far; asked again, an answer is its question's default."""

    def __init__(self, file: Path, talk: Talk, around: Surroundings, folders: Mapping[str, Path]) -> None:
        self.draft = Draft(file, [FOLDERS, *(step.key for step in STEPS)])
        self.draft.put(FOLDERS, Answer("", [(("site", key), str(folder)) for key, folder in folders.items()]))
        self.first = True
        """Nothing is written yet."""
        self.plain: dict[str, str] = {}
        """The first user's password, for the test message, as nothing else keeps it."""
        self._talk = talk
        self._around = around
        self._found: list[Found] = []
        self._searched = False

    def run(self) -> None:
        """From the first question until the person has agreed to the result. Raises EOFError, KeyboardInterrupt, and
        StoreError where somebody else has made the first configuration."""
        self._questions(0)
        while True:
            try:
                if self._agreed():
                    return
                self._questions(0)
            except Back:
                self._questions(self._last())

    # ---- the questions
    def _questions(self, at: int) -> None:
        while at < len(STEPS):
            if self.first and self.draft.file.exists():
                raise StoreError("meanwhile there is a configuration, from a USB stick or by somebody else's hands")
            step = STEPS[at]
            if not step.when(self.draft):
                self.draft.forget(step.key)
                at += 1
                continue
            try:
                self._question(step)
                at += 1
            except Back:
                at = self._before(at)

    def _before(self, at: int) -> int:
        for earlier in range(at - 1, -1, -1):
            if STEPS[earlier].when(self.draft):
                return earlier
        self._talk.say("This is the first question. Ctrl-C leaves.")
        return at

    def _last(self) -> int:
        return self._before(len(STEPS))

    def _question(self, step: Step) -> None:
        """Until the answer will do. Raises Back."""
        talk, draft = self._talk, self.draft
        if step.heading:
            talk.show(f"\n{step.heading}")
        before = draft.get(step.key)
        choices = self._choices(step)
        while True:
            default = before.typed if before is not None and before.typed else self._default(step, choices)
            try:
                answer = self._ask(step, default, before, choices)
                if answer is None:
                    choices = self._choices(step)
                    continue
            except (PathError, ValueError) as error:
                talk.say(f"That will not do: {error}")
                continue
            if faults := draft.put(step.key, answer):
                self._tell(faults)
            else:
                return

    def _ask(self, step: Step, default: str, before: Answer | None, choices: Sequence[str]) -> Answer | None:
        """None: ask again. Raises PathError and ValueError for what will not do, Back."""
        talk = self._talk
        help_text = f"{step.help} Expected: {step.expected}." if step.expected else step.help
        if not step.hidden:
            typed = talk.ask(step.prompt, default, help_text=help_text)
        else:
            kept = before is not None and before.typed == ""
            prompt = f"{step.prompt}{' [as before]' if kept else f' [{NONE}]' if step.optional else ''}"
            typed = talk.ask(prompt, help_text=help_text, hidden=True) or ("" if kept else default)
            if not typed and kept:
                return before
            if step.twice and typed and talk.ask("Once more", help_text=help_text, hidden=True) != typed:
                raise ValueError("the two are not the same")
            self.plain[step.key] = typed
        if typed.isascii() and typed.isdigit() and 0 < int(typed) <= len(choices):
            typed = choices[int(typed) - 1]
        return self._modem(step, typed) if step.key == "port" else step.answer(self.draft, typed)

    def _tell(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            self._talk.say(f"That will not do: {show(fault.path)}: {fault.what}; expected {fault.expected}")

    # ---- what was found
    def _choices(self, step: Step) -> list[str]:
        """What a number stands for, shown."""
        if step.key == "device":
            devices = list(self._around.devices())
            self._talk.show("\n".join(f"  {n}  {device}" for n, device in enumerate(devices, 1)) or "  none was found")
            return [device.name for device in devices]
        if step.key == "port":
            if not self._searched:
                self._search()
            answering = [found for found in self._found if found.profile]
            self._talk.show("\n".join(f"  {n}  {f.port}: {f.what}" for n, f in enumerate(answering, 1)))
            for found in self._found:
                if not found.profile:
                    self._talk.show(f"  -  {found.port}: {found.what}")
            return [found.port for found in answering]
        return []

    def _default(self, step: Step, choices: Sequence[str]) -> str:
        if step.key == "device":
            return choices[0] if choices else NONE
        if step.key == "port":
            return choices[0] if choices else ""
        if step.key == "profile" and (found := self._at_port()) is not None:
            return found.profile
        return step.default(self.draft)

    def _search(self) -> None:
        self._searched = True
        ports = [port for port in self._around.ports() if port != self._around.terminal]
        if ports:
            self._talk.say(f"Looking for a modem on {', '.join(ports)} ...")
            self._found = list(self._around.search(ports))
        if not any(found.profile for found in self._found):
            self._talk.say("No modem was found. Type the path of its port, or `search` when it is plugged in.")

    def _at_port(self) -> Found | None:
        return next((f for f in self._found if f.port == self.draft.typed("port") and f.profile), None)

    def _modem(self, step: Step, typed: str) -> Answer | None:
        """Looks again, or takes a port, with the rate and flow control that the modem there has answered at."""
        if typed == SEARCH:
            self._searched = False
            return None
        answer = step.answer(self.draft, typed)
        if faults := self.draft.put(step.key, answer):
            self._tell(faults)
            return None
        if all(f.port != typed or not f.profile for f in self._found):
            self._talk.say(f"Asking at {typed} ...")
            (asked,) = self._around.search([typed])
            self._found = [*(f for f in self._found if f.port != typed), asked]
            self._talk.say(f"{typed}: {asked.what}")
            if not asked.profile and not self._talk.confirm("Take this port all the same?", default=False):
                self.draft.forget(step.key)
                return None
        settings = [(("line", 0, "name"), "line"), *answer.settings]
        if (found := self._at_port()) is not None:
            if found.baud != 115200:
                settings.append((("line", 0, "baud"), found.baud))
            if found.flow != "hardware":
                settings.append((("line", 0, "flow"), found.flow))
        return Answer(typed, settings)

    # ---- the result
    def _agreed(self) -> bool:
        """Shows what would be written; whether it is to be. Raises Back."""
        text = _HASH.sub(r'\1"(set)"', self.draft.text())
        self._talk.show(f"\n---- {self.draft.file}\n{text}---- end\n")
        if names := self.draft.secrets():
            self._talk.say(f"Passwords that others gave go to secrets.toml beside it: {', '.join(names)}.")
        if faults := self.draft.faults():
            self._tell(faults)
            return False
        return self._talk.confirm(
            "Write this?",
            default=True,
            help_text="no: the questions again, with these answers. `<`: the last question.",
        )
