"""`bailiwick sandbox`: what is proven here, and code under it; real cages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def bailiwick(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", "sandbox", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_doctor_proves_the_shipped_profile_and_shows_every_guarantee() -> None:
    told = bailiwick("doctor", "--json")
    report = json.loads(told.stdout)
    assert (told.returncode, report["covered"]) == (0, True)
    assert report["by"] == report["backends"][0 if report["backends"][0]["problem"] == "" else 1]["backend"]
    assert [each["backend"] for each in report["backends"]] == ["bwrap", "landlock"], "strongest first"
    assert report["backends"][1]["missing"] == []
    findings = report["backends"][1]["findings"]
    assert {name: findings[name]["strength"] for name in ("fs_read", "fs_write", "net_none")} == dict.fromkeys(
        ("fs_read", "fs_write", "net_none"), "hard"
    )
    assert all("outside" in line and "inside" in line for line in findings["fs_read"]["evidence"])


def test_doctor_shows_a_table_and_how_to_gain_what_is_not_there() -> None:
    told = bailiwick("doctor")
    lines = told.stdout.splitlines()
    assert lines[0].split() == ["guarantee", "wanted", "bwrap", "landlock"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1 : lines.index("")]}
    assert rows["fs_read"][0] == rows["fs_read"][2] == "hard"
    assert rows["own_kernel"] == ["-", "absent", "absent"]
    assert "memory (soft): " in told.stdout
    assert "profile no-network-512mb: covered by " in lines[-1]


def test_code_runs_and_its_output_comes_back(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("print(6 * 7)\n")
    ran = bailiwick("run", str(tmp_path / "code.py"))
    assert (ran.returncode, ran.stdout) == (0, "42\n")


def test_code_that_leaves_its_scope_fails_inside_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("open('/etc/passwd')\n")
    ran = bailiwick("run", str(tmp_path / "code.py"), "--json")
    result = json.loads(ran.stdout)
    assert (ran.returncode, result["reason"]) == (1, "error")
    assert "PermissionError" in result["stderr"] or "FileNotFoundError" in result["stderr"]


def test_a_profile_that_cannot_be_proven_here_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "sandbox" / "profiles" / "no-network-512mb.toml"
    text = shipped.read_text().replace("no-network-512mb", "own-kernel")
    text = text.replace("[requires]", '[requires]\nown_kernel = "hard"')
    (tmp_path / "own-kernel.toml").write_text(text)
    (tmp_path / "code.py").write_text("print('ran')\n")
    ran = bailiwick("run", str(tmp_path / "code.py"), "--profile", "own-kernel", "--profiles", str(tmp_path))
    assert ran.returncode == 1
    assert "ran" not in ran.stdout
    assert "own_kernel" in ran.stderr
    assert f"sandbox doctor --profile own-kernel --profiles {tmp_path}" in ran.stderr
    assert bailiwick("doctor", "--profile", "own-kernel", "--profiles", str(tmp_path)).returncode == 1


@pytest.mark.parametrize("arguments", [("run", "/nonexistent.py"), ("doctor", "--profile", "nonsense")])
def test_misuse_is_told_from_a_finding(arguments: tuple[str, ...]) -> None:
    told = bailiwick(*arguments)
    assert told.returncode == 2
    assert "help" in told.stderr or "cannot be read" in told.stderr


def test_shell_takes_files_arguments_and_input_and_leaves_files(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("given")
    (tmp_path / "typed").write_text("typed")
    (tmp_path / "code.sh").write_text(
        'cat data.txt -; echo " $1"; mkdir -p deep; printf left > deep/out.txt; ln -s /etc/passwd link\n'
    )
    given = ("--file", f"data.txt={tmp_path / 'in.txt'}", "--stdin", str(tmp_path / "typed"), "--out", str(tmp_path / "out"))
    ran = bailiwick("run", str(tmp_path / "code.sh"), "said", *given)
    assert (ran.returncode, ran.stdout) == (0, "giventyped said\n"), ran.stderr
    assert (tmp_path / "out" / "deep" / "out.txt").read_text() == "left"
    assert "left deep/out.txt (4 bytes)" in ran.stderr
    assert "not taken: link" in ran.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["deep"]


def test_what_code_leaves_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("open('out.txt', 'w').write('x')")
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "out.txt").symlink_to(tmp_path / "elsewhere")
    assert bailiwick("run", str(tmp_path / "code.py"), "--out", str(tmp_path / "out")).returncode == 2
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node here")
def test_javascript_runs_too(tmp_path: Path) -> None:
    (tmp_path / "code.mjs").write_text("console.log(6 * 7);\n")
    ran = bailiwick("run", str(tmp_path / "code.mjs"), "--json")
    assert json.loads(ran.stdout)["stdout"] == "42\n"


def test_a_file_of_no_known_language_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "code.rb").write_text("puts 1")
    told = bailiwick("run", str(tmp_path / "code.rb"))
    assert told.returncode == 2
    assert "--language" in told.stderr


@pytest.fixture
def code(tmp_path: Path) -> str:
    (tmp_path / "code.py").write_text("print('ran')\nopen('left', 'w').write('x')\n")
    return str(tmp_path / "code.py")


@pytest.mark.parametrize("verb", ["run", "doctor"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cpu_seconds", "cpu_secs", "limit"),
        ("languages = [", "languages = [oops, ", "at line"),
        ('memory = "soft"', 'memory = "hrad"', "one of absent, soft, hard"),
    ],
)
def test_a_mistake_in_a_profile_is_named_with_its_file(
    tmp_path: Path, code: str, verb: str, old: str, new: str, said: str
) -> None:
    shipped = Path(__file__).resolve().parents[2] / "sandbox" / "profiles" / "no-network-512mb.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(shipped.read_text().replace(old, new))
    told = bailiwick(verb, *([code] if verb == "run" else []), "--profiles", str(tmp_path), "--profile", "mine")
    assert (told.returncode, told.stdout) == (2, "")
    assert f"{mine}: " in told.stderr
    assert said in told.stderr


def test_a_folder_of_profiles_that_is_not_there_is_said(tmp_path: Path) -> None:
    told = bailiwick("doctor", "--profiles", str(tmp_path / "nope"))
    assert (told.returncode, f"{tmp_path / 'nope'}: is not a folder" in told.stderr) == (2, True)


def test_that_no_gateway_is_here_to_call_tools_is_said(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "sandbox" / "profiles" / "no-network-512mb.toml"
    (tmp_path / "calls.toml").write_text(f"tools = true\n{shipped.read_text()}")
    (tmp_path / "code.py").write_text("import bailiwick_tools\n")
    told = bailiwick("run", str(tmp_path / "code.py"), "--profiles", str(tmp_path), "--profile", "calls")
    assert (told.returncode, "note: under calls a gateway lets code call tools; here is none" in told.stderr) == (1, True)


def test_where_nothing_can_be_left_nothing_runs(tmp_path: Path, code: str) -> None:
    for place in (code, "/proc/nowhere"):
        told = bailiwick("run", code, "--out", place)
        assert (told.returncode, told.stdout) == (2, ""), told.stderr
        assert f"--out {place}: " in told.stderr


def test_what_cannot_be_read_is_said_with_why(tmp_path: Path, code: str) -> None:
    (tmp_path / "big").write_bytes(b"x" * (16 * 1024 * 1024 + 1))
    for path, why in ((tmp_path / "nope", "No such file"), (tmp_path, "is no file"), (tmp_path / "big", "is longer than 16 MiB")):
        told = bailiwick("run", code, "--file", f"data={path}")
        assert (told.returncode, told.stdout) == (2, "")
        assert f"{path} " in told.stderr
        assert why in told.stderr


def test_a_language_that_there_is_not_is_named(code: str) -> None:
    told = bailiwick("run", code, "--language", "ruby")
    assert (told.returncode, "no language 'ruby'" in told.stderr) == (2, True)


def test_packages_say_what_is_wrong_with_a_lock_file_or_a_folder(tmp_path: Path) -> None:
    missing = bailiwick("packages", "build", "mine", "--lock", str(tmp_path / "nope.lock"))
    assert (missing.returncode, f"{tmp_path / 'nope.lock'} cannot be read" in missing.stderr) == (2, True)
    nowhere = bailiwick("packages", "build", "analysis", "--folder", "/sys/nowhere")
    assert (nowhere.returncode, "/sys/nowhere: " in nowhere.stderr) == (1, True), nowhere.stderr
    none = bailiwick("packages", "list", "--folder", str(tmp_path / "none"))
    assert (none.returncode, none.stdout, f"built in {tmp_path / 'none'}" in none.stderr) == (0, "", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as somebody else")
def test_a_user_to_whom_something_is_closed_is_told_so(tmp_path: Path) -> None:
    """In a child process that gives its rights up, after it has loaded what it needs."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tries = """
