"""Profiles are read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.model import Guarantee, Language, Limits, Profile, Strength
from sandbox.names import Destination
from sandbox.profiles import ProfileError, load_profiles

GOOD = """
[limits]
cpu_seconds = 1
wall_seconds = 1.5
memory_bytes = 67108864
processes = 4
file_bytes = 4096
scratch_bytes = 4096
output_bytes = 100
open_files = 16
artifacts = 0
artifact_bytes = 0
[requires]
fs_read = "hard"
"""


def test_the_shipped_profile_says_what_its_name_says() -> None:
    profile = load_profiles()["no-network-512mb"]
    assert profile.network == ()
    assert profile.limits.memory_bytes == 512 << 20
    hard = {name for name, strength in profile.requires.items() if strength is Strength.HARD}
    assert hard == {
        Guarantee.FS_READ, Guarantee.FS_WRITE, Guarantee.NET_NONE, Guarantee.PROCESS_ISOLATION, Guarantee.SYSCALL_SURFACE,
    }  # fmt: skip
    assert profile.to_dict()["name"] == "no-network-512mb"


def test_a_folders_profiles_stand_beside_the_shipped_ones(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(GOOD, encoding="utf-8")
    profiles = load_profiles(tmp_path)
    assert set(profiles) == {"analysis", "mcp-stdio", "no-network-512mb", "small"}
    assert profiles["small"].limits.wall_seconds == 1.5
    assert profiles["small"].requires == {Guarantee.FS_READ: Strength.HARD}


def test_a_shipped_name_cannot_be_given_another_meaning(tmp_path: Path) -> None:
    (tmp_path / "no-network-512mb.toml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(ProfileError, match="choose another name"):
        load_profiles(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("cpu_seconds = 1", "cpu_seconds = 0"), "cpu_seconds is 0"),
        (GOOD.replace("cpu_seconds = 1", ""), "limit 'cpu_seconds' is missing"),
        (GOOD.replace("cpu_seconds = 1", "cpu_seconds = 1\ncpus = 1"), "unknown limit 'cpus'"),
        (GOOD.replace("cpu_seconds = 1", "cpu_seconds = true"), "must be a number"),
        (GOOD.replace("cpu_seconds = 1", 'cpu_seconds = "1"'), "must be a number"),
        (GOOD.replace("cpu_seconds = 1", "cpu_seconds = 1.5"), "must be a number"),
        (GOOD.replace("wall_seconds = 1.5", "wall_seconds = nan"), "wall_seconds is nan"),
        (GOOD.replace('"hard"', '"HARD"'), "must be one of absent, soft, hard"),
        (GOOD.replace('"hard"', "2"), "must be one of"),
        (GOOD.replace("fs_read", "fs_raed"), "unknown guarantee 'fs_raed'"),
        ("network = true\n" + GOOD, "network must be false, or a list"),
        ("network = 0\n" + GOOD, "network must be false, or a list"),
        ("network = []\n" + GOOD, "network must be false, or a list"),
        ('network = ["a.example:1", "a.example:1"]\n' + GOOD, "each once"),
        ('network = ["10.0.0.0/8:443"]\n' + GOOD, "names no host"),
        ('network = ["a.example:443"]\n' + GOOD + 'net_none = "soft"', "contradict"),
        (f"network = {[f'h{n}.example:443' for n in range(257)]}\n" + GOOD, "more than 256"),
        ('languages = [""]\n' + GOOD, "unknown language"),
        ('languages = "python"\n' + GOOD, "languages must be a list"),
        ('languages = ["perl"]\n' + GOOD, "unknown language 'perl'"),
        ('languages = ["shell", "shell"]\n' + GOOD, "each once"),
        ("packages = false\n" + GOOD, "packages must be the name"),
        ('packages = "../up"\n' + GOOD, "packages must be the name"),
        ("tools = 1\n" + GOOD, "tools must be true or false"),
        ('session = "yes"\n' + GOOD, "session must be true or false"),
        (GOOD.replace("artifacts = 0\n", ""), "limit 'artifacts' is missing"),
        (GOOD.replace("artifacts = 0", "artifacts = 5000"), "artifacts is 5000"),
        ("extra = 1\n" + GOOD, "unknown key 'extra'"),
        (GOOD.partition("[requires]")[0], "a table [requires] is needed"),
        ("[requires]\n", "a table [limits] is needed"),
        ("[limits", "Expected"),
        (GOOD + "[limits]\n", "Cannot declare"),
        ("#" * 70_000, "longer than"),
    ],
)  # fmt: skip
def test_a_mistake_is_an_error_that_names_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError) as wrong:
        load_profiles(tmp_path)
    assert str(wrong.value).startswith(f"{path}: ")
    assert says in str(wrong.value)


@pytest.mark.parametrize("name", ["Mine", "my_profile", "-x", "x" * 64])
def test_a_name_is_a_slug(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.toml").write_text(GOOD, encoding="utf-8")
    with pytest.raises(ProfileError, match="a profile's name"):
        load_profiles(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="is not a folder"):
        load_profiles(tmp_path / "nowhere")


FULL = """
languages = ["python", "shell", "javascript"]
network = ["pypi.org:443", "*.example.com:8443"]
packages = "analysis"
tools = true
session = true
"""


def test_every_key_of_a_profile_is_read(tmp_path: Path) -> None:
    (tmp_path / "full.toml").write_text(FULL + GOOD, encoding="utf-8")
    profile = load_profiles(tmp_path)["full"]
    assert profile.languages == set(Language)
    assert [str(destination) for destination in profile.network] == ["pypi.org:443", "*.example.com:8443"]
    assert (profile.packages, profile.tools, profile.session) == ("analysis", True, True)
    assert profile.wanted == {Guarantee.FS_READ: Strength.HARD, Guarantee.NET_ALLOWLIST: Strength.HARD}


def test_a_list_of_destinations_asks_for_its_guarantee_by_itself() -> None:
    limits = load_profiles()["no-network-512mb"].limits
    assert Profile("x", limits, network=(Destination("a.example", 443),)).wanted == {Guarantee.NET_ALLOWLIST: Strength.HARD}
    assert Profile("x", limits).wanted == {}


def test_whatever_differs_in_a_profile_differs_in_its_digest(tmp_path: Path) -> None:
    texts = [GOOD, FULL + GOOD, GOOD.replace("cpu_seconds = 1", "cpu_seconds = 2"), GOOD.replace('"hard"', '"soft"')]
    digests = []
    for text in texts:
        (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
        digests.append(load_profiles(tmp_path)["mine"].digest)
    assert len(set(digests)) == len(texts)
    (tmp_path / "mine.toml").write_text("# a comment\n" + GOOD, encoding="utf-8")
    assert load_profiles(tmp_path)["mine"].digest == digests[0]


@pytest.mark.parametrize("field", Limits.__slots__)
def test_every_limit_is_bounded_on_both_sides(field: str) -> None:
    good = load_profiles()["no-network-512mb"].limits.to_dict()
    for value in (-1, 1 << 60, *((0,) if not field.startswith("artifact") else ())):
        with pytest.raises(ValueError, match=field):
            Limits(**{**good, field: value})  # type: ignore[arg-type]
