"""Reads a line by the tree: which row it is and with what arguments; or what is wrong with it, and where; or what could
come next. Pure.

Theory of operation. The rows' patterns, their optional parts there or not, make a trie; a line is followed through it
word by word. A word that stands in the trie counts before an argument does; it may be shortened to what no other word
there begins with. A word that begins with a quote ends with it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.console.tree import ARGUMENTS, ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from appliance.console.tree import Row

__all__ = ["Candidates", "Choice", "LineError", "Parsed", "argv", "choices", "completions", "parse"]

_TOKEN: Final = re.compile(r""""((?:[^"\\]|\\.)*)"(?=\s|$)|'([^']*)'(?=\s|$)|\S+""")
_PATTERN: Final = re.compile(r"\[|\]|[^\s\[\]]+")


class LineError(Exception):
    """What is wrong; `at`: the column of the word that it is about."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.at = at


class Parsed(NamedTuple):
    """A whole line. `given`: argument -> its text, defaults too where the row has the argument."""

    row: Row
    given: Mapping[str, str]


class Choice(NamedTuple):
    """What may come next: a word as it would be typed, or an argument (`typed` is "") under its name."""

    name: str
    help: str
    typed: str


Candidates = dict[str, "Callable[[str, Mapping[str, str]], Sequence[Choice]]"]
"""`Argument.of` -> what it may be: of its beginning, and of the arguments before it."""


class _Token(NamedTuple):
    text: str
    start: int


@dataclass(slots=True)
class _Node:
    words: dict[str, _Node] = field(default_factory=dict)
    argument: str = ""
    below: _Node | None = None
    """Behind the argument."""
    row: Row | None = None


# ---- the trie
def _variants(pattern: str) -> Iterator[tuple[str, ...]]:
    """Every sequence of words and arguments that a pattern stands for."""

    def read(tokens: Iterator[str]) -> Iterator[tuple[str, ...]]:
        out: list[tuple[str, ...]] = [()]
        for token in tokens:
            if token == "]":
                break
            if token == "[":
                inner = [(), *read(tokens)]
                out = [(*one, *more) for one in out for more in inner]
            else:
                out = [(*one, token) for one in out]
        yield from dict.fromkeys(out)

    yield from read(iter(_PATTERN.findall(pattern)))


@functools.cache
def _trie(rows: tuple[Row, ...]) -> _Node:
    root = _Node()
    for row in rows:
        for variant in _variants(row.pattern):
            node = root
            for part in variant:
                if part.isupper():
                    assert node.argument in ("", part), f"two arguments at one place: {row.pattern}"
                    node.argument = part
                    node.below = node = node.below or _Node()
                else:
                    node = node.words.setdefault(part, _Node())
            assert node.row in (None, row), f"two rows with one line: {row.pattern}"
            node.row = row
    return root


# ---- reading
def _tokens(line: str) -> list[_Token]:
    """A `config` in front is the command line's way to say it: `config confirm`."""
    tokens = [_Token(_plain(m), m.start()) for m in _TOKEN.finditer(line)]
    return tokens[1:] if len(tokens) > 1 and tokens[0].text == "config" else tokens


def _plain(m: re.Match[str]) -> str:
    """A word without the quotes about it."""
    double, single = m.groups()
    if double is not None:
        return re.sub(r"\\(.)", r"\1", double)
    return m[0] if single is None else single


class _Followed(NamedTuple):
    """How far a line leads. `rest`: the argument that takes the rest of the line, once it has begun."""

    node: _Node
    given: dict[str, str]
    rest: str = ""


def _follow(line: str, tokens: Sequence[_Token], rows: tuple[Row, ...]) -> _Followed:
    """Raises LineError."""
    node, given = _trie(rows), dict[str, str]()
    for number, token in enumerate(tokens):
        word = _word(node, token)
        if word:
            node = node.words[word]
        elif node.below is None:
            expected = _named(node)
            what = f"unknown word; expected {expected}" if expected else "nothing more is expected here"
            raise LineError(what, token.start)
        else:
            name, node = node.argument, node.below
            if ARGUMENTS[name].rest:
                whole = token.text if number == len(tokens) - 1 else line[token.start :].rstrip()
                # Brackets and quotes of the configuration's own stay as they are.
                given[name] = line[token.start :].rstrip() if name == "VALUE" else whole
                return _Followed(node, given, name)
            if (form := ARGUMENTS[name].form) and not re.fullmatch(form, token.text):
                raise LineError(f"is no {name}: {ARGUMENTS[name].help}", token.start)
            given[name] = token.text
    return _Followed(node, given)