import os, sys
from pathlib import Path
from sandbox.packages import PackagesError, load
from sandbox.profiles import ProfileError, load_profiles
os.setgid(65534); os.setuid(65534)
closed = Path(sys.argv[1]) / "x"
for tried in (lambda: load_profiles(closed), lambda: load("tiny", closed, None, None)):
    try:
        tried()
    except (ProfileError, PackagesError) as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", tries, str(closed)], capture_output=True, text=True, timeout=60, check=False)
    assert [line.rsplit(": ", 1)[1] for line in told.stdout.splitlines()] == [
        "Permission denied",
        "bailiwick sandbox packages build tiny",
    ]


def test_a_runner_names_what_it_cannot_listen_on_or_read(tmp_path: Path) -> None:
    gone = bailiwick("runner", "--listen", f"unix:{tmp_path}/gone/r.sock", "--backend", "landlock", "--warm", "0")
    assert (gone.returncode, f"unix:{tmp_path}/gone/r.sock: No such file" in gone.stderr) == (1, True), gone.stderr
    files = [part for name in ("certificate", "key", "authority") for part in (f"--{name}", str(tmp_path / name))]
    unread = bailiwick("runner", "--listen", "tls:127.0.0.1:1", "--allow-name", "x", *files)
    assert (unread.returncode, f"{tmp_path / 'certificate'} cannot be read" in unread.stderr) == (2, True)
