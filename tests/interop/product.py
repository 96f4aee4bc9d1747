"""The product as a person meets it: a configuration file, `posthouse run` as a child process, and its command line.

`Product` owns a folder of its own under `root`; nothing of the product is imported. `Site` adds the laboratory's
telephone line, gates to provider's servers, and users with accounts there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.lab.laboratory import NUMBER, LabThread
from fakes.ports import free_port

from . import clients
from .clients import Login
from .providers import Certificates, end_process, wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
PASSWORD = "Blau-Kessel-42"
START_S = 30.0
VERB_S = 120.0

Table = dict[str, Any]


def toml(table: Table, path: str = "") -> str:
    """A nested dict as TOML; a list of dicts is an array of tables."""
    plain, deep = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            deep.append(f"\n[{path}{key}]\n" + toml(value, f"{path}{key}."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            deep += [f"\n[[{path}{key}]]\n" + toml(one, f"{path}{key}.") for one in value]
        else:
            plain.append(f"{key} = {_value(value)}\n")
    return "".join(plain + deep)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)


@functools.cache
def hashed(password: str) -> str:
    """The string that `posthouse passwd` makes."""
    argv = [sys.executable, "-m", "appliance", "passwd"]
    done = subprocess.run(argv, input=password + "\n", capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    return done.stdout.strip()


def quick_lab(**options: Any) -> LabThread:
    """A laboratory that does not waste a test's time: no pacing, guard times (S12) of 0.2 s."""
    return LabThread(**{"paced": False, "ring_s": 0.05, "train_s": 0.05, "profile": {12: 10}, **options})


