"""The questions of the first start, answered by a script in the place of a person: what comes of right and wrong answers,
of going back, of changing one's mind. What the configuration then is, its own reader says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from appliance.config import passwords
from appliance.config.faults import Fault, show
from appliance.config.keypath import entry_at
from appliance.config.load import load
from appliance.config.model import Config
from appliance.config.passwords import verify_password
from appliance.config.store import StoreError
from appliance.config.units import Kind
from appliance.console import setup
from appliance.console.setup.draft import Answer, Draft
from appliance.console.setup.machine import Device, network_devices
from appliance.console.setup.steps import STEPS
from appliance.console.setup.talk import Back, Talk
from appliance.console.setup.wizard import Surroundings, Wizard
from appliance.modem.probe import Probed

HAYES = Probed("/dev/ttyS1", "USRobotics 56K", "hayes")
SLOW = Probed("/dev/ttyUSB0", "Iridium 9522B", "iridium", 19200, "none")
GSM = Probed("/dev/serial/by-id/usb-1", "SIMCOM, the SIM wants its PIN, signal -73 dBm", "gsm", wants_pin=True)
DEVICES = [Device("eth0", "02:00:00:00:00:01", "cable"), Device("eth1", "02:00:00:00:00:02", "no cable")]

ANSWERS: list[tuple[str, str]] = [
    ("Administrator's password", "Blau-Kessel-42"), ("Once more", "Blau-Kessel-42"),
    ("Name of the site", "harbour"), ("Mail domain of the site", "harbour.example"), ("Time zone", "Asia/Tokyo"),
    ("Network device of the LAN", "2"), ("Address of this host", ""), ("Addresses that computers", ""),
    ("Where mail programs submit", ""), ("Where mail programs read", ""),
    ("Serial port of the modem", "1"), ("Kind of modem", ""), ("Number to dial", "0570000111, 0570000112"),
    ("On the line", ""), ("PPP login", "harbour"), ("PPP password", "ppp-secret"), ("Times of calls", "06:00 12:00"),
    ("Provider's server for outgoing mail", "smtp.isp.example"), ("Port there", "587"), ("Encryption there", ""),
    ("Login there", "harbour"), ("Password there", "smtp-secret"),
    ("Name of the first user", "hanako"), ("Password of that user", "Lampe"), ("Once more", "Lampe"),
    ("Mail addresses", "hanako@harbour.example h@isp.example"),
    ("Fetch that user's mail", "imap"), ("Server there", "imap.isp.example"), ("Port there", ""),
    ("Encryption there", ""), ("Login there", ""), ("Password there", "imap-secret"), ("Mail that waits", "30d"),
    ("Write this?", "yes"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they cost is none of these tests' business."""
    monkeypatch.setattr(passwords, "COST_LOG2", 4)


