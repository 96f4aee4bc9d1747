"""The shell: reads a line, finds its row in the tree, and runs the command line that the row stands for.

It holds what a person's sitting is: the terminal, its lock, the history. `run` is the command line's own `main`; what
it prints is taken up and shown a page at a time, or as it comes.
"""

from __future__ import annotations

import contextlib
import io
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.config.command import this_editor
from appliance.config.keypath import PathError, entry_at, resolve
from appliance.config.schema import Table
from appliance.console.history import History, may_be_kept
from appliance.console.house import Editing, House
from appliance.console.lock import Lock
from appliance.console.login_shell import login_shell
from appliance.console.parse import LineError, argv, choices, parse
from appliance.console.paths import joined
from appliance.console.safe import safe
from appliance.console.terminal import Interrupts, Terminal, TimedOut, can_edit
from appliance.storage.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.console.editor import Editor
    from appliance.console.parse import Parsed

__all__ = ["main"]

WRONG: Final = 2
"""The exit code of a line that can't be obeyed."""
BACK_S: Final = 2.0
"""So long after its time a commit that is not confirmed has gone back."""
AGAIN_S: Final = 30.0
"""Where it has not (a disk that takes nothing), it is looked for again."""
LINE_LIMIT: Final = 4000
"""Bytes of a line that is obeyed. On plain lines the kernel drops what is beyond 4095 (termios(3)) without a word: a
line that may have lost its end is refused, never obeyed by halves."""
SHOWN_BEHIND: Final = 60
"""Characters of a wrong line that are shown behind the mark: on a slow line each costs a millisecond."""


class _Left(Exception):
    """The person leaves the console."""


