"""What a terminal keeps: durable, private, made once, and readable errors where somebody else wrote in it."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from appliance.storage.disk import Disk
from appliance.storage.recording import RecordingDisk
from appliance.terminal.state import LastLogin, State, StateError, default_folder

F1, F2 = "sha256:" + "1" * 64, "sha256:" + "2" * 64


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(tmp_path / "state", Disk())
    state.prepare()
    return state


def modes(folder: Path) -> set[tuple[str, str]]:
    kind = {True: "folder", False: "file"}
    return {(kind[p.is_dir()], oct(stat.S_IMODE(p.stat().st_mode))) for p in [folder, *folder.rglob("*")]}


def test_everything_is_the_users_alone(state: State) -> None:
    state.next_counter(5)
    state.remember_login(LastLogin("hub.example:7400", "pc1"))
    state.pin_relay("hub.example:7400", F1)
    state.pin_terminal("pc2", F2)
    assert modes(state.folder) == {("folder", "0o700"), ("file", "0o600")}


def test_a_folder_that_others_may_enter_is_refused(state: State) -> None:
    state.folder.chmod(0o750)
    with pytest.raises(StateError, match="chmod 700"):
        state.prepare()


def test_the_key_is_made_once_also_by_several_at_the_same_time(tmp_path: Path) -> None:
    state = State(tmp_path / "state", Disk())
    threads = [threading.Thread(target=State(tmp_path / "state", Disk()).prepare) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    certificate = state.certificate()
    state.prepare()
    assert state.certificate() == certificate and len(certificate) < 1024


def test_the_counter_grows_over_clocks_that_jump_and_over_what_the_relay_server_knows(state: State) -> None:
    counters = [
        state.next_counter(1000),
        state.next_counter(1000),
        state.next_counter(5),
        state.next_counter(5, above=7777),
    ]
    counters += [State(state.folder, Disk()).next_counter(8000), state.next_counter(0)]
    assert counters == [1000, 1001, 1002, 7778, 8000, 8001]


def test_a_counter_is_on_the_disk_before_it_is_used(tmp_path: Path) -> None:
    """After a power cut the next one is higher all the same."""
    root = tmp_path / "state"
    root.mkdir(mode=0o700)
    disk = RecordingDisk(root)
    state = State(root, disk)
    state.next_counter(1000)
    assert [o for o in map(str, disk.operations) if "fsync" in o], "nothing was flushed"


def test_pins_and_logins_are_remembered(state: State) -> None:
    again = State(state.folder, Disk())
    assert (again.last_login(), again.relay_pin("a:1"), again.terminal_pin("pc2")) == (None, None, None)
    state.remember_login(LastLogin("a:1", "pc1"))
    state.pin_relay("a:1", F1)
    state.pin_relay("b:2", F2)
    assert (again.last_login(), again.relay_pin("a:1"), again.relay_pin("b:2")) == (LastLogin("a:1", "pc1"), F1, F2)
    assert state.pin_terminal("pc2", F1) == F1
    assert state.pin_terminal("pc2", F2) == F1, "the first one stays"
    assert again.forget_terminal("pc2") and not again.forget_terminal("pc2")
    assert state.pin_terminal("pc2", F2) == F2


@pytest.mark.parametrize("name", [".", "..", "a" * 63, "login", "-"])
def test_every_name_can_be_pinned(state: State, name: str) -> None:
    state.pin_terminal(name, F1)
    assert state.terminal_pin(name) == F1 and state.last_login() is None
    assert state.forget_terminal(name)


@pytest.mark.parametrize(("file", "text", "use", "why"), [
    ("counter", "x", lambda s: s.next_counter(1), "holds no number"),
    ("login.json", "{", lambda s: s.last_login(), "is no JSON"),
    ("login.json", "[]", lambda s: s.last_login(), "not what this program writes"),
    ("key.pem", "x", lambda s: s.certificate(), "holds no certificate"),
    ("relays.json", "\udcff", lambda s: s.relay_pin("a:1"), "is no text"),
])  # fmt: skip
def test_a_file_that_was_spoilt_is_named(state: State, file: str, text: str, use: object, why: str) -> None:
    (state.folder / file).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(StateError, match=why) as error:
        use(state)  # type: ignore[operator]
    assert file in str(error.value)


def test_one_process_holds_the_login(state: State) -> None:
    lock = state.lock()
    assert lock is not None and State(state.folder, Disk()).lock() is None
    state.unlock(lock)
    lock = State(state.folder, Disk()).lock()
    assert lock is not None
    state.unlock(lock)


def test_the_users_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", "/home/hanako")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert default_folder() == Path("/home/hanako/.local/state/posthouse")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert default_folder() == Path("/somewhere/posthouse")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_folder() == Path("/home/hanako/.local/state/posthouse")
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_folder() == Path("/home/hanako/Library/Application Support/posthouse")
