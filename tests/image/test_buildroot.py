"""buildroot-config/, the tree that makes the same appliance with Buildroot.

static      what can be checked without Buildroot: that what the tree names is there, and that it says what the Debian
            builder and the rest of the project say. Always run.
checkout    what Buildroot's own programs say of it, for each defconfig: `BUILDROOT=FOLDER`, a checkout of the version that
            external.mk pins (`git clone --branch 2026.05.1`), and `LINUX_SOURCE=FOLDER`, a kernel's source of the pinned
            series. docs/boards.md has what it needs and what it printed.

Nothing is built here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
TREE = ROOT / "buildroot-config"
BOARDS = {"apu_x86_64": "x86_64", "qemu_x86_64": "x86_64", "generic_aarch64": "aarch64"}
"""Board -> architecture."""
PACKAGE = (TREE / "package/posthouse/posthouse.mk").read_text()
MENU = (TREE / "package/posthouse/Config.in").read_text()
OVERLAYS = [ROOT / "rootfs-overlay", *sorted((TREE / "board").glob("*/rootfs-overlay"))]
CHECKED_S = 300


def defconfig(board: str) -> str:
    return (TREE / f"configs/posthouse_{board}_defconfig").read_text()


def fragments(board: str) -> list[Path]:
    named = re.search(r'^BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES="(.*)"', defconfig(board), re.M)
    assert named
    return [Path(name.replace("$(BR2_EXTERNAL_POSTHOUSE_PATH)", str(TREE))) for name in named[1].split()]


def options(path: Path) -> list[str]:
    return re.findall(r"^(?:CONFIG_\w+=.*|# CONFIG_\w+ is not set)$", path.read_text(), re.M)


# ---- static


def test_every_board_has_a_defconfig_and_a_folder() -> None:
    assert {p.name for p in (TREE / "configs").iterdir()} == {f"posthouse_{b}_defconfig" for b in BOARDS}
    assert {p.parent.name for p in (TREE / "board").glob("*/linux.config")} == {"common", *BOARDS}


def test_the_paths_that_the_tree_names_exist() -> None:
    texts = [p for p in TREE.rglob("*") if p.is_file() and p.suffix not in (".md", ".config")]
    named = {
        path
        for text in texts
        for path in re.findall(r"\$\(?BR2_EXTERNAL_POSTHOUSE_PATH\)?/([A-Za-z0-9_./-]+)", text.read_text())
        if not path.startswith("../update-key")
    }
    assert len(named) > 8
    assert sorted(p for p in named if not (TREE / p).exists()) == []
    assert (TREE / "external.desc").read_text().startswith("name: POSTHOUSE\n")


def test_boards_differ_only_in_what_is_a_boards_own() -> None:
    own = re.compile(
        r"BR2_(x86_\w+|aarch64|ROOTFS_OVERLAY|LINUX_KERNEL_CONFIG_FRAGMENT_FILES|LINUX_KERNEL_NEEDS_HOST_\w+|"
        r"TARGET_GRUB2_\w+_(PC|EFI))=|BR2_PACKAGE_HOST_MTOOLS="
    )
    common = {b: [line for line in defconfig(b).splitlines() if not own.match(line)] for b in BOARDS}
    for board in BOARDS:
        assert common[board] == common["apu_x86_64"], board


@pytest.mark.parametrize("board", BOARDS)
def test_our_symbols_are_defined(board: str) -> None:
    used = set(re.findall(r"BR2_\w*POSTHOUSE\w*", defconfig(board))) - {"BR2_EXTERNAL_POSTHOUSE_PATH"}
    assert used == {"BR2_PACKAGE_POSTHOUSE"}
    assert used <= set(re.findall(r"^config (\w+)", MENU, re.M))


@pytest.mark.parametrize("board", BOARDS)
def test_the_kernel_is_one_that_its_source_can_be_checked_for(board: str) -> None:
    version = re.search(r'^BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="(.*)"', defconfig(board), re.M)
    assert version
    for package in ("linux", "linux-headers"):
        assert f" linux-{version[1]}.tar.xz\n" in (TREE / f"patches/{package}/{package}.hash").read_text()
    assert f"BR2_LINUX_KERNEL_VERSION,{version[1]})" in (TREE / "external.mk").read_text()


@pytest.mark.parametrize("board", BOARDS)
def test_kernel_fragments_say_each_thing_once(board: str) -> None:
    lines = [line for path in fragments(board) for line in options(path)]
    names = [re.sub(r"^# |[ =].*", "", line) for line in lines]
    assert len(names) > 60 and sorted({n for n in names if names.count(n) > 1}) == []
    for path in fragments(board):
        said = [line for line in path.read_text().splitlines() if line and line not in options(path)]
        assert [line for line in said if not line.startswith("# ")] == [], path


def test_dependencies_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["appliance"]]
    names = {re.split(r"[^A-Za-z0-9-]", one)[0] for one in needed}
    called = {"pyserial": "serial", "systemd-python": "systemd"}
    want = {called.get(n, n).replace("-", "_").upper() for n in names}
    assert set(re.findall(r"select BR2_PACKAGE_PYTHON_(\w+) # runtime", MENU)) == want


def test_it_is_built_by_our_build_backend() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["build-backend"]
    kind = re.search(r"^POSTHOUSE_SETUP_TYPE = (\w+)$", PACKAGE, re.M)
    assert kind and backend.split(".")[0] == kind[1]


def test_users_and_groups_are_those_of_sysusers() -> None:
    """sysusers.d(5): `u NAME ID "GECOS" HOME`, `m USER GROUP`; Buildroot: name uid group gid password home shell groups."""
    users: dict[str, tuple[str, str]] = {}
    groups: dict[str, set[str]] = {}
    for line in (ROOT / "rootfs-overlay/usr/lib/sysusers.d/posthouse.conf").read_text().splitlines():
        match line.split():
            case ["u", name, number, *_, home]:
                users[name] = (number, home)
            case ["m", name, group]:
                groups.setdefault(name, set()).add(group)
    table = re.search(r"define POSTHOUSE_USERS\n(.*?)endef", PACKAGE, re.S)
    assert table
    ours = {cells[0]: cells for line in table[1].strip().splitlines() if (cells := line.split())}
    for name, (number, home) in users.items():
        assert ours[name][1:6] == [number, name, number, "*", home]
        assert set(ours[name][7].split(",")) == groups[name]
    # Besides them only whom Debian's packages make, and one of ours is a member of.
    assert set(ours) - set(users) <= {group for of in groups.values() for group in of}


def test_every_unit_is_installed() -> None:
    installed = set(re.findall(r"\$\(@D\)/systemd/\*(\.\w+)", PACKAGE))
    assert {p.suffix for p in (ROOT / "systemd").iterdir()} == installed


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda p: str(p.relative_to(ROOT)))
def test_overlays_fit_a_merged_usr(overlay: Path) -> None:
    for folder in ("bin", "lib", "sbin", "lib64", "usr/sbin"):
        assert not (overlay / folder).exists(), folder


def test_links_between_overlays_lead_somewhere() -> None:
    for overlay in OVERLAYS[1:]:
        for link in (p for p in overlay.rglob("*") if p.is_symlink()):
            target = (link.parent / link.readlink()).resolve().relative_to(overlay.resolve())
            assert any((other / target).exists() for other in OVERLAYS), link


def test_overlays_here_repeat_nothing_of_the_image() -> None:
    for overlay in OVERLAYS[1:]:
        for path in (p.relative_to(overlay) for p in overlay.rglob("*") if not p.is_dir()):
            assert not (ROOT / "rootfs-overlay" / path).exists(), path


SCRIPTS = [p for p in sorted((TREE / "board").rglob("*")) if p.is_file() and p.read_bytes().startswith(b"#!/bin/sh\n")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_sh(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    assert subprocess.run([shutil.which("dash") or "sh", "-n", script], capture_output=True).stderr == b""


def test_what_debian_packages_bring_comes_from_buildroot_too() -> None:
    """The table in docs/boards.md: every package that the Debian builder names, and the symbol that stands for it."""
    lists = re.findall(r"^packages\+?=,?([^$\n]*)$", (ROOT / "scripts/build-image").read_text(), re.M)
    debian = {name for line in lists for name in line.split(",")}
    assert len(debian) > 20
    rows = re.findall(r"^\| `(.+?)` \| (.*?) \|", (ROOT / "docs/boards.md").read_text(), re.M)
    table = {name.strip("` "): cell for names, cell in rows for name in names.split(",")}
    assert sorted(debian - set(table)) == []
    known = MENU + defconfig("apu_x86_64")
    symbols = {s for name in debian for s in re.findall(r"`(BR2_\w+)`", table[name])}
    assert len(symbols) > 10
    assert sorted(s for s in symbols if not re.search(rf"\b{s}\b", known)) == []


@pytest.mark.parametrize("board", BOARDS)
def test_every_board_is_documented(board: str) -> None:
    for page in (TREE / "README.md", ROOT / "docs/boards.md"):
        assert f"posthouse_{board}_defconfig" in page.read_text(), page


# ---- checkout

checkout = pytest.mark.given("BUILDROOT")


def in_buildroot(*command: str | Path) -> str:
    """What a program says that is run in the checkout; it must succeed."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VIRTUAL_ENV", "PYTHON"))}
    env["PATH"] = ":".join(p for p in env["PATH"].split(":") if "/.venv/" not in p)
    done = subprocess.run(
        list(map(str, command)), cwd=os.environ["BUILDROOT"], env=env, capture_output=True, text=True, timeout=CHECKED_S
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Configured:
    """A board's configuration in a folder of its own."""

    def __init__(self, board: str, folder: Path) -> None:
        self.board = board
        self.folder = folder
        self.stored = TREE / f"configs/posthouse_{board}_defconfig"
        self.said = self.make(f"BR2_EXTERNAL={TREE}", f"posthouse_{board}_defconfig")

    @property
    def config(self) -> list[str]:
        """But for the line that has the state of the checkout, which somebody may be working on."""
        lines = (self.folder / ".config").read_text().splitlines()
        return [line for line in lines if not line.startswith("BR2_EXTERNAL_POSTHOUSE_VERSION=")]

    def make(self, *arguments: str) -> str:
        return in_buildroot("make", "--silent", f"O={self.folder}", *arguments)


@pytest.fixture(scope="module", params=BOARDS)
def configured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Configured:
    return Configured(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def packages(configured: Configured) -> dict[str, Any]:
    said = configured.make("show-info")
    return json.loads(said[said.index("{") :])


@checkout
def test_the_configuration_is_taken_without_a_word(configured: Configured) -> None:
    """No unmet dependency, and everything that external.mk pins is as it is pinned."""
    assert "warning" not in configured.said.lower()
    assert "posthouse:" not in configured.make("show-build-order")


@checkout
def test_every_line_of_the_defconfig_is_in_force(configured: Configured) -> None:
    """make alone lets a misspelt symbol, or one whose dependencies are unmet, fall silently."""
    assert in_buildroot("support/scripts/check-dotconfig.py", configured.folder / ".config", configured.stored) == ""


@checkout
def test_dropbear_asks_for_no_names(configured: Configured) -> None:
    """By its own default it does not, by Buildroot's it does: whoever logs in would wait for a server that is behind the line."""
    assert "BR2_PACKAGE_DROPBEAR_DISABLE_REVERSEDNS=y" in configured.config


@checkout
def test_the_defconfig_is_stored_canonical(configured: Configured) -> None:
    before = configured.config
    configured.make("olddefconfig")
    assert configured.config == before
    saved = configured.folder / "saved"
    configured.make("savedefconfig", f"BR2_DEFCONFIG={saved}")
    assert saved.read_text() == configured.stored.read_text()


@checkout
def test_the_package_needs_what_it_should(configured: Configured, packages: dict[str, Any]) -> None:
    ours = packages["posthouse"]
    assert ours["licenses"] == "Apache-2.0" and ours["license_files"] == ["LICENSE"]
    assert {"host-python-setuptools", "python3"} <= set(ours["dependencies"])
    for symbol in re.findall(r"select BR2_PACKAGE_(PYTHON_\w+) # runtime", MENU):
        assert packages[symbol.lower().replace("_", "-")]["type"] == "target"


@checkout
def test_every_package_has_a_licence(packages: dict[str, Any]) -> None:
    real = {name: one for name, one in packages.items() if not one.get("virtual") and one["type"] == "target"}
    assert len(real) > 50
    nothing = {
        "skeleton-init-common",
        "skeleton-init-systemd",
        "skeleton",
        "toolchain",
        "gcc-final",
        "toolchain-buildroot",
    }
    assert (
        sorted(n for n, one in real.items() if n not in nothing and one.get("licenses", "unknown") == "unknown") == []
    )


@checkout
def test_it_takes_of_the_checkout_what_the_wheel_is_made_of(configured: Configured) -> None:
    configured.make("posthouse-rsync")
    taken = next((configured.folder / "build").glob("posthouse-*"))
    files = {str(p.relative_to(taken)) for p in taken.rglob("*") if p.is_file() and p.name != ".stamp_rsynced"}
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "appliance", "systemd", "pyproject.toml", "README.md", "LICENSE"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert files == set(listed.stdout.split())


@checkout
def test_buildroot_finds_the_overlays_merged() -> None:
    assert in_buildroot("support/scripts/check-merged", "-t", "overlay", "-u", "-b", *OVERLAYS) == ""


@checkout
def test_buildroots_check_of_style() -> None:
    """Needs Debian's python3-magic, python3-flake8 and shellcheck."""
    files = [p for p in sorted(TREE.rglob("*")) if p.is_file() and not p.is_symlink()]
    assert "0 warnings generated" in in_buildroot("/usr/bin/python3", "utils/check-package", "-b", *files)


@pytest.mark.given("BUILDROOT", "LINUX_SOURCE")
@pytest.mark.parametrize("board", BOARDS)
def test_every_line_of_the_kernel_fragments_is_in_force(board: str, tmp_path: Path) -> None:
    """Over the architecture's default configuration: a misspelt symbol, or one whose dependencies are unmet, falls silently."""
    source = Path(os.environ["LINUX_SOURCE"])
    arch, default = {"x86_64": ("x86", "x86_64_defconfig"), "aarch64": ("arm64", "defconfig")}[BOARDS[board]]

    def make(target: str) -> None:
        in_buildroot("make", "-s", "-C", source, f"O={tmp_path}", f"ARCH={arch}", target)

    version = re.search(r'^BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="(\d+)\.(\d+)', defconfig(board), re.M)
    assert version
    assert in_buildroot("make", "-s", "-C", source, "kernelversion").startswith(f"{version[1]}.{version[2]}.")
    make(default)
    with (tmp_path / ".config").open("a") as config:
        config.writelines(path.read_text() for path in fragments(board))
    make("olddefconfig")
    have = set((tmp_path / ".config").read_text().splitlines())
    assert [line for path in fragments(board) for line in options(path) if line not in have] == []
