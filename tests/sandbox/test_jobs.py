"""Jobs and the names in them are read strictly, and digests tell one from another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sandbox.model import FILES, MAIN, Guarantee, IsolationUnprovenError, Job, Language, Profile, Reason, Strength
from sandbox.names import Destination, file_name
from sandbox.profiles import load_profiles
from sandbox.result import Artifact, Run

PROFILE = load_profiles()["no-network-512mb"]
JOB = Job("1", "print(1)", PROFILE)


@pytest.mark.parametrize(
    "text", ["example.com:443", "*.example.com:443", "a-b.c1.example:1", "localhost:65535", "xn--bcher-kva.example:443"]
)
def test_a_destination_is_a_name_and_a_port(text: str) -> None:
    assert str(Destination.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "example.com:", "example.com:0", "example.com:65536", "example.com:0443", "example.com:+443",
        "example.com:４４３", "example.com:443 ", " example.com:443", "Example.com:443", "example.com.:443", ".example.com:443",
        "exa_mple.com:443", "-a.example:443", "a-.example:443", "bücher.example:443", "*:443", "*.com:443", "*.*.example.com:443",
        "a.*.example.com:443", "**.example.com:443", "10.0.0.1:443", "127.1:80", "0x7f.1:80", "2130706433:80", "[::1]:443",
        "::1:443", "10.0.0.0/8:443", "user@example.com:443", "example.com\0.evil.example:443", "http://example.com:443",
        "example.com:443/x", f"{'a' * 64}.example:443", f"{'a.' * 127}example:443",
    ],
)  # fmt: skip
def test_anything_else_is_no_destination(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|names no host|address|top-level"):
        Destination.parse(text)


def test_a_wildcard_covers_what_is_beneath_and_not_the_name_itself() -> None:
    wild = Destination.parse("*.example.com:443")
    assert wild.covers("a.example.com", 443)
    assert wild.covers("a.b.example.com", 443)
    assert not any(wild.covers(host, 443) for host in ("example.com", "badexample.com", ".example.com", "example.com.evil.org"))
    assert not wild.covers("a.example.com", 80)
    assert Destination.parse("example.com:443").covers("example.com", 443)
    assert not Destination.parse("example.com:443").covers("a.example.com", 443)


@pytest.mark.parametrize("name", ["data.csv", "a/b/c.txt", "-rf", ".hidden", "ä ö.txt", "a..b"])
def test_a_file_name_is_a_relative_path(name: str) -> None:
    assert file_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "/etc/passwd", "a//b", "a/", "./a", "../a", "a/../b", "a/.", "a\\b", "a\0b", "a\nb", "a\x1b[2J", "a\u202eb",
     "\ud800", "x" * 256, "/".join("x" * 17), "x" * 200 + "/" + "y" * 900],
)  # fmt: skip
def test_anything_else_is_no_file_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"relative name|too long|surrogates"):
        file_name(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"files": {"../x": b""}},
        {"files": {"a": b"", "a/b": b""}},
        {"files": {MAIN[Language.PYTHON]: b""}},
        {"files": {MAIN[Language.PYTHON] + "/x": b""}},
        {"files": {str(n): b"" for n in range(FILES + 1)}},
        {"files": {"large": b"x" * (17 << 20)}},
        {"stdin": b"x" * (17 << 20)},
        {"arguments": ("a\0b",)},
        {"arguments": ("\ud800",)},
        {"arguments": ("x" * (65 << 10),)},
        {"arguments": ("x",) * 257},
        {"language": Language.SHELL, "profile": Profile("p", PROFILE.limits)},
        {"files": {"x": b"x" * 5000}, "profile": Profile("p", replace(PROFILE.limits, file_bytes=4096))},
        {"files": {"x": b"x" * 5000}, "profile": Profile("p", replace(PROFILE.limits, scratch_bytes=4096))},
    ],
)
def test_what_is_too_much_or_not_allowed_is_no_job(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        replace(JOB, **wrong)


def test_whatever_a_run_is_given_stands_in_its_digest() -> None:
    others = [
        JOB, replace(JOB, code="print(2)"), replace(JOB, language=Language.SHELL), replace(JOB, files={"a": b"1"}),
        replace(JOB, files={"a": b"2"}), replace(JOB, files={"b": b"1"}), replace(JOB, arguments=("1",)),
        replace(JOB, stdin=b"1"),
        replace(JOB, profile=replace(PROFILE, limits=replace(PROFILE.limits, cpu_seconds=1))),
        replace(JOB, profile=replace(PROFILE, requires={}, network=(Destination("a.example", 1),))),
    ]  # fmt: skip
    digests = {job.inputs_digest() for job in others} | {JOB.inputs_digest("0" * 64)}
    assert len(digests) == len(others) + 1
    assert replace(JOB, id="2").inputs_digest() == JOB.inputs_digest()
    assert "print" not in str(JOB.to_dict())


def test_whatever_a_run_leaves_stands_in_its_digest() -> None:
    error = IsolationUnprovenError({Guarantee.CPU: (Strength.HARD, Strength.SOFT)}, "help")
    run = Run.refused(JOB, error)
    others = [
        run, replace(run, stdout=b"x"), replace(run, stderr=b"x"), replace(run, exit_code=1), replace(run, reason=Reason.OOM),
        replace(run, signal=9), replace(run, stdout_truncated=True), replace(run, files=(Artifact.of("a", b"1"),)),
        replace(run, files=(Artifact.of("a", b"2"),)), replace(run, files=(Artifact.of("b", b"1"),)),
        replace(run, files_skipped=(("a", "a link"),)),
    ]  # fmt: skip
    assert len({each.outputs_digest for each in others}) == len(others)
    assert replace(run, id="2").outputs_digest == run.outputs_digest
    told = replace(run, files=(Artifact.of("a", b"12"),)).to_dict()
    assert told["files"] == [{"name": "a", "size": 2, "sha256": Artifact.of("a", b"12").sha256}]
