"""`posthouse demo`: one call for everybody's mail, shown step by step on a whole Posthouse and a whole laboratory.

Several mail programs submit, nothing is dialled; a condition is met, the modem dials once, everything goes out and
every user's mail comes in over that one call; it hangs up; the users read their mail; the ledger shows the call. Each
of these is looked at where it happens (at the modem, the exchange, the line, the provider, the maildrops), never taken
from what Posthouse says of itself; the first that did not happen ends the demo with a sentence and exit code 1.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TextIO

import trio

from appliance.events import clean
from appliance.lab import clients
from appliance.lab.exchange import Progress
from appliance.lab.house import House, HouseFailed, until_told
from appliance.lab.laboratory import NUMBER, Laboratory, open_laboratory
from appliance.lab.modem import ModemState

__all__ = ["run"]

USERS: Final = ("hanako", "taro", "yuki", "ken")
PASSWORD: Final = "a-lamp-on-the-pier"
PROVIDER_PASSWORD: Final = "known-to-the-provider"
SUBMISSIONS: Final = 12
"""How many must wait for a call: the condition that is met."""
UPSTREAM: Final = (3, 2, 4, 1)
"""Messages that wait at the provider, a number for each user."""
RATE: Final = 33600
ROUND_TRIP_S: Final = 0.15
RING_S, TRAIN_S = 0.6, 0.8
LETTER_BYTES: Final = (2500, 5500)
"""Sizes of the letters: some 45 KB out and 40 KB in, so that the call can be watched and is soon over."""
UNIT_S, UNIT_PRICE = 180, 10
"""A local call in Japan by day: yen for each three minutes."""
DIAL_S: Final = 10.0
"""Deadline for the condition to become a dial, and for the whole call."""
CALL_S: Final = 45.0
PROGRESS_S: Final = 2.0
SENTENCE_LIMIT: Final = 2000
SLACK_S: Final = 2.0
"""How far the ledger's length of the call may be from the exchange's."""


class DemoFailed(Exception):
    """Something that the demo claims did not happen; the text is a sentence."""


class Narrator:
    """Says what happens, with the time since the start. Bold headings on a terminal only."""

    def __init__(self, to: TextIO) -> None:
        self.to = to
        self.started = time.monotonic()
        self._bold = to.isatty() and "NO_COLOR" not in os.environ

    def heading(self, text: str) -> None:
        print(f"\n\033[1m{text}\033[0m" if self._bold else f"\n{text}", file=self.to, flush=True)

    def say(self, who: str, text: str) -> None:
        """`who` did or says something."""
        print(f"{time.monotonic() - self.started:6.1f} s  {who:<9} {clean(text)}", file=self.to, flush=True)

    def claim(self, happened: bool, text: str, *, but: str) -> None:
        """Says that it did, or raises DemoFailed with what happened instead."""
        if not happened:
            raise DemoFailed(but)
        self.say("seen", text)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message of the demo; `data` has CRLF line ends."""

    sender: str
    recipient: str
    data: bytes = field(repr=False)