class Person:
    """Answers each prompt that begins as the next of `answers` says; `said`: all that was shown. A KeyboardInterrupt
    among the answers is a Ctrl-C."""

    def __init__(
        self, answers: Iterable[tuple[str, str | type[BaseException]]], capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._answers = iter(answers)
        self._capsys = capsys
        self.said = ""
        self.talk = Talk(self._plain, self._answer)

    def _plain(self) -> str:
        shown = self._capsys.readouterr().out
        self.said += shown
        return self._answer(shown.rpartition("\n")[2]) + "\n"

    def _answer(self, prompt: str) -> str:
        self.said += prompt if prompt not in self.said[-len(prompt) :] else ""
        begins, answer = next(self._answers, ("(nothing more)", ""))
        assert prompt.startswith(begins), f"{prompt!r} in the place of {begins!r}\n{self.said}"
        if isinstance(answer, type):
            raise answer
        return answer

    def done(self) -> str:
        assert list(self._answers) == []
        return self.said + self._capsys.readouterr().out


class Room:
    """A file that is not there yet, and ports at which `found` answers."""

    def __init__(self, root: Path, found: Sequence[Probed]) -> None:
        self.file = root / "posthouse.toml"
        self.found = list(found)
        self.searched: list[Sequence[str]] = []

    def around(self) -> Surroundings:
        return Surroundings(lambda: [f.port for f in self.found], self._search, lambda: DEVICES, "/dev/ttyS0")

    def _search(self, ports: Sequence[str]) -> Sequence[Probed]:
        self.searched.append(ports)
        known = {f.port: f for f in self.found}
        return [known.get(port, Probed(port, "nothing answers")) for port in ports]

    def written(self, wizard: Wizard) -> Config:
        """As it would be read."""
        self.file.write_text(wizard.draft.text())
        secrets = self.file.with_name("secrets.toml")
        secrets.touch(mode=0o600)
        secrets.write_text("".join(f'{k} = "{v}"\n' for k, v in wizard.draft.secrets().items()))
        return load(self.file)


Ask = Callable[..., tuple[Wizard, Room, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(answers: Iterable[tuple[str, str]], found: Sequence[Probed] = (HAYES,)) -> tuple[Wizard, Room, str]:
        person, room = Person(answers, capsys), Room(tmp_path, found)
        wizard = Wizard(room.file, person.talk, room.around(), {"state": tmp_path / "state"})
        wizard.run()
        return wizard, room, person.done()

    return run


def changed(prompt: str, *answers: tuple[str, str], nth: int = 0) -> list[tuple[str, str]]:
    """The answers with others in the place of the one to this prompt."""
    at = [i for i, (p, _) in enumerate(ANSWERS) if p == prompt][nth]
    return [*ANSWERS[:at], *answers, *ANSWERS[at + 1 :]]


def test_a_whole_site(ask: Ask) -> None:
    wizard, room, said = ask(ANSWERS)
    assert not room.file.exists(), "it writes nothing"
    config = room.written(wizard)
    assert verify_password("Blau-Kessel-42", config.console.password)
    assert (config.site.name, config.site.domain, config.site.timezone) == ("harbour", "harbour.example", "Asia/Tokyo")
    (lan,) = config.interface
    assert (lan.name, lan.device, lan.addresses) == ("lan", "eth1", ("192.168.77.1/24",))
    assert lan.dhcp_pool == "192.168.77.100-192.168.77.199"
    assert config.mail.smtp == ("192.168.77.1:25", "192.168.77.1:587") and config.mail.pop3 == ("192.168.77.1:110",)
    (line,) = config.line
    assert (line.port, line.profile, line.numbers) == ("/dev/ttyS1", "hayes", ("0570000111", "0570000112"))
    assert (line.ppp_login, config.secrets[line.ppp_secret]) == ("harbour", "ppp-secret")
    assert [t.isoformat("minutes") for t in config.schedule.at] == ["06:00", "12:00"]
    (host,) = config.mail.smarthost
    assert (host.host, host.port, host.tls, host.login) == ("smtp.isp.example", 587, "starttls", "harbour")
    assert config.secrets[host.secret] == "smtp-secret"
    (user,) = config.user
    assert user.addresses == ("hanako@harbour.example", "h@isp.example") and verify_password("Lampe", user.password)
    (account,) = user.account
    assert (account.protocol, account.port, account.tls, account.login) == ("imap", 993, "implicit", "hanako")
    assert (config.secrets[account.secret], account.backlog_s) == ("imap-secret", 30 * 86400)
    for secret in ("Blau-Kessel-42", "Lampe", "ppp-secret", "smtp-secret", "imap-secret", "$7$"):
        assert secret not in said
    assert "1  eth0  02:00:00:00:00:01  cable" in said and "1  /dev/ttyS1: USRobotics 56K" in said


WRONG: list[tuple[str, str, str]] = [
    ("Name of the site", "Harbour!", "1 to 63 of a-z 0-9 - ."),
    ("Name of the site", "", "nothing was typed"),
    ("Mail domain of the site", "harbour..example", "domain"),
    ("Time zone", "Asia/Tokio", 'expected "Asia/Tokyo"'),
    ("Network device of the LAN", "eth zero", "a network device"),
    ("Address of this host", "192.168.77.1", "interface[0].addresses"),
    ("Addresses that computers", "10.0.0.1-10.0.0.9", "is in no network of interface.addresses"),
    ("Where mail programs submit", "192.168.77.1", "ADDRESS:PORT"),
    ("Where mail programs read", "192.168.77.1:587", "is taken by mail.smtp[1]"),
    ("Kind of modem", "fax", 'expected "hayes", "gsm" or "iridium"'),
    ("Number to dial", "call-me", "digits and the dial characters"),
    ("On the line", "slip", 'expected "ppp" or "none"'),
    ("Times of calls", "25:00", "a time of day"),
    ("Provider's server for outgoing mail", "smtp isp", "host"),
    ("Port there", "99999", "an integer from 1 to 65535"),
    ("Encryption there", "ssl", 'expected "implicit", "starttls" or "none"'),
    ("Name of the first user", "reject", "is a word of mail.unknown"),
    ("Mail addresses", "hanako@", "is no mail address"),
    ("Fetch that user's mail", "uucp", 'expected "imap" or "pop3"'),
    ("Mail that waits", "long", "a duration"),
]


def test_wrong_answers_are_told_of_and_asked_again(ask: Ask) -> None:
    """All of them in one conversation, each before the right one."""
    answers = list(ANSWERS)
    for prompt, wrong, _ in WRONG:
        answers.insert(next(i for i, (p, _) in enumerate(answers) if p == prompt), (prompt, wrong))
    _, _, said = ask(answers)
    told = [" ".join(t.split()) for t in said.split("That will not do: ")[1:]]
    assert len(told) == len(WRONG)
    assert [why for _, _, why in WRONG if not any(why in t for t in told)] == []


def test_a_password_is_typed_twice_and_not_empty(ask: Ask) -> None:
    first = ("Administrator's password", "Blau-Kessel-42")
    _, _, said = ask([first, ("Once more", "Rot"), ("Administrator's password", ""), *ANSWERS])
    assert "the two are not the same" in said and "nothing was typed" in said


def test_help_says_what_is_expected(ask: Ask) -> None:
    _, _, said = ask(changed("Number to dial", ("Number to dial", "?"), ("Number to dial", "117")))
    assert "Several are tried in turn" in said and 'such as "0570000111"' in " ".join(said.split())


def test_back_over_questions_that_are_not_asked_any_more(ask: Ask) -> None:
    """From PPP's login back to what is on the line, which then wants no login: nothing of it is left."""
    at = next(i for i, (p, _) in enumerate(ANSWERS) if p == "Times of calls")
    answers = [
        *ANSWERS[:at], ("Times of calls", "<"), ("PPP password", "<"), ("PPP login", "<"), ("On the line", "none"),
        *ANSWERS[at:],
    ]  # fmt: skip
    wizard, room, _ = ask(answers)
    assert "ppp" not in wizard.draft.secrets()
    line = room.written(wizard).line[0]
    assert (line.bearer, line.ppp_login, line.ppp_secret) == ("none", "", "")


def test_back_from_the_first_and_from_the_result(ask: Ask) -> None:
    again = [
        ("Write this?", "no"),
        ("Administrator's password", ""),
        *[(p, "") for p, _ in ANSWERS[2:] if p != "Once more"],
    ]
    answers = [
        ("Administrator's password", "<"),
        *ANSWERS[:-1],
        ("Write this?", "<"),
        ("Mail that waits", "all"),
        *again,
    ]
    wizard, room, said = ask(answers)
    assert "This is the first question" in said
    config = room.written(wizard)
    assert config.user[0].account[0].backlog_s is None
    assert verify_password("Blau-Kessel-42", config.console.password), "as before"
    assert config.secrets["ppp"] == "ppp-secret" and config.interface[0].device == "eth1"


def test_a_site_without_most_of_it(ask: Ask) -> None:
    none = {"Network device of the LAN", "PPP login", "Times of calls", "Provider's server for outgoing mail",
            "Fetch that user's mail"}  # fmt: skip
    skipped = {"Address of this host", "Addresses that computers", "PPP password", "Port there", "Encryption there",
               "Login there", "Password there", "Server there", "Mail that waits"}  # fmt: skip
    answers = [(p, "-" if p in none else a) for p, a in ANSWERS if p not in skipped]
    wizard, room, _ = ask(answers)
    config = room.written(wizard)
    assert (config.interface, config.mail.smarthost, config.user[0].account, config.schedule.at) == ((), (), (), ())
    assert config.mail.smtp == ("0.0.0.0:25", "0.0.0.0:587") and config.secrets == {}


# ---- the modem
def test_a_modem_with_a_sim(ask: Ask) -> None:
    answers = [a for a in changed(
        "Kind of modem", ("Kind of modem", ""), ("PIN of the SIM", "12"), ("PIN of the SIM", "1234"),
        ("Access point name", "internet.example"),
    ) if a[0] != "PPP password"]  # fmt: skip
    answers = [(p, "" if p in ("Number to dial", "PPP login") else a) for p, a in answers]
    wizard, room, said = ask(answers, [GSM])
    line = room.written(wizard).line[0]
    assert (line.profile, line.numbers, line.apn) == ("gsm", ("*99#",), "internet.example")
    assert wizard.draft.secrets()["sim-pin"] == "1234" and "1234" not in said
    assert "4 to 8 digits" in " ".join(said.split()) and "signal -73 dBm" in said


def test_a_modem_that_answers_in_its_own_way(ask: Ask) -> None:
    wizard, room, _ = ask(changed("Serial port of the modem", ("Serial port of the modem", "2")), [HAYES, SLOW])
    line = room.written(wizard).line[0]
    assert (line.port, line.profile, line.baud, line.flow) == ("/dev/ttyUSB0", "iridium", 19200, "none")


def test_searching_again_and_a_port_by_its_path(ask: Ask) -> None:
    port = "Serial port of the modem"
    answers = changed(
        port, (port, "search"), (port, "ttyS9"), (port, "/dev/ttyS9"), ("Take this port", "no"), (port, "/dev/ttyS9"),
        ("Take this port", "yes"),
    )  # fmt: skip
    wizard, room, said = ask(answers, [])
    assert room.searched == [["/dev/ttyS9"], ["/dev/ttyS9"]]
    assert room.written(wizard).line[0].port == "/dev/ttyS9"
    assert said.count("No modem was found") == 2 and 'a device such as "/dev/ttyS1"' in " ".join(said.split())


# ---- the parts
def test_the_terminal_that_we_sit_at_is_not_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console = Probed("/dev/ttyS0", "nobody asks", "hayes")
    person, room = Person(ANSWERS, capsys), Room(tmp_path, [console, HAYES])
    Wizard(room.file, person.talk, room.around(), {}).run()
    assert room.searched == [["/dev/ttyS1"]]


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt])
def test_what_ends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], end: type[BaseException]) -> None:
    person, room = Person([*ANSWERS[:4], ("Time zone", end)], capsys), Room(tmp_path, [HAYES])
    with pytest.raises(end):
        Wizard(room.file, person.talk, room.around(), {}).run()
    assert list(tmp_path.iterdir()) == []