def main(file: Path, run: Callable[[Sequence[str]], int], *, unlocked: bool = False) -> int:
    """Until the person leaves; -> the exit code: where no terminal is, that of the last line. `run(arguments)` is the
    command line; `file` the configuration; `unlocked`: who sits there is not asked for the password at the begin."""
    interrupts, terminal = Interrupts(), Terminal()
    try:
        shell = Shell(file, run, terminal, interrupts)
        shell.sit(unlocked=unlocked)
    except _Left:
        pass
    except EOFError:
        with contextlib.suppress(EOFError):
            if terminal.is_one:
                terminal.say("")
    return 0 if terminal.is_one else shell.code


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
        self._editing = Editing()
        self.code = 0
        """Of the last line."""
        self._site = "posthouse"
        self._editor = self._make_editor()
        self._held = ""
        """The beginning of the line about which a `?` was asked, where lines are plain."""

    def _make_editor(self) -> Editor | None:
        """None where lines are plain."""
        if not (self._terminal.is_one and can_edit(0)):
            return None
        from appliance.console.editor import Editor

        return Editor(self._terminal, self._history.lines, self._house.candidates, self._explain)

    def sit(self, *, unlocked: bool) -> None:
        """Raises EOFError or _Left at the end."""
        if not unlocked:
            self._lock.open()
        self._interruptible(self._greet)
        while True:
            if self._lock.due:
                self._terminal.say("\nlocked: nobody has typed anything for a while")
                self._held = ""
                self._lock.open()  # which no key interrupts
            self._interruptible(self._turn)

    def _interruptible(self, act: Callable[[], None]) -> None:
        """Until it ends, somebody presses Ctrl-C, or nobody has typed anything in time."""
        try:
            with self._interrupts.allowed():
                act()
        except TimedOut:
            self._terminal.say("")
        except KeyboardInterrupt:
            self._interrupts.came = True  # the editor sees the key itself
        if self._interrupts.came:  # also where a verb took it for its end
            self._interrupts.came = False
            self._held = ""
            self._terminal.forget_typed()
            self._terminal.say("")

    def _turn(self) -> None:
        """One line, and what it asks for."""
        self._look()
        self._obey(self._read())

    def _greet(self) -> None:
        status = self._house.ask("status")
        self._site = self._house.name or self._site
        self._editing = self._house.editing()
        if not self._terminal.is_one:
            return  # a program wants the answers alone
        if status is None:
            self._terminal.say(
                "no Posthouse runs here, or it is starting: this console works on the stored configuration"
            )
        else:
            self._terminal.say(f"Posthouse {status['version']} for {status['site']}")
        self._terminal.say("? lists what can be typed, at every word; Ctrl-C stops what was asked for")
        if (editor := self._editing.editor) is not None and editor != this_editor():
            self._terminal.say(f"{editor} is editing the configuration: `compare` shows what")

    def _look(self) -> None:
        """How it stands with the candidate, for the prompt; a commit that went back meanwhile is told of."""
        before, self._editing = self._editing, self._house.editing()
        if before.back_at is not None and self._editing.back_at is None and (back := self._house.went_back()):
            self._terminal.say(f"the last commit was not confirmed in time: {back}")

    def _prompt(self) -> str:
        editing = self._editing
        context = f" [{self._house.context}]" if self._house.context else ""
        left = f" ({_left(editing.back_at - time.monotonic())})" if editing.back_at is not None else ""
        return safe(f"{self._site}{'*' if editing.editor else ''}{context}{left}> ", ascii_only=True)

    def _until(self) -> float:
        """When to leave off waiting for a line: to lock, or to see that a commit went back."""
        back_at, now = self._editing.back_at, time.monotonic()
        if back_at is None:
            return self._lock.until()
        look_at = back_at + BACK_S
        return min(self._lock.until(), look_at if look_at > now else now + AGAIN_S)

    # ---- reading
    def _read(self) -> str:
        if self._editor is not None:
            return self._editor.read_line(self._prompt, self._until)
        return self._held + self._terminal.read_line(self._prompt() + self._held, self._until())

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
        if len(line.encode(errors="replace")) > LINE_LIMIT:
            self._terminal.say(f"the line is too long: nothing was done; expected {LINE_LIMIT} bytes at most")
            self.code = WRONG
            return
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
        if may_be_kept(parsed, self._house.takes_open_value):
            self._history.add(line.strip())
        if self._editor is not None:
            self._editor.remember(self._history.lines)
        self._do(parsed)

    def _wrong(self, line: str, error: LineError) -> None:
        """The line, a mark below the word that it is about, and what is wrong with it."""
        self.code = WRONG
        line = line.rstrip()
        cut = "…" if len(line) > error.at + SHOWN_BEHIND else ""
        self._terminal.say(f"  {line[: error.at + SHOWN_BEHIND]}{cut}\n  {' ' * error.at}^ {error}")

    # ---- doing
    def _do(self, parsed: Parsed) -> None:
        typed = parsed.given.get("PATH", "")
        path = joined(self._house.context, typed)
        if path and "PATH" in parsed.row.pattern:
            parsed = parsed._replace(given={**parsed.given, "PATH": path})
        if parsed.row.ask and not self._sure(parsed.row.ask):
            return
        match argv(parsed):
            case ["@exit"]:
                raise _Left
            case ["@help", *line]:
                self._explain(" ".join([*line, ""]).lstrip())
            case ["@edit", *_]:
                self._edit(path if typed else "")
            case ["@save", name]:
                self._save(Path(name))
            case ["@load", name]:
                self._load(Path(name))
            case ["@shell"]:
                self._start_shell()
            case arguments:
                self._run(arguments, live=parsed.row.live)

    def _sure(self, word: str) -> bool:
        """Whether a person types the word out once more."""
        typed = self._terminal.read_line(f"type {word} once more to do it: ", self._lock.until())
        if typed.strip() != word:
            self._terminal.say("nothing was done")
        return typed.strip() == word

    def _edit(self, path: str) -> None:
        """Paths count from this table on."""
        try:
            place = resolve(path, self._house.candidate())
            if place and not isinstance(entry_at(place), Table):
                raise PathError(f"{path} is no table")
            self._house.context = path
        except PathError as error:
            self._terminal.say(str(error))

    def _save(self, file: Path) -> None:
        text = io.StringIO()
        try:
            if self._call(["config", "show"], text) == 0:
                Disk().replace_file(file.absolute(), text.getvalue().encode())
            else:
                self._terminal.put(text.getvalue())
        except OSError as error:
            self._terminal.say(f"{file}: {error.strerror or error}")

    def _load(self, file: Path) -> None:
        try:
            text = file.read_text("utf-8")
        except (OSError, ValueError) as error:
            self._terminal.say(f"{file}: {getattr(error, 'strerror', '') or error}")
            return
        before, sys.stdin = sys.stdin, io.StringIO(text)
        try:
            self._run(["config", "load"])
        finally:
            sys.stdin = before

    def _start_shell(self) -> None:
        """Until it ends; what the terminal can do may be another thing then."""
        with self._terminal.lent():
            why = login_shell(self._lock.idle_s)
        if why:
            self._terminal.say(why)
        self._editor = self._make_editor()

    def _run(self, arguments: Sequence[str], *, live: bool = False) -> int:
        """Runs a verb of the command line and shows what it prints."""
        if live:
            return self._call(arguments, self._terminal.writer)
        said = io.StringIO()
        code = self._call(arguments, said)
        self._terminal.page(said.getvalue(), self._lock.until)
        return code

    def _call(self, arguments: Sequence[str], out: Any) -> int:
        """-> the exit code of that command line."""
        self.code = self._ended(arguments, out)
        return self.code

    def _ended(self, arguments: Sequence[str], out: Any) -> int:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                return self._run_verb(["--config", str(self._file), *arguments])
            except SystemExit as end:
                return end.code if isinstance(end.code, int) else 1
            except EOFError:  # the terminal is gone
                raise
            except Exception as defect:  # a person who has no other way in goes on
                print(f"posthouse: this is a defect, please report it: {defect!r}", file=out)
                return 1


def _left(seconds: float) -> str:
    """Of a commit's time, so that the prompt changes seldom; inf: nobody runs who would take it back now."""
    if seconds == math.inf:
        return "to confirm"
    left = f"{round(seconds / 60)} min" if seconds >= 90 else f"{max(0, math.ceil(seconds / 5) * 5)} s"
    return f"{left} to confirm"