def run(*, as_json: bool = False, keep: bool = False) -> int:
    """The exit code. With `as_json` the story goes to standard error and a summary to standard output."""
    narrator = Narrator(sys.stderr if as_json else sys.stdout)
    folder = Path(tempfile.mkdtemp(prefix="posthouse-demo-"))
    # SIGTERM ends it as Ctrl-C does: with Posthouse stopped and the folder removed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    summary: dict[str, Any] = {"ok": False}
    try:
        summary |= trio.run(until_told, _demo, narrator, folder)
        summary["ok"] = True
    except BaseException as error:
        summary["failure"] = _sentence(error)
        print(f"posthouse demo: {clean(summary['failure'], SENTENCE_LIMIT)}", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        if keep:
            narrator.say("demo", f"everything is left in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print(json.dumps(summary, indent=2))
    return 0 if summary["ok"] else 1


def _sentence(error: BaseException) -> str:
    """What went wrong, in a sentence. Raises again what is none of the demo's own findings: a defect."""
    leaves = _leaves(error)
    for kind in (KeyboardInterrupt, BrokenPipeError):
        if any(isinstance(leaf, kind) for leaf in leaves):
            raise kind from None
    if not all(isinstance(leaf, DemoFailed | HouseFailed | clients.ClientFailed) for leaf in leaves):
        raise error
    return "; ".join(dict.fromkeys(str(leaf) for leaf in leaves))


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors that a group is of; an error that is no group alone."""
    return [leaf for e in error.exceptions for leaf in _leaves(e)] if isinstance(error, BaseExceptionGroup) else [error]


async def _demo(narrator: Narrator, folder: Path) -> dict[str, Any]:
    async with open_laboratory(rate=RATE, round_trip_s=ROUND_TRIP_S, ring_s=RING_S, train_s=TRAIN_S) as lab:
        demo = Demo(narrator, folder, lab)
        await demo.prepare()
        async with demo.house.running():
            narrator.say("posthouse", f"ready; SMTP on port {demo.house.smtp[1]}, POP3 on port {demo.house.pop3[1]}")
            await demo.submit_quietly()
            await demo.call()
            await demo.judge_call()
            await demo.read()
            summary = await demo.count_savings()
        narrator.claim(
            demo.house.exit_code == 0,
            "Posthouse ended cleanly when it was told to",
            but=f"Posthouse ended with exit code {demo.house.exit_code} at SIGTERM: {demo.house.tail()}",
        )
        return summary


class Demo:
    """The story's steps, in their order, and what they share."""

    def __init__(self, narrator: Narrator, folder: Path, lab: Laboratory) -> None:
        self.narrator, self.folder, self.lab = narrator, folder, lab
        self.random = random.Random(1163925)
        self.sent: list[Letter] = []
        self.used: list[str] = []
        self.upstream: dict[str, list[Letter]] = {user: [] for user in USERS}
        self.house = House(folder, {})
        self.local: Letter | None = None

    # ---- the steps

    async def prepare(self) -> None:
        """The provider's logins and waiting mail, and Posthouse's configuration."""
        narrator, lab = self.narrator, self.lab
        narrator.heading("A site and its provider")
        lab.modem.watch = lambda text: narrator.say("modem", text)
        for user, count in zip(USERS, UPSTREAM, strict=True):
            lab.provider.add_login(f"{user}-isp", PROVIDER_PASSWORD)
            for n in range(count):
                letter = self._letter(f"friend{n}@far.example", f"{user}@isp.example", full=True)
                self.upstream[user].append(letter)
                lab.provider.deliver(f"{user}-isp", letter.data)
        narrator.say("exchange", f"the provider answers {NUMBER} at {RATE} bit/s; the site's modem is {lab.modem.port}")
        narrator.say("provider", f"{lab.provider.waiting} messages wait for {len(USERS)} users: {', '.join(USERS)}")
        self.house.config = self._configuration(await self.house.hash_password(PASSWORD))
        self.house.secrets = {"isp": PROVIDER_PASSWORD}
        self.house.write()
        await self.house.ask("check")

    async def submit_quietly(self) -> None:
        """All but one of the submissions that the condition wants; the line stays down."""
        narrator, lab = self.narrator, self.lab
        programs = clients.found(clients.SUBMITTERS)
        narrator.heading(f"Mail programs submit; a call is made once {SUBMISSIONS} messages wait")
        narrator.say("site", f"mail programs on this machine: {', '.join(programs)}")
        for n in range(SUBMISSIONS - 1):
            await self._submit(programs[n % len(programs)], USERS[n % len(USERS)])
        await self._write_to_colleague()
        status = await self.house.ask_json("status")
        waiting = status["queue"]["messages"]
        narrator.claim(
            waiting == len(self.sent) and not lab.provider.received,
            f"{waiting} messages wait at the site, none is at the provider",
            but=f"{len(self.sent)} messages were submitted but {waiting} wait in the queue and "
            f"{len(lab.provider.received)} are at the provider",
        )
        narrator.claim(
            not lab.modem.dials and not lab.line.calls,
            f"the modem has dialled 0 times; next call: {status['line']['next_call_reason']}",
            but=f"the modem dialled {len(lab.modem.dials)} times before the condition was met",
        )
        await self._claim_no_way()

    async def call(self) -> None:
        """The last submission, and the call that it brings, watched until the line is down again."""
        narrator, lab = self.narrator, self.lab
        narrator.heading("The last message that was wanted: the condition is met")
        with trio.move_on_after(CALL_S) as patience:
            async with trio.open_nursery() as nursery:
                watched = await nursery.start(self.house.follow)
                nursery.start_soon(self._relay_progress, watched)
                nursery.start_soon(self._show_bytes)
                await self._submit("smtplib", USERS[0])
                with trio.move_on_after(DIAL_S):
                    await lab.modem.wait_state(ModemState.DIALLING, ModemState.ONLINE)
                if not lab.modem.dials:
                    raise DemoFailed(f"nothing was dialled though the condition is met; the log: {self.house.tail()}")
                await lab.modem.wait_state(ModemState.COMMAND)
                await self._wait_call_ended()
                nursery.cancel_scope.cancel()
        if patience.cancelled_caught:
            raise DemoFailed(
                f"the call was not over after {CALL_S:g} s: {len(lab.provider.received)} of {len(self.sent)} messages "
                f"are at the provider, {lab.provider.waiting} still wait there; the log: {self.house.tail()}"
            )

    async def judge_call(self) -> None:
        """What the call has done, seen from the other side of it."""
        narrator, lab = self.narrator, self.lab
        narrator.heading("What the call has done")
        records = lab.exchange.records
        narrator.claim(
            len(lab.modem.dials) == len(records) == 1 and records[0].progress is Progress.CONNECTED,
            f"one dial, one connection, {records[0].seconds:.1f} s long",
            but=f"the modem dialled {len(lab.modem.dials)} times: {', '.join(str(r.progress) for r in records)}",
        )
        self._claim_all_sent()
        narrator.claim(
            lab.provider.waiting == 0,
            f"every user's mail was fetched, {sum(UPSTREAM)} messages; nothing is left upstream",
            but=f"{lab.provider.waiting} of {sum(UPSTREAM)} messages are still upstream",
        )
        connections = lab.line.calls[0].connections
        told = ", ".join(f"{n} {name}" for name, n in sorted(connections.items()))
        narrator.say("line", f"connections over the call: {told}")
        await self._claim_no_way()
        self._claim_ledger(await self.house.ask_json("calls"))

    async def read(self) -> None:
        """The users read their mail over POP3, the line being down."""
        narrator = self.narrator
        narrator.heading("The users read their mail")
        programs = clients.found(clients.READERS)
        for n, user in enumerate(USERS):
            program = programs[n % len(programs)]
            login = self._login(self.house.pop3, user)
            got = await trio.to_thread.run_sync(clients.read, program, login)
            wanted = [letter.data for letter in self.upstream[user]]
            missing = [w for w in wanted if sum(_carried(w, g) for g in got) != 1]
            local = self.local is not None and self.local.recipient.startswith(f"{user}@")
            narrator.claim(
                not missing and len(got) == len(wanted) + local,
                f"{user} read {len(got)} messages by {program}, byte for byte as they were sent",
                but=f"{user} read {len(got)} messages by {program}; {len(missing)} of the {len(wanted)} that waited "
                "upstream are not among them once and whole",
            )

    async def count_savings(self) -> dict[str, Any]:
        """As `posthouse calls` counts them; what was sent and fetched is counted here once more."""
        narrator, lab = self.narrator, self.lab
        narrator.heading("Calls saved")
        calls = await self.house.ask_json("calls")
        without = len(self.sent) + sum(UPSTREAM)
        saved = without - len(lab.modem.dials)
        said = (await self.house.ask("calls")).splitlines()[-1]
        wanted = f"1 call carried {without} messages; with a call for each message that is {saved} calls saved"
        narrator.claim(said == wanted, said, but=f"`posthouse calls` says {said!r}, seen was {wanted!r}")
        (total,) = (await self.house.ask_json("report"))["total"]
        paid = math.ceil(calls[0]["duration_s"] / UNIT_S) * UNIT_PRICE
        narrator.claim(
            (total["cost"], total["each_cost"]) == (str(paid), str(without * UNIT_PRICE)),
            f"{total['cost']} JPY were paid; a call for each message would have cost {total['each_cost']} JPY",
            but=f"`posthouse report` says {total['cost']} and {total['each_cost']} JPY",
        )
        return {
            "seconds": round(time.monotonic() - narrator.started, 1),
            "programs": self.used,
            "submitted": len(self.sent),
            "fetched": sum(UPSTREAM),
            "users": len(USERS),
            "dials": len(lab.modem.dials),
            "line_bytes_out": lab.line.total("out"),
            "line_bytes_in": lab.line.total("in"),
            "calls": calls,
            "calls_one_by_one": without,
            "calls_saved": saved,
        }

    # ---- what they are made of

    def _configuration(self, password: str) -> dict[str, Any]:
        gates = {
            name: {"host": "127.0.0.1", "port": gate.port, "tls": "none"} for name, gate in self.lab.line.gates.items()
        }
        users = [
            {
                "name": user,
                "password": password,
                "addresses": [f"{user}@harbour.example", f"{user}@isp.example"],
                "account": [
                    {"protocol": "pop3", **gates["pop3"], "login": f"{user}-isp", "secret": "isp", "backlog": "all"}
                ],
            }
            for user in USERS
        ]
        line = {"name": "pstn", "port": self.lab.modem.port, "flow": "none", "numbers": [NUMBER], "bearer": "none"}
        return {
            "site": {"name": "harbour", "domain": "harbour.example"},
            "line": [{**line, "redial_wait": "1s", "tariff": "pstn"}],
            "tariff": [{"name": "pstn", "currency": "JPY", "periods": [{"unit": f"{UNIT_S}s", "price": UNIT_PRICE}]}],
            "schedule": {"queued_messages": SUBMISSIONS, "min_gap": "0s", "linger": "1s"},
            "mail": {
                "smtp": ["127.0.0.1:0"],
                "pop3": ["127.0.0.1:0"],
                "smarthost": [{**gates["smtp"], "login": f"{USERS[0]}-isp", "secret": "isp"}],
            },
            "user": users,
        }

    def _login(self, service: tuple[str, int], user: str) -> clients.Login:
        home = self.folder / f"{user}-home"
        home.mkdir(exist_ok=True)
        return clients.Login(*service, user, PASSWORD, home)

    def _letter(self, sender: str, recipient: str, *, full: bool) -> Letter:
        """`full`: with 8-bit text, lines of dots and a line beyond 78 characters."""
        number = len(self.sent) + sum(map(len, self.upstream.values())) + 1
        lines = [
            f"From: <{sender}>",
            f"To: <{recipient}>",
            f"Subject: Harbour report {number}",
            "Date: Mon, 02 Jun 2025 07:30:00 +0900",
            f"Message-ID: <{number}.{self.random.getrandbits(48):x}@{sender.partition('@')[2]}>",
            "MIME-Version: 1.0",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Transfer-Encoding: {'8bit' if full else '7bit'}",
            "",
        ]
        if full:
            lines += ["港の天気", ".", "..two dots", "a long line " + "of water " * 40, ""]
        size = self.random.randint(*LETTER_BYTES)
        while sum(len(line) + 2 for line in lines) < size:
            berth, wind = self.random.randint(1, 24), self.random.randint(0, 40)
            lines.append(f"berth {berth:2}, wind {wind:2} kn, {self.random.getrandbits(128):032x}")
        return Letter(sender, recipient, "\r\n".join([*lines, ""]).encode())

    async def _submit(self, program: str, user: str) -> None:
        letter = self._letter(
            f"{user}@harbour.example", f"friend{len(self.sent)}@far.example", full=program not in clients.CONVERTING
        )
        await self._hand_over(program, user, letter)
        self.sent.append(letter)
        if program not in self.used:
            self.used.append(program)

    async def _hand_over(self, program: str, user: str, letter: Letter) -> None:
        login = self._login(self.house.smtp, user)
        await trio.to_thread.run_sync(clients.submit, program, login, letter.sender, letter.recipient, letter.data)
        self.narrator.say(program, f"{user} to {letter.recipient}, {len(letter.data)} bytes: accepted")

    async def _write_to_colleague(self) -> None:
        """Mail between users of the site is delivered at once and waits for no call."""
        writer, reader = USERS[0], USERS[1]
        letter = self._letter(f"{writer}@harbour.example", f"{reader}@harbour.example", full=True)
        await self._hand_over("smtplib", writer, letter)
        self.local = letter
        got = await trio.to_thread.run_sync(clients.read, "poplib", self._login(self.house.pop3, reader))
        self.narrator.claim(
            [_carried(letter.data, g) for g in got] == [True],
            f"{reader} has the colleague's letter already: it needs no call",
            but=f"{reader} read {len(got)} messages instead of the colleague's letter alone",
        )

    async def _relay_progress(self, watched: trio.abc.ReceiveStream) -> None:
        """What `posthouse status --watch` shows."""
        rest = b""
        async for data in watched:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                what = json.loads(line)
                if what["text"] != what["next_call_reason"]:  # where the line stands: the story has told it
                    self.narrator.say("posthouse", f"{what['state']}: {what['text']}")

    async def _show_bytes(self) -> None:
        while True:
            await trio.sleep(PROGRESS_S)
            if self.lab.line.is_up:
                moved = self.lab.line.calls[-1].delivered
                self.narrator.say("line", f"{moved['out'] / 1024:5.1f} KiB out, {moved['in'] / 1024:5.1f} KiB in")

    async def _wait_call_ended(self) -> None:
        """Until the ledger has a call and each has ended: it is closed some time after the line."""
        while True:
            calls = await self.house.ask_json("calls")
            if calls and all(call["ended"] for call in calls):
                return
            await trio.sleep(0.2)

    async def _claim_no_way(self) -> None:
        """The provider's servers can't be reached, and have seen no connection but those of the calls."""
        lab = self.lab
        reached = [name for name, gate in lab.line.gates.items() if await _connects(gate.port)]
        carried = sum(sum(call.connections.values()) for call in lab.line.calls)
        self.narrator.claim(
            not reached and len(lab.provider.sessions) == carried and lab.modem.on_hook,
            "the modem is on-hook, and no way leads to the provider",
            but=f"with the line down {' and '.join(reached) or 'no server'} could be reached; the provider saw "
            f"{len(lab.provider.sessions)} connections, the line carried {carried}",
        )

    def _claim_all_sent(self) -> None:
        """Each letter is at the provider once, from its sender, to its recipient, its bytes unchanged."""
        received = self.lab.provider.received
        wrong = [
            letter.recipient
            for letter in self.sent
            if [r.sender for r in received if r.addresses == (letter.recipient,) and _carried(letter.data, r.data)]
            != [letter.sender]
        ]
        self.narrator.claim(
            not wrong and len(received) == len(self.sent),
            f"all {len(self.sent)} messages are at the provider, each once and byte for byte",
            but=f"the provider has {len(received)} messages of {len(self.sent)}; not there once and whole: "
            f"{', '.join(wrong) or 'none'}",
        )

    def _claim_ledger(self, calls: Sequence[dict[str, Any]]) -> None:
        """The ledger's one call against what modem, exchange, line and provider have seen."""
        record, moved = self.lab.exchange.records[0], self.lab.line.calls[0].delivered
        seen = {
            "number": record.number,
            "dials": len(self.lab.modem.dials),
            "rate": record.rate,
            "sent": len(self.sent),
            "fetched": sum(UPSTREAM),
            "failed": 0,
            "outcome": "complete",
            "reason": "queued-messages",
        }
        wrong = ["it has no single call" if len(calls) != 1 else ""]
        for call in calls[:1]:
            wrong += [f"{k} is {call.get(k)!r}, seen was {v!r}" for k, v in seen.items() if call.get(k) != v]
            if abs(call["duration_s"] - record.seconds) > SLACK_S:
                wrong.append(f"duration_s is {call['duration_s']}, the exchange has {record.seconds:.1f}")
            for key, way in (("bytes_out", "out"), ("bytes_in", "in")):
                if abs(call[key] - moved[way]) > 0.01 * moved[way]:  # type: ignore[index]
                    wrong.append(f"{key} is {call[key]}, the line carried {moved[way]}")  # type: ignore[index]
            self.narrator.say(
                "ledger",
                f"call {call['id']}: {call['reason']}, {call['outcome']}, {call['duration_s']} s at {call['rate']} "
                f"bit/s, {call['bytes_out']} bytes out, {call['bytes_in']} in, {call['sent']} sent, "
                f"{call['fetched']} fetched",
            )
        wrong = [w for w in wrong if w]
        self.narrator.claim(
            not wrong,
            "the ledger says what modem, exchange, line and provider saw",
            but=f"the ledger is not what was seen: {'; '.join(wrong)}",
        )


def _carried(sent: bytes, got: bytes) -> bool:
    """Whether `got` is `sent` with header fields at most added above it."""
    if not got.endswith(sent):
        return False
    added = got[: len(got) - len(sent)].split(b"\r\n")
    return added[-1] == b"" and all(line[:1] in b" \t" or b":" in line for line in added[:-1])


async def _connects(port: int) -> bool:
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return False
    await stream.aclose()
    return True
