"""The house's rules of import and size (docs/architecture.md), each ban with its reason, read from the source by `ast`.

An import counts wherever it stands: at the top, inside a function, under TYPE_CHECKING. Every rule is proved able to
fail by a small broken sample.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LIMIT = 500

LEAVES = ("appliance.call", "appliance.clock", "appliance.events")
ROOMS = ("mail", "relay", "modem", "network", "calls", "host")
SHARED = (*LEAVES, "appliance.config.model", "appliance.protocol", "appliance.transport", "appliance.storage")
IO = (
    "asyncio", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select", "selectors",
    "shutil", "signal", "smtplib", "socket", "socketserver", "subprocess", "tempfile", "threading", "time", "trio",
)  # fmt: skip


@dataclass(frozen=True)
class Only:
    """Of the project's own modules, those under `who` import these and themselves, nothing else."""

    who: str
    may: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Never:
    """Modules under `who` do not import these, whoever wrote them."""

    who: str
    what: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class OneModule:
    """At most one module of the whole package imports `what`, and it lies under `where`."""

    what: str
    where: str
    reason: str


Rule = Only | Never | OneModule

RULES: tuple[Rule, ...] = (
    *(Only(leaf, LEAVES, "a leaf that every room may import must itself bring nothing along") for leaf in LEAVES),
    Only("appliance.config.model", (), "the configuration's types are data; services are handed slices of them"),
    Only("appliance.config", (*LEAVES, "appliance.storage", "appliance.protocol.names"),
         "reading the configuration needs no service"),
    Only("appliance.storage", LEAVES, "the door to the disk knows nobody who walks through it"),
    Only("appliance.protocol", (), "a protocol is bytes in, events out: whoever drives it stays outside"),
    Never("appliance.protocol", IO, "sans-IO: no network, clock, file, thread or log, so every byte can be tested"),
    Only("appliance.transport", (*LEAVES, "appliance.config.model", "appliance.protocol", "appliance.storage"),
         "a transport drives a protocol over a stream and runs on any system"),
    Only("appliance.calls", (*LEAVES, "appliance.config.model", "appliance.storage"),
         "calls runs jobs on a line and knows neither mail nor modem"),
    *(Only(f"appliance.{room}", SHARED, "rooms meet in app alone, so each can be understood and replaced by itself")
      for room in ROOMS if room != "calls"),
    Only("appliance.terminal", (*LEAVES, "appliance.protocol", "appliance.transport", "appliance.storage"),
         "a terminal runs on any PC, without the appliance's parts"),
    Only("appliance.control", SHARED, "the control socket is handed its dispatch table, it fetches no room"),
    Only("appliance.console", (*SHARED, "appliance.config", "appliance.control.client"),
         "the console is a client of the control socket alone; its views are the command line's"),
    Only("appliance.lab", SHARED, "the laboratory runs the product as a child, and would test a different thing"),
    Only("appliance.supervisor", LEAVES, "the supervisor runs what it is handed and knows no service"),
    Never("appliance.app", ("appliance.lab", "appliance.console", "appliance.terminal", "appliance.cli"),
          "the appliance itself needs no laboratory, console, terminal or command line"),
    OneModule("prompt_toolkit", "appliance.console", "costs 70 ms and more: a dumb terminal does without it"),
    OneModule("serial", "appliance.modem", "pyserial sets VMIN back at every turn: one place keeps that in check"),
    OneModule("systemd", "appliance.host", "optional and Linux's own: everything else runs without it"),
    OneModule("pyroute2", "appliance.network", "costs 80 ms and 13 MB, and its sockets are bound to a thread"),
)  # fmt: skip

Sources = dict[str, str]


