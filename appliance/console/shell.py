"""The shell: reads a line, finds its row in the tree, and runs the command line that the row stands for.

It holds what a person's sitting is: the terminal, its lock, the history. `run` is the command line's own `main`; what
it prints is taken up and shown a page at a time, or as it comes.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Final

from appliance.console.history import History, may_be_kept
from appliance.console.house import House
from appliance.console.lock import Lock
from appliance.console.parse import LineError, argv, choices, parse
from appliance.console.terminal import Interrupts, Terminal, TimedOut, can_edit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from appliance.console.editor import Editor
    from appliance.console.parse import Parsed

__all__ = ["main"]

LINE_LIMIT: Final = 4000
"""Characters of a line that is read: a value of the configuration is shorter."""


class _Left(Exception):
    """The person leaves the console."""


def main(file: Path, run: Callable[[Sequence[str]], int]) -> int:
    """Until the person leaves; -> the exit code. `run(arguments)` is the command line; `file` the configuration."""
    interrupts, terminal = Interrupts(), Terminal()
    try:
        Shell(file, run, terminal, interrupts).sit()
    except (EOFError, _Left):
        terminal.say("")
    return 0


class Shell:
    def __init__(
        self, file: Path, run: Callable[[Sequence[str]], int], terminal: Terminal, interrupts: Interrupts
    ) -> None:
        self._file = file
        self._run_verb = run
        self._terminal = terminal
        self._interrupts = interrupts
        self._house = House(file)
        self._lock = Lock(file, terminal)
        self._history = History(self._house.state)
        self._editor: Editor | None = None
        self._held = ""
        """The beginning of the line about which a `?` was asked, where lines are plain."""
        if terminal.is_one and can_edit(0):
            from appliance.console.editor import Editor

            self._editor = Editor(terminal, self._history.lines, self._house.candidates, self._explain)

    def sit(self) -> None:
        """Raises EOFError or _Left at the end."""
        self._lock.open()
        self._greet()
        while True:
            if self._lock.due:
                self._terminal.say("\nlocked: nobody has typed anything for a while")
                self._held = ""
                self._lock.open()
            try:
                with self._interrupts.allowed():
                    self._obey(self._read())
            except TimedOut:
                self._terminal.say("")
            except KeyboardInterrupt:
                self._interrupts.came = True  # the editor sees the key itself
            if self._interrupts.came:  # also where a verb took it for its end
                self._interrupts.came = False
                self._held = ""
                self._terminal.forget_typed()
                self._terminal.say("")

    def _greet(self) -> None:
        status = self._house.ask("status")
        if status is None:
            self._terminal.say("no Posthouse runs here: this console works on the stored configuration")
        else:
            self._terminal.say(f"Posthouse {status['version']} for {status['site']}")
        self._terminal.say("? lists what can be typed, at every word; Ctrl-C stops what was asked for")

    def _prompt(self) -> str:
        return "posthouse> "

    # ---- reading
    def _read(self) -> str:
        if self._editor is not None:
            return self._editor.read_line(self._prompt, self._lock.until)
        return self._held + self._terminal.read_line(self._prompt() + self._held, self._lock.until())

    def _explain(self, line: str) -> bool:
        """Shows what may come at the end of the line; False where a question mark is part of what is typed."""
        try:
            found = choices(line, self._house.candidates)
        except LineError as error:
            self._wrong(line, error)
            return True
        if not found:
            return False
        width = min(28, max(len(choice.name) for choice in found))
        self._terminal.say("\n".join(f"  {c.name.ljust(width)}  {c.help}".rstrip() for c in found))
        return True

    def _obey(self, line: str) -> None:
        """One line. Raises KeyboardInterrupt, TimedOut, EOFError, _Left."""
        self._held = ""
        line = line[:LINE_LIMIT]
        if self._editor is None and line[-1:] in ("?", "\t") and self._explain(line[:-1]):
            self._held = line[:-1]
            return
        if not line.strip():
            return
        try:
            parsed = parse(line)
        except LineError as error:
            self._wrong(line, error)
            return
        if may_be_kept(parsed):
            self._history.add(line.strip())
        if self._editor is not None:
            self._editor.remember(self._history.lines)
        self._do(parsed)

    def _wrong(self, line: str, error: LineError) -> None:
        """The line, a mark below the word that it is about, and what is wrong with it."""
        self._terminal.say(f"  {line.rstrip()}\n  {' ' * error.at}^ {error}")

    # ---- doing
    def _do(self, parsed: Parsed) -> None:
        match argv(parsed):
            case ["@exit"]:
                raise _Left
            case ["@help", *line]:
                self._explain(" ".join([*line, ""]).lstrip())
            case arguments:
                self._run(arguments, live=parsed.row.live)

    def _run(self, arguments: Sequence[str], *, live: bool = False) -> int:
        """Runs a verb of the command line and shows what it prints."""
        said = io.StringIO()
        out = self._terminal.writer if live else said
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                code = self._run_verb(["--config", str(self._file), *arguments])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        if said.getvalue():
            self._terminal.page(said.getvalue(), self._lock.until)
        return code