def test_somebody_else_was_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A USB stick, while the questions stand on the console: nobody answers the rest of them in vain."""
    person, room = Person(ANSWERS[:3], capsys), Room(tmp_path, [HAYES])
    wizard = Wizard(room.file, person.talk, room.around(), {})
    put = wizard.draft.put

    def put_and_plug_in(key: str, answer: Answer) -> list[Fault]:
        if key == "name":
            room.file.write_text("[site]")
        return put(key, answer)

    wizard.draft.put = put_and_plug_in  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="meanwhile there is a configuration"):
        wizard.run()
    wizard.first = False  # our own
    assert "a configuration" not in person.done()


def test_who_may_not_write_is_told_before_the_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Path] = []

    def access(path: Path, mode: int) -> bool:
        asked.append(path)
        return path != tmp_path

    monkeypatch.setattr(os, "access", access)
    folders = {"state": tmp_path / "var/lib/state", "runtime": None}
    (tmp_path / "etc").mkdir()
    assert setup.main(tmp_path / "etc/posthouse.toml", list, list, folders) == 1
    assert "You may not write" in capsys.readouterr().out
    assert asked == [tmp_path / "etc", tmp_path]


def test_the_places_of_the_questions_are_the_configurations() -> None:
    for step in STEPS:
        assert isinstance(entry_at(step.path), Kind), step.key
    assert len({step.key for step in STEPS}) == len(STEPS)


def test_a_faulty_answer_leaves_the_draft_as_it_was(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "posthouse.toml", ["name"])
    assert draft.put("name", Answer("harbour", [(("site", "name"), "harbour")])) == []
    (fault,) = draft.put("name", Answer("X", [(("site", "name"), "X!")]))
    assert fault.path == ("site", "name")
    assert draft.typed("name") == "harbour" and 'name = "harbour"' in draft.text()


def test_what_is_shown_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk(lambda: "\n", lambda prompt: "")
    talk.show("\x1b[2Ja\u202eb")
    talk.ask("x", "\x1b[1m")
    assert "\x1b" not in capsys.readouterr().out


def test_talk_goes_back_and_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Back):
        Talk(lambda: "<\n").ask("x")
    with pytest.raises(EOFError):
        Talk(lambda: "").ask("x")
    lines = iter(["perhaps\n", "?\n", "Y\n"])
    assert Talk(lambda: next(lines)).confirm("x", default=False)
    lines = iter(["z\n", "c\n"])
    assert Talk(lambda: next(lines)).choose("x", ("again", "change"), "again") == "change"


def test_network_devices(tmp_path: Path) -> None:
    for name, hardware in (("eth1", "a"), ("eth0", "b"), ("lo", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(hardware + "\n")
        if hardware:
            (tmp_path / name / "device").mkdir()
    (tmp_path / "eth0/carrier").write_text("1\n")
    assert network_devices(tmp_path) == [Device("eth0", "b", "cable"), Device("eth1", "a", "off")]


def test_the_documentation_has_the_questions() -> None:
    """A row that is missing or wrong is shown as it should be."""
    table = (Path(__file__).parents[2] / "docs/first-start.md").read_text("utf-8").partition("<!-- questions:")[2]
    rows = [line for line in table.partition("\n\n")[0].splitlines()[1:] if line.startswith("|")][2:]
    assert rows == [f"| {step.prompt} | `{show(step.path)}` |" for step in STEPS]
