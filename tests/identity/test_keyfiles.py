"""The gateway's own keys, and references to secrets."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.identity import keyfiles
from gateway.problem import ProblemError
from gateway.settings import Secret


def test_a_key_is_made_once_for_the_owner_alone_and_then_stays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = keyfiles.delegation_key(data), keyfiles.ledger_key(data), keyfiles.seal_key(data)
    again = keyfiles.delegation_key(data), keyfiles.ledger_key(data), keyfiles.seal_key(data)
    assert first[0].private_numbers() == again[0].private_numbers()
    assert first[1].private_bytes_raw() == again[1].private_bytes_raw()
    assert first[2] == again[2]
    assert len(first[2]) == 32
    assert {stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()} == {0o600}
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert sorted(path.name for path in data.iterdir()) == ["delegation-key.pem", "ledger-key.pem", "seal-key"]


def test_processes_that_start_together_end_with_one_key(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from gateway.identity.keyfiles import seal_key; print(seal_key(pathlib.Path(sys.argv[1])).hex())"
    )
    root = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=root, text=True)
        for _ in range(4)
    ]
    keys = {process.communicate(timeout=60)[0] for process in running}
    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["seal-key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_key_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    keyfiles.seal_key(tmp_path)
    (tmp_path / "seal-key").chmod(mode)
    with pytest.raises(ProblemError) as caught:
        keyfiles.seal_key(tmp_path)
    assert caught.value.problems[0].code == "open-key-file"
    assert "chmod 600" in caught.value.problems[0].help


def test_a_file_that_holds_another_kind_of_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, load in (
        ("delegation-key.pem", keyfiles.delegation_key),
        ("ledger-key.pem", keyfiles.ledger_key),
        ("seal-key", keyfiles.seal_key),
    ):
        for content in (pem, b"nonsense", b""):
            path = tmp_path / name
            path.write_bytes(content)
            path.chmod(0o600)
            with pytest.raises(ProblemError):
                load(tmp_path)
            assert path.read_bytes() == content


def test_a_pipe_or_a_folder_in_a_keys_place_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "seal-key", 0o600)
    with pytest.raises(ProblemError, match="regular file"):
        keyfiles.seal_key(tmp_path)
    (tmp_path / "ledger-key.pem").mkdir()
    with pytest.raises(ProblemError):
        keyfiles.ledger_key(tmp_path)


def test_a_configured_key_is_used_and_none_is_made(tmp_path: Path) -> None:
    keyfiles.delegation_key(tmp_path / "a")
    pem = tmp_path / "a" / "delegation-key.pem"
    from_file = keyfiles.delegation_key(tmp_path / "b", Secret(file=pem))
    from_env = keyfiles.delegation_key(tmp_path / "b", Secret(env="KEY"), {"KEY": pem.read_text()})
    assert from_file.private_numbers() == from_env.private_numbers()
    assert not (tmp_path / "b").exists()


def test_a_reference_gives_its_prefix_and_its_value_without_the_files_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush\n\n")
    path.chmod(0o640)  # as a mounted secret is
    assert keyfiles.resolve(Secret(file=path, prefix="Bearer ")) == "Bearer hush\n"
    assert keyfiles.resolve(Secret(env="TOKEN", prefix="Bearer "), {"TOKEN": "hush"}) == "Bearer hush"


@pytest.mark.parametrize("environ", [{}, {"TOKEN": ""}])
def test_a_reference_to_nothing_is_a_problem_that_names_the_reference(environ: dict[str, str]) -> None:
    with pytest.raises(ProblemError, match="environment variable TOKEN is not set"):
        keyfiles.resolve(Secret(env="TOKEN"), environ)


def test_a_secret_file_that_everybody_may_read_is_refused_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("hush-hush")
    path.chmod(0o644)
    with pytest.raises(ProblemError) as caught:
        keyfiles.resolve(Secret(file=path))
    assert "hush-hush" not in str(caught.value)
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProblemError, match="UTF-8"):
        keyfiles.resolve(Secret(file=path))
    path.write_bytes(b"x" * (keyfiles.MAX_BYTES + 1))
    with pytest.raises(ProblemError, match="too large"):
        keyfiles.resolve(Secret(file=path))
    with pytest.raises(ProblemError, match="cannot be read"):
        keyfiles.resolve(Secret(file=tmp_path / "absent"))
