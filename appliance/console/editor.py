"""Lines edited in place, on a terminal that can: the only module that imports prompt_toolkit, which costs 70 ms.

The terminal is asked nothing (no cursor position requests): what does not answer would be waited for. Completions are
listed below the line as readline does, and no colour is used.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import Completer, Completion
from prompt_toolkit.data_structures import Size
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle

from appliance.console.parse import completions
from appliance.console.terminal import TimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prompt_toolkit.completion import CompleteEvent
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

    from appliance.console.parse import Candidates
    from appliance.console.terminal import Terminal

__all__ = ["Editor"]

LOOK_S = 1.0
"""How exactly a time-out is kept."""


class Editor:
    """Reads lines as `Terminal.read_line` does. `explain(line)` is called at a `?` and says what may come there, or
    nothing where a question mark is part of the text."""

    def __init__(
        self, terminal: Terminal, lines: list[str], candidates: Candidates, explain: Callable[[str], bool]
    ) -> None:
        self._terminal = terminal
        self._explain = explain
        self._left = ""
        """What was being typed when the line was taken away."""
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory(lines),
            completer=_Words(candidates),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=self._keys(),
            color_depth=ColorDepth.DEPTH_1_BIT,
            output=Vt100_Output(sys.stdout, self._size, enable_cpr=False, enable_bell=False),
        )
        self._session.app.key_processor.after_key_press += lambda _: self._touched()

    def _size(self) -> Size:
        rows, columns = self._terminal.size()
        return Size(rows=rows, columns=columns)

    def _touched(self) -> None:
        self._terminal.touched = time.monotonic()

    def read_line(self, prompt: Callable[[], str], until: Callable[[], float]) -> str:
        """`prompt()` and `until()` are asked again each second. Raises TimedOut, EOFError, KeyboardInterrupt."""
        app = self._session.app

        async def watch() -> None:
            while time.monotonic() < until():
                await asyncio.sleep(LOOK_S)
                if self._session.message != (now := prompt()):
                    self._session.message = now
                    app.invalidate()
            self._left = self._session.default_buffer.text
            app.exit(exception=TimedOut())

        def begin() -> None:
            app.create_background_task(watch())

        left, self._left = self._left, ""
        return self._session.prompt(prompt(), default=left, pre_run=begin)

    def remember(self, lines: list[str]) -> None:
        """The history is these from now on."""
        self._session.default_buffer.history = self._session.history = InMemoryHistory(lines)

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("c-z")
        @keys.add("c-\\")
        def _(event: KeyPressEvent) -> None:
            """No text: there is no shell to go to, and nothing to be killed."""

        @keys.add("?")
        def _(event: KeyPressEvent) -> None:
            before = event.current_buffer.document.text_before_cursor

            def show() -> None:
                if not self._explain(before):
                    event.current_buffer.insert_text("?")

            run_in_terminal(show)

        return keys


class _Words(Completer):
    def __init__(self, candidates: Candidates) -> None:
        self._candidates = candidates

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        width, found = completions(document.text_before_cursor, self._candidates)
        for choice in found:
            # A path goes on, a word is whole.
            end = "" if choice.typed.endswith((".", "[")) else " "
            yield Completion(choice.typed + end, start_position=-width, display=choice.name)