def sources() -> Sources:
    """module name -> its text, of the whole package."""
    out = {}
    for path in sorted((ROOT / "appliance").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return out


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def imports(module: str, text: str, known: set[str]) -> Iterator[str]:
    """Full names of what a module imports; `from appliance import events` counts as `appliance.events`."""
    for node in ast.walk(ast.parse(text, module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in known or base == "appliance" else base


def violations(tree: Sources, rules: tuple[Rule, ...] = RULES) -> list[str]:
    known = set(tree)
    graph = {module: sorted(set(imports(module, text, known))) for module, text in tree.items()}
    out = []
    users: dict[str, list[str]] = defaultdict(list)
    for module, wanted in graph.items():
        for name in wanted:
            users[name.split(".")[0]].append(module)
            out += [f"{module} imports {name}: {rule.reason}" for rule in rules if _broken(rule, module, name)]
    for rule in rules:
        if isinstance(rule, OneModule):
            who = sorted(set(users[rule.what]))
            if len(who) > 1:
                out.append(f"{' and '.join(who)} import {rule.what}: {rule.reason}")
            out += [
                f"{w} imports {rule.what}, not under {rule.where}: {rule.reason}"
                for w in who
                if not under(w, rule.where)
            ]
    for module, text in tree.items():
        lines = text.count("\n")
        if lines > MODULE_LIMIT:
            out.append(f"{module} has {lines} lines: over {MODULE_LIMIT} nobody reads a module whole")
    return out


def _broken(rule: Rule, module: str, name: str) -> bool:
    if isinstance(rule, OneModule) or not under(module, rule.who):
        return False
    if isinstance(rule, Never):
        return any(under(name, banned) for banned in rule.what)
    return under(name, "appliance") and name != "appliance" and not any(under(name, p) for p in (rule.who, *rule.may))


# ---- who may write files
WRITERS = {
    "os": {"open", "write", "pwrite", "rename", "replace", "link", "unlink", "remove", "mkdir", "makedirs", "truncate",
           "ftruncate", "fsync", "fdatasync", "rmdir", "symlink"},
    "shutil": {"copy", "copyfile", "copy2", "copytree", "move", "rmtree"},
    "tempfile": {"mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory"},
}  # fmt: skip
NOT_THE_STATE = (
    "appliance.storage",
    "appliance.lab",
    "appliance.modem.port",
    "appliance.relay.circuits",
    "appliance.modem.ppp_helper",
    "appliance.host.leds",
    "appliance.host.button",
)
"""The door itself; the laboratory, whose files are not the appliance's; a serial port and sockets, which are no files;
pppd's root helper, which hands it its options in memory and sets two switches of the kernel; the files of LEDs in
/sys, which are the kernel's; the board's button, which is only read."""


def file_writes(tree: Sources) -> list[str]:
    """Calls that write files outside `storage/`: a power cut there is tested by nobody."""
    out = []
    for module, text in tree.items():
        if any(under(module, p) for p in NOT_THE_STATE):
            continue
        for node in ast.walk(ast.parse(text, module)):
            if isinstance(node, ast.Call) and (what := _writes(node)):
                out.append(
                    f"{module}:{node.lineno} {what}: only storage writes files, so that a power cut can be replayed"
                )
    return out


def _writes(call: ast.Call) -> str:
    f = call.func
    if isinstance(f, ast.Attribute):
        if f.attr in ("write_text", "write_bytes"):
            return f.attr
        if isinstance(f.value, ast.Name) and f.attr in WRITERS.get(f.value.id, ()):
            return f"{f.value.id}.{f.attr}"
    position = {"open": 1} if isinstance(f, ast.Name) else {"open": 0}  # open(path, mode), path.open(mode)
    name = f.id if isinstance(f, ast.Name) else f.attr if isinstance(f, ast.Attribute) else ""
    if name in position:
        modes = [*call.args[position[name] :][:1], *(k.value for k in call.keywords if k.arg == "mode")]
        if any(isinstance(m, ast.Constant) and isinstance(m.value, str) and set(m.value) & set("wax+") for m in modes):
            return "open for writing"
    return ""


# ---- the tests
def test_the_house_keeps_its_rules() -> None:
    assert violations(sources()) == []


def test_only_storage_writes_files() -> None:
    assert file_writes(sources()) == []


BROKEN = [
    ("appliance.mail.routing", "from appliance.modem import port", "rooms meet in app alone"),
    ("appliance.mail.routing", "from appliance.calls.policy import decide", "rooms meet in app alone"),
    ("appliance.modem.port", "import appliance.mail.envelope", "rooms meet in app alone"),
    ("appliance.modem.port", "from ..host import notify", "rooms meet in app alone"),
    ("appliance.calls.cycle", "from appliance.protocol import at", "knows neither mail nor modem"),
    ("appliance.calls.cycle", "def f():\n    from appliance.mail import office", "knows neither mail nor modem"),
    ("appliance.protocol.at", "import trio", "sans-IO"),
    ("appliance.protocol.at", "from os import path", "sans-IO"),
    ("appliance.protocol.at", "import socket as s", "sans-IO"),
    ("appliance.protocol.at", "from time import monotonic", "sans-IO"),
    ("appliance.protocol.at", "import logging", "sans-IO"),
    ("appliance.protocol.at", "from pathlib import Path", "sans-IO"),
    ("appliance.protocol.at", "from appliance import events", "bytes in, events out"),
    ("appliance.clock", "from appliance.storage import disk", "must itself bring nothing along"),
    ("appliance.storage.disk", "from appliance.mail import envelope", "knows nobody"),
    ("appliance.transport.tls", "from appliance.mail import envelope", "runs on any system"),
    ("appliance.terminal.login", "from appliance.relay import registry", "without the appliance's parts"),
    ("appliance.terminal.login", "from appliance.config import model", "without the appliance's parts"),
    ("appliance.lab.modem", "from appliance.app import run", "would test a different thing"),
    ("appliance.lab.modem", "from appliance.mail.store import spool", "would test a different thing"),
    ("appliance.control.server", "from appliance.mail import office", "fetches no room"),
    ("appliance.supervisor", "from appliance.mail import office", "knows no service"),
    ("appliance.app", "from appliance.lab import modem", "needs no laboratory"),
    ("appliance.config.model", "from appliance.config import load", "types are data"),
    ("appliance.mail.routing", "import serial", "not under appliance.modem"),
    ("appliance.mail.routing", "import systemd.journal", "not under appliance.host"),
    ("appliance.mail.routing", "from pyroute2 import IPRoute", "not under appliance.network"),
    ("appliance.mail.routing", "x = 1\n" * (MODULE_LIMIT + 1), "nobody reads a module whole"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "text", "why"), BROKEN, ids=[f"{m}: {t.splitlines()[-1]}" for m, t, _ in BROKEN])
def test_a_broken_sample_is_found(module: str, text: str, why: str) -> None:
    found = violations({module: text})
    assert any(why in v for v in found), found


def test_a_second_importer_is_found() -> None:
    tree = {"appliance.modem.port": "import serial", "appliance.modem.dial": "import serial.tools"}
    assert any("appliance.modem.dial and appliance.modem.port import serial" in v for v in violations(tree))


@pytest.mark.parametrize("text", [
    "import os\nos.unlink('x')", "p.write_text('x')", "open('x', 'wb')", "p.open('a')",
    "import shutil\nshutil.rmtree('x')", "open('x', mode='r+')",
])  # fmt: skip
def test_a_file_written_elsewhere_is_found(text: str) -> None:
    assert file_writes({"appliance.mail.x": text})
    assert not file_writes({"appliance.storage.x": text})


def test_allowed_imports_are_not_found() -> None:
    tree = {
        "appliance.mail.x": "import trio\nfrom appliance import events\nfrom appliance.config.model import Mail\n"
                            "from appliance.mail.store import spool\nfrom appliance.protocol import smtp_client",
        "appliance.app": "from appliance.mail import office\nfrom appliance.calls import cycle",
        "appliance.modem.port": "import serial",
        "appliance.mail.y": "f = open('x', 'rb')\ndata = p.read_bytes()",
    }  # fmt: skip
    assert violations(tree) == []
    assert file_writes(tree) == []


def loaded_by(module: str) -> list[str]:
    program = f"import {module}, sys; print(*sorted(sys.modules), sep='\\n')"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    ).stdout.split()


def test_an_appliance_without_a_relay_server_loads_none() -> None:
    """Nor pyroute2, where it has no interfaces: a board's start and its memory pay for each of them."""
    loaded = loaded_by("appliance.app")
    assert "appliance.mail.office" in loaded
    assert [m for m in loaded if any(under(m, h) for h in ("appliance.relay", "pyroute2"))] == []


def test_the_command_line_loads_no_room() -> None:
    """`posthouse --help` on a terminal's PC must neither need nor pay for the appliance's rooms."""
    loaded = loaded_by("appliance.cli")
    heavy = [f"appliance.{room}" for room in (*ROOMS, "app", "lab", "console", "terminal", "control")]
    outside = ["serial", "systemd", "pyroute2", "prompt_toolkit", "cryptography", "trio"]
    assert "appliance.cli" in loaded
    assert [m for m in loaded if any(under(m, h) for h in [*heavy, *outside])] == []