class Product:
    """`config` is the whole configuration as nested dicts, written at `start` and by `write`. `command`: what runs it."""

    command: tuple[str, ...] = ()

    def __init__(self, root: Path, config: Table, secrets: dict[str, str]) -> None:
        self.root, self.config, self.secrets = root, config, secrets
        self.file = root / "posthouse.toml"
        self.log = root / "run.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.expected_errors: list[str] = []

    # ---- the process
    def write(self) -> None:
        self.file.write_text(toml(self.config))
        secrets = self.root / "secrets.toml"
        secrets.touch(mode=0o600)
        secrets.write_text(toml(self.secrets))

    def start(self, **preparation: Any) -> None:
        """Starts it and waits until `status` answers. `preparation` goes to Popen."""
        self.write()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, sys.executable, "-m", "appliance", "run", "--config", str(self.file)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True,
                **preparation,
            )  # fmt: skip
        wait_until(self._answers, "`posthouse run` is ready", patience=START_S)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.journal()[-3000:]}"
        return self.cli("status").returncode == 0

    def stop(self) -> int:
        """SIGTERM; -> the exit code, -9 when it had to be killed."""
        assert self.process is not None
        return end_process(self.process, patience=30)

    def kill(self) -> None:
        """kill -9, as a power cut looks to the process."""
        assert self.process is not None
        end_process(self.process, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def journal(self) -> str:
        """All that it logged in all its runs."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # ---- the command line
    def cli(self, *arguments: str, patience: float = VERB_S) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "appliance", *arguments, "--config", str(self.file)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience, cwd=ROOT,
        )  # fmt: skip

    def ask(self, *arguments: str) -> Any:
        """A verb's JSON."""
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, f"{arguments}: {done.returncode} {done.stderr}\n{self.journal()[-3000:]}"
        return json.loads(done.stdout)

    def status(self) -> Table:
        return self.ask("status")  # type: ignore[no-any-return]

    def queue(self) -> list[Table]:
        return self.ask("queue")  # type: ignore[no-any-return]

    def calls(self) -> list[Table]:
        return self.ask("calls")  # type: ignore[no-any-return]

    def dial(self) -> Table:
        """A call by hand, until it has ended; -> its entry in the ledger, whatever its outcome."""
        done = self.cli("dial", "--json")
        assert done.stdout, f"dial: {done.returncode} {done.stderr}\n{self.journal()[-3000:]}"
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def dial_nowait(self) -> None:
        done = self.cli("dial", "--no-wait")
        assert done.returncode == 0, done.stderr

    def wait_calls(self, count: int, *, patience: float = 60.0) -> list[Table]:
        """Until the ledger has so many calls, all ended, and the line is idle."""

        def ended() -> list[Table] | None:
            calls = self.calls()
            whole = len(calls) >= count and all(c["ended"] for c in calls)
            return calls if whole and self.status()["line"]["state"] in ("idle", "failed") else None

        return wait_until(ended, f"{count} calls are over", patience=patience)  # type: ignore[no-any-return]


class Site(Product):
    """A product with a modem of the laboratory, `users` with an account each at Dovecot (login u0, u1, …) and
    `smtp_target` (host, port) as its smarthost; both are reached through the line's gates alone."""

    def __init__(
        self,
        root: Path,
        lab: LabThread,
        *,
        users: tuple[str, ...],
        smtp_target: tuple[str, int],
        pop3_target: tuple[str, int] | None = None,
        logins: dict[str, str] | None = None,
        tls: str = "none",
        certificates: Certificates | None = None,
        smarthost: Table | None = None,
        mail: Table | None = None,
        schedule: Table | None = None,
        line: Table | None = None,
        more: Table | None = None,
    ) -> None:
        self.lab = lab
        self.smtp, self.pop3 = free_port(), free_port()
        self.users = users
        logins = logins or {}
        self.login_of = dict(zip(users, logins, strict=False))
        ca = str(certificates.ca) if certificates else ""
        gate = lab.add_gate("site-smtp", *smtp_target)
        host: Table = {"host": "127.0.0.1", "port": gate.port, "tls": tls, "ca": ca, **(smarthost or {})}
        secrets = dict(logins)
        pop3 = lab.add_gate("site-pop3", *pop3_target) if pop3_target else None
        people = []
        for name in users:
            person: Table = {
                "name": name,
                "password": hashed(PASSWORD),
                "addresses": [f"{name}@harbour.example", f"{name}@isp.example"],
            }
            if pop3 and name in self.login_of:
                login = self.login_of[name]
                person["account"] = [{
                    "protocol": "pop3", "host": "127.0.0.1", "port": pop3.port, "tls": tls, "ca": ca, "login": login,
                    "secret": login, "backlog": "all",
                }]  # fmt: skip
            people.append(person)
        config: Table = {
            "site": {
                "name": "harbour",
                "domain": "harbour.example",
                "state": root / "state",
                "runtime": root / "run",
            },
            "line": [{
                "name": "pstn", "port": lab.lab.modem.port, "flow": "none", "numbers": [NUMBER], "bearer": "none",
                "dial_timeout": "10s", "redial_wait": "1s", "attempts": 1, **(line or {}),
            }],
            "schedule": {"min_gap": "0s", "linger": "0s", "retry": ["1h"], **(schedule or {})},
            "mail": {
                "smtp": [f"127.0.0.1:{self.smtp}"],
                "pop3": [f"127.0.0.1:{self.pop3}"],
                "bulk_size": "50MiB",
                "fetch_limit": "50MiB",
                **(mail or {}),
                "smarthost": [host],
            },
            "user": people,
            **(more or {}),
        }  # fmt: skip
        super().__init__(root, config, secrets)

    def login(self, user: str) -> Login:
        return Login(user, PASSWORD)

    def read(self, user: str, *, delete: bool = False) -> list[bytes]:
        """The user's maildrop, by POP3."""
        return clients.read_by_poplib(self.pop3, self.login(user), delete=delete)


@contextlib.contextmanager
def running(site: Product) -> Iterator[Product]:
    """Started here, and gone afterwards whatever happens. Its journal is shown when the test fails, and fails the test
    when it has an ERROR that is not among `site.expected_errors`."""
    try:
        site.start()
        yield site
        errors = [line for line in site.journal().splitlines() if re.match(r"\S+ E ", line) or "Traceback" in line]
        surprise = [e for e in errors if not any(known in e for known in site.expected_errors)]
        assert not surprise, surprise
    except BaseException:
        print(f"---- the product's journal\n{site.journal()[-8000:]}", file=sys.stderr)
        raise
    finally:
        if site.alive:
            site.kill()
