"""The stored configuration: candidate, commit, revisions, what goes back; a damaged file; the power going in a commit."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from appliance.config import copies
from appliance.config.changes import changes
from appliance.config.keypath import PathError, parse, read_value, resolve
from appliance.config.load import ConfigErrors, faults_of, load
from appliance.config.store import REVISIONS_KEPT, Editor, Store, StoreError
from appliance.storage.disk import Disk
from appliance.storage.recording import Fate, RecordingDisk, power_cut
from fakes.config import HASH, SITE

TEXT = SITE + f'\n[[user]]\nname = "hanako"\npassword = "{HASH}"\naddresses = ["hanako@harbour.example"]\n'
ME, OTHER = Editor("hanako", "ttyS0"), Editor("taro", "192.168.77.20")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    file = tmp_path / "posthouse.toml"
    file.write_text(TEXT)
    return Store(file, tmp_path / "state" / "config", Disk())


def commit(
    store: Store, path: str, value: str, comment: str = "", *, unconfirmed: bool = False, now: float = 100
) -> int:
    store.set(path, value, ME, now)
    return store.commit(ME, comment, now, unconfirmed=unconfirmed).revision


def test_a_candidate_is_compared_committed_and_rolled_back(store: Store) -> None:
    assert store.compare() == ""
    assert store.set("user[hanako].quota", "1GiB", ME, 1) == []
    assert store.set("schedule.at", "07:30", ME, 2) == []
    assert store.file.read_text() == TEXT
    added = [line for line in store.compare().splitlines() if line[:1] == "+"]
    assert added == ["+++ candidate", '+quota = "1GiB"', "+", "+[schedule]", '+at = ["07:30"]']
    done = store.commit(ME, "for the fair", 3)
    assert done.config == load(store.file)
    assert done.config.user[0].quota_bytes == 1 << 30
    with pytest.raises(StoreError, match="nothing to commit"):
        store.commit(ME, "", 4)
    assert [(r["back"], r["number"], r["who"], r["comment"]) for r in store.revisions()] == [
        (0, 2, "hanako", "for the fair"), (1, 1, "(edited by hand)", ""),
    ]  # fmt: skip
    store.rollback(1, ME, 5)
    assert store.text() == TEXT
    store.rollback(0, ME, 6)
    assert store.compare() == ""
    store.rollback(1, ME, 7)
    store.commit(ME, "", 8)
    assert store.file.read_text() == TEXT


def test_a_faulty_candidate_is_not_committed_and_says_all_that_is_wrong(store: Store) -> None:
    store.set("user[1].name", "taro", ME, 1)
    store.set("user[1].password", HASH, ME, 1)
    store.set("user[1].account[0].host", "pop.isp.example", ME, 1)
    with pytest.raises(ConfigErrors) as refused:
        store.commit(ME, "", 2)
    assert "candidate.toml:" in str(refused.value) and "user[1].account[0]" in str(refused.value)
    assert store.file.read_text() == TEXT and store.revisions()[0]["number"] == 0


def test_two_people_are_told_of_each_other(store: Store) -> None:
    store.set("site.timezone", "Asia/Tokyo", ME, 1)
    assert store.set("schedule.every", "2h", OTHER, 2) == [
        "hanako on ttyS0 is editing too: a commit takes over the changes of both"
    ]
    assert store.set("schedule.every", "3h", ME, 3) == []


def test_a_file_that_was_edited_meanwhile_is_not_overwritten(store: Store) -> None:
    store.set("schedule.every", "2h", ME, 1)
    by_hand = TEXT.replace("harbour.example", "port.example")
    store.file.write_text(by_hand)
    with pytest.raises(StoreError, match="was changed since this candidate was begun"):
        store.commit(ME, "", 2)
    assert store.file.read_text() == by_hand
    store.rollback(0, ME, 3)
    commit(store, "schedule.every", "2h")
    store.file.write_text(by_hand)  # once more: it is the newest, and the commits before it are still there
    assert [r["number"] for r in store.revisions()] == [0, 2, 1]
    store.rollback(1, ME, 4)
    assert 'every = "2h"' in store.text()


def test_only_so_many_revisions_are_kept(store: Store) -> None:
    for i in range(REVISIONS_KEPT + 3):
        commit(store, "schedule.queued_messages", str(i + 1), f"number {i}")
    revisions = store.revisions()
    assert len(revisions) == REVISIONS_KEPT
    assert [r["comment"] for r in revisions[:2]] == [f"number {REVISIONS_KEPT + 2}", f"number {REVISIONS_KEPT + 1}"]
    folder = store.file.parent / "state" / "config"
    assert len(list(folder.glob("revision-*.toml"))) == REVISIONS_KEPT
    with pytest.raises(StoreError, match="there is no revision 50: .* lists the 50 that there are"):
        store.rollback(REVISIONS_KEPT, ME, 1)


def test_an_unconfirmed_commit_goes_back_or_stands(store: Store) -> None:
    commit(store, "schedule.every", "2h", unconfirmed=True)
    with pytest.raises(StoreError, match="waits for `config confirm`"):
        commit(store, "schedule.every", "3h")
    store.revert(200)
    assert store.file.read_text() == TEXT and not store.unconfirmed
    newest = store.revisions()[0]
    assert (newest["who"], newest["comment"]) == ("(not confirmed)", "back to revision 1")
    store.rollback(0, ME, 201)
    commit(store, "schedule.every", "4h", unconfirmed=True)
    store.confirm()
    assert 'every = "4h"' in store.file.read_text() and not store.unconfirmed
    with pytest.raises(StoreError, match="no commit waits"):
        store.confirm()


def test_mode_and_owner_of_the_file_stay(store: Store) -> None:
    store.file.chmod(0o640)
    commit(store, "schedule.every", "2h")
    for path in (store.file, copies.copy_of(store.file)):
        assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("damage", [b"", bytes(400), TEXT.encode()[:30] + bytes(100)])
def test_a_damaged_file_is_read_from_its_copy_and_mended(store: Store, damage: bytes) -> None:
    commit(store, "schedule.every", "2h")
    good = store.file.read_bytes()
    store.file.write_bytes(damage)
    assert load(store.file).schedule.every_s == 7200
    assert store.mend() and store.file.read_bytes() == good
    assert not store.mend()
    copies.copy_of(store.file).write_bytes(damage)
    store.file.write_bytes(damage)
    assert not store.mend()  # nothing to mend it from
    with pytest.raises(ConfigErrors):
        load(store.file)


def test_what_a_person_wrote_counts_and_not_the_copy(store: Store) -> None:
    commit(store, "schedule.every", "2h")
    store.file.write_text("[site\n")
    assert copies.read(store.file) == b"[site\n" and not store.mend()


@pytest.mark.parametrize("fate", list(Fate))
@pytest.mark.parametrize("unconfirmed", [False, True])
def test_the_power_goes_behind_every_operation_of_a_commit(fate: Fate, unconfirmed: bool, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = RecordingDisk(whole)
    disk.replace_file(whole / "posthouse.toml", TEXT.encode())
    store = Store(whole / "posthouse.toml", whole / "config", disk)
    commit(store, "schedule.every", "1h")
    before, first = store.file.read_bytes(), len(disk.operations)
    commit(store, "schedule.every", "2h", unconfirmed=unconfirmed)
    after = store.file.read_bytes()
    seen = set()
    for n in range(first, len(disk.operations) + 1):
        root = tmp_path / f"{n}"
        power_cut(disk, n, fate, root, seed=n)
        again = Store(root / "posthouse.toml", root / "config", Disk())
        again.mend()
        if again.unconfirmed:
            again.revert(300)
        if n == len(disk.operations):
            assert again.editing is None, "what was committed, or taken back, is a candidate again"
        seen.add(again.file.read_bytes())
        assert again.file.read_bytes() in ({before} if unconfirmed else {before, after}), f"cut behind operation {n}"
        again.revisions()
        again.rollback(0, ME, 301)
        commit(again, "schedule.every", "5h")
        assert load(again.file).schedule.every_s == 5 * 3600
    assert seen == ({before} if unconfirmed else {before, after})


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("schedule.every", "2h", "2h"),
        ("schedule.every", '"2h"', "2h"),
        ("schedule.at", "07:30", ["07:30"]),
        ("schedule.at", '["07:30", "18:00"]', ["07:30", "18:00"]),
        ("schedule.queued_messages", "5", 5),
        ("schedule.urgent", "false", False),
        ("line[0].numbers[0]", "0570000111", "0570000111"),
        ("line[0].numbers", "117", ["117"]),
        ("budget.per_day", "100", 100),
        ("budget.per_day", "0.15", "0.15"),
        ("relay.device[0].services", '{ modbus = "192.168.77.20:502" }', {"modbus": "192.168.77.20:502"}),
        ("relay.device[0].services.modbus", "192.168.77.20:502", "192.168.77.20:502"),
        ("user[0].account[1].port", "995", 995),
    ],
)
def test_words_are_read_as_their_place_wants_them(path: str, text: str, value: object) -> None:
    assert read_value(text, resolve(path, {})) == value


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("site.nme", "x", 'site.nme: unknown key; expected "name"'),
        ("site", "x", "site is a table; set one of its keys: "),
        ("site.name.x", "x", "site.name.x: nothing is below site.name"),
        ("user.name", "x", "user.name: user are tables; expected a number, such as user[0]"),
        ("user[0].[1]", "x", '"user[0].[1]" is no path; expected keys and numbers such as user[0].account[1].port'),
        ("[0]", "x", '"[0]" is no path; expected keys'),
        ("schedule.every", "2 hours", 'schedule.every: "2 hours" is no duration; expected a duration such as'),
        ("schedule.urgent", "yes", 'schedule.urgent: is "yes"; expected true or false'),
        ("schedule.queued_messages", "-1", "schedule.queued_messages: -1 is out of range; expected an integer from 0"),
        ("schedule.queued_messages", "many", 'schedule.queued_messages: is "many"; expected an integer from 0'),
        ("schedule.at", "[07:30", '"[07:30" is no value; expected TOML 1.0'),
        ("schedule.at", "[1]", "schedule.at: is an integer; expected"),
    ],
)
def test_a_wrong_place_or_value_says_what_is_expected(path: str, text: str, said: str) -> None:
    with pytest.raises(PathError) as refused:
        read_value(text, resolve(path, {}))
    assert str(refused.value).startswith(said)


def test_elements_are_found_by_their_names() -> None:
    data = {"user": [{"name": "hanako"}, {"name": "taro", "account": [{}]}]}
    assert resolve("user[taro].account[0].host", data) == ("user", 1, "account", 0, "host")
    assert parse('relay.device[0].services."a b"') == ("relay", "device", 0, "services", "a b")
    with pytest.raises(PathError, match=r'user has no "yuki"; expected "hanako" or "taro"'):
        resolve("user[yuki].quota", data)
    with pytest.raises(PathError, match='line has no "pstn"'):
        resolve("line[pstn].port", data)


# ---- the first one of all
FIRST = TEXT + '\n[[mail.smarthost]]\nhost = "smtp.isp.example"\nlogin = "l"\nsecret = "smarthost"\n'
SECRETS = {"smarthost": 'quo"ted', "ppp": "x"}


def new(root: Path, disk: Disk | None = None) -> Store:
    return Store(root / "posthouse.toml", root / "config", disk or Disk())


def test_the_first_configuration(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text('ppp = "old"\nother = "stays"\n')
    store = new(tmp_path)
    done = store.first(FIRST, SECRETS, ME, "first start", 1)
    assert done.config == load(store.file) and done.config.secrets == {"smarthost": 'quo"ted'}
    assert secrets.read_text() == 'ppp = "x"\nother = "stays"\nsmarthost = "quo\\"ted"\n'
    assert (secrets.stat().st_mode & 0o777, store.file.stat().st_mode & 0o777) == (0o600, 0o640)
    assert [(r["number"], r["who"], r["comment"]) for r in store.revisions()] == [(1, "hanako", "first start")]
    assert commit(store, "schedule.every", "2h") == 2
    with pytest.raises(StoreError, match="there is a configuration already"):
        store.first(FIRST, {}, ME, "", 2)


def test_a_first_configuration_with_a_fault_is_none(tmp_path: Path) -> None:
    store = new(tmp_path)
    with pytest.raises(ConfigErrors, match=r"site.domain"):
        store.first(FIRST.replace("harbour.example", "harbour..example"), SECRETS, ME, "", 1)
    assert not store.file.exists()
    (tmp_path / "secrets.toml").write_text("broken")
    with pytest.raises(StoreError, match=r"secrets.toml is no TOML"):
        store.first(FIRST, SECRETS, ME, "", 1)


@pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.TORN])
def test_the_power_goes_behind_every_operation_of_the_first(fate: Fate, tmp_path: Path) -> None:
    """There is none then, and the first start begins anew, or it is there with all of its secrets."""
    whole = tmp_path / "whole"
    whole.mkdir()
    disk = RecordingDisk(whole)
    new(whole, disk).first(FIRST, SECRETS, ME, "first start", 1)
    seen = set()
    for n in range(len(disk.operations) + 1):
        root = tmp_path / f"{n}"
        power_cut(disk, n, fate, root, seed=n)
        root.mkdir(exist_ok=True)
        if (secrets := root / "secrets.toml").exists():
            secrets.chmod(0o600)  # which the recording does not keep
        again = new(root)
        seen.add(there := again.file.exists())
        if not there:
            again.first(FIRST, SECRETS, OTHER, "once more", 2)
        assert load(again.file).secrets == {"smarthost": 'quo"ted'}, f"cut behind operation {n}"
    assert seen == {True, False}


def test_what_would_be_wrong_with_a_text(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    assert faults_of(FIRST, file, SECRETS) == []
    (fault,) = faults_of(FIRST, file, {"ppp": "x"})
    assert fault.path == ("mail", "smarthost", 0, "secret")
    with pytest.raises(ConfigErrors):
        faults_of("broken", file, {})


def test_what_a_candidate_changes_place_by_place(store: Store) -> None:
    assert store.changes() == []
    commit(store, "user[1].name", "taro")
    commit(store, "user[1].quota", "1GiB")
    store.delete("user[0]", ME, 200)
    store.set("schedule.at", '["07:30"]', ME, 200)
    assert store.changes() == [
        {"path": "user[hanako].name", "before": "hanako", "after": None},
        {"path": "user[hanako].password", "before": HASH, "after": None},
        {"path": "user[hanako].addresses", "before": ["hanako@harbour.example"], "after": None},
        {"path": "schedule.at", "before": None, "after": ["07:30"]},
    ]
    assert {c["path"] for c in store.changes(2)} > {"user[taro].name", "user[taro].quota"}


def test_changes_of_what_is_no_table_with_names() -> None:
    """Elements without a name, two with one, a number that becomes a truth, an empty table."""
    assert changes({"a": [{"h": 1}, {"h": 2}]}, {"a": [{"h": 1}, {"h": 3}]}) == [
        {"path": "a[1].h", "before": 2, "after": 3}
    ]
    twins = {"a": [{"name": "x"}, {"name": "x"}]}
    assert [c["path"] for c in changes({}, twins)] == ["a[0].name", "a[1].name"]
    day = datetime.date(2026, 11, 28)
    assert changes({"a": day}, {"a": [day, "2026-11-28"]}) == [
        {"path": "a", "before": "2026-11-28", "after": ["2026-11-28", "2026-11-28"]}
    ]
    assert changes({"a": day}, {"a": str(day)}) == [{"path": "a", "before": str(day), "after": str(day)}]
    assert changes({"a": 1}, {"a": True}) == [{"path": "a", "before": 1, "after": True}]
    assert changes({}, {"a": {}, "b c": 1}) == [
        {"path": "a", "before": None, "after": {}}, {"path": '"b c"', "before": None, "after": 1}
    ]  # fmt: skip