def _word(node: _Node, token: _Token) -> str:
    """The word of the trie that is meant, "" for none. Raises LineError for one that could be several."""
    if token.text in node.words:
        return token.text
    meant = [word for word in node.words if word.startswith(token.text)] if token.text else []
    if len(meant) > 1 and node.below is None:
        raise LineError(f"could be {_listed(sorted(meant))}", token.start)
    return meant[0] if len(meant) == 1 else ""


def parse(line: str, rows: tuple[Row, ...] = ROWS) -> Parsed:
    """A whole line. Raises LineError."""
    node, given, _ = _follow(line, _tokens(line), rows)
    if node.row is None:
        raise LineError(f"not complete; expected {_named(node)}", len(line.rstrip()) + 1)
    named = re.findall(r"[A-Z]+", node.row.pattern)
    defaults = {name: ARGUMENTS[name].default for name in named if ARGUMENTS[name].default}
    return Parsed(node.row, {**defaults, **given})


def argv(parsed: Parsed) -> list[str]:
    """The command line of `posthouse` that the row stands for."""
    out: list[str] = []
    for part in re.findall(r"\[[^\]]*\]|\S+", parsed.row.runs):
        optional = part.startswith("[")
        words = part[1:-1].split() if optional else [part]
        if optional and not all(name in parsed.given for word in words for name in re.findall(r"[A-Z]+", word)):
            continue
        out += [re.sub(r"[A-Z]+", lambda m: parsed.given[m[0]], word) for word in words]
    return out


# ---- what could come next
def choices(line: str, candidates: Candidates, rows: tuple[Row, ...] = ROWS) -> list[Choice]:
    """What may stand where the line ends: in place of its last word, or behind it where it ends with a blank. Raises
    LineError for what is wrong before that."""
    tokens = _tokens(line)
    last = tokens[-1] if tokens and not line[-1:].isspace() else _Token("", len(line))
    before = tokens[:-1] if last.text or last.start < len(line) else tokens
    followed = _follow(line, before, rows)
    if followed.rest:
        return []
    out = [Choice(word, _help(followed.node, word), word) for word in followed.node.words if word.startswith(last.text)]
    if name := followed.node.argument:
        argument = ARGUMENTS[name]
        offered = candidates[argument.of](last.text, followed.given) if argument.of in candidates else []
        told = any(not choice.typed for choice in offered)  # what is asked for just there, in better words
        asked = [] if told else [Choice(name, argument.help, "")]
        out += [*asked, *offered] if not last.text or offered else []
    if followed.node.row is not None and not last.text:
        out.append(Choice("(Enter)", followed.node.row.help, ""))
    if not out:
        _word(followed.node, last)
        if followed.node.below is None:
            raise LineError(f"unknown word; expected {_named(followed.node) or 'nothing more'}", last.start)
    return out


def completions(line: str, candidates: Candidates, rows: tuple[Row, ...] = ROWS) -> tuple[int, list[Choice]]:
    """(columns before the end of the line that a completion takes the place of, the completions)."""
    try:
        found = [c for c in choices(line, candidates, rows) if c.typed]
    except LineError:
        found = []
    m = re.search(r"\S*$", line)
    return len(m[0]) if m else 0, found


def _help(node: _Node, word: str) -> str:
    """Of a word at this node: its row's help where it is whole or can become no other row, else the words behind it."""
    below = node.words[word]
    if below.row is not None:
        return below.row.help
    rows = set(_rows(below))
    if len(rows) == 1 and node.row not in rows:
        return rows.pop().help
    behind = _named(below)
    return f"{word} {behind}" if behind else word


def _rows(node: _Node) -> Iterator[Row]:
    """All that a line which has come so far can become."""
    if node.row is not None:
        yield node.row
    for below in (*node.words.values(), *([node.below] if node.below else [])):
        yield from _rows(below)


def _named(node: _Node) -> str:
    """What may come at this node, in words."""
    return _listed([*sorted(node.words), *([node.argument] if node.argument else [])])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}" if words else ""
