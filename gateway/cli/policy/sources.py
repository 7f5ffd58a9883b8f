"""Where a bundle may come from: a folder, a revision of a git repository, or the digest of one that the gateway has kept.

git is asked for objects alone, by fixed arguments: no shell, no checkout, no hook, no filter; nothing is fetched, all is bounded.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.bundles import bundle_problems, read_bundle
from gateway.problem import Problem, ProblemError

if TYPE_CHECKING:
    from policies.bundle import Bundle

HELP = "a folder, git:REVISION[:FOLDER], or the digest (8 characters are enough) of a kept bundle"
SECONDS = 20.0
MAX_LISTING = 1024 * 1024
_REVISION = re.compile(r"[A-Za-z0-9._/@^~{}+-]{1,200}")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})|sha256:([0-9a-f]{8,63})")
_ENTRY = re.compile(rb"([0-7]{6}) ([a-z]+) ([0-9a-f]{40,64}) +([0-9]+|-)\t(.+)", re.DOTALL)
_KEPT = ("PATH", "HOME", "XDG_CONFIG_HOME", "GIT_DIR", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")


def read_source(text: str, config: Path) -> Bundle:
    """The bundle that a word of the command line means.  ProblemError with everything that is wrong with it."""
    if text.startswith("git:"):
        revision, _, folder = text[4:].partition(":")
        return _from_texts(read_revision(revision, folder or "policies"), text)
    digest = _DIGEST.fullmatch(text)
    if digest is not None and not Path(text).exists():
        folder_ = _kept(kept_folder(config), digest[1] or digest[2], text)
        bundle = read_bundle(folder_)
        if bundle.digest != f"sha256:{folder_.name}":
            raise _problem("wrong-digest", "the kept bundle is not what it was", text, f"its files hash to {bundle.digest}")
        return bundle
    if not Path(text).exists():
        hint = f"name the folder that holds model.conf; a revision of a repository is written git:REV[:FOLDER], as git:{text}"
        raise _problem("no-bundle", "there is no such folder", text, hint)
    return read_bundle(Path(text))


def _kept(kept: Path, start: str, text: str) -> Path:
    """The folder of the one kept bundle whose digest begins so."""
    found = [each for each in sorted(kept.glob(f"{start}*")) if each.is_dir()]
    if len(found) == 1:
        return found[0]
    message = f"{len(found)} kept bundles begin so" if found else "no bundle of this digest was kept"
    raise _problem("no-bundle", message, text, f"kept ones are folders of {kept}")


def kept_folder(config: Path) -> Path:
    """Where the gateway keeps the bundles that were in force."""
    from gateway.configuration import load  # noqa: PLC0415  the command line pays for what it uses

    return load(config, os.environ).data / "bundles"


def read_revision(revision: str, folder: str) -> dict[str, str]:
    """The texts of a folder (from the repository's root) at a revision of the repository that we stand in."""
    from policies.reading import IGNORED, MAX_BYTES, MAX_FILES  # noqa: PLC0415

    place = f"git:{revision}:{folder}"
    if not _REVISION.fullmatch(revision) or revision.startswith("-"):
        raise _problem("no-bundle", "this is no revision", place, "as git:HEAD~1, git:origin/main or git:v1.2:policies")
    folder = folder.strip("/")
    if ".." in folder.split("/") or not folder.isprintable():
        raise _problem("no-bundle", "the folder must lie in the repository", place, "name it from the repository's root")
    commit = _git(place, "rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}").decode().strip()
    where = folder.removeprefix(".").strip("/")
    inside = [f"{where}/"] if where else []
    listed = _git(place, "--literal-pathspecs", "ls-tree", "-r", "-z", "-l", "--full-tree", commit, "--", *inside)
    entries = [match for each in listed.split(b"\0") if (match := _ENTRY.fullmatch(each))]
    if not entries:
        raise _problem("no-bundle", "there is no such folder at this revision", place, "name it from the repository's root")
    if len(entries) > MAX_FILES or sum(int(size) for *_, size, _ in (e.groups() for e in entries) if size != b"-") > MAX_BYTES:
        raise _problem("too-large", f"more than {MAX_FILES} files or {MAX_BYTES} bytes", place, "name the folder of one bundle")
    texts = {}
    for entry in entries:
        mode, _, name, _, path = entry.groups()
        relative = path.decode("utf-8", "replace").removeprefix(f"{where}/" if where else "")
        if relative in IGNORED:
            continue
        if mode not in (b"100644", b"100755"):
            raise _problem("stray-file", "this is no plain file", f"{place}/{relative}", "a bundle holds files alone")
        try:
            texts[relative] = _git(place, "cat-file", "blob", name.decode(), most=MAX_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise _problem("not-utf8", "the file is not UTF-8", f"{place}/{relative}", "save it as UTF-8") from None
    return texts


def _git(place: str, *arguments: str, most: int = MAX_LISTING) -> bytes:
    """What git says; ProblemError where it fails, takes too long or says too much."""
    environ = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environ |= {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
    environ |= {"GIT_NO_REPLACE_OBJECTS": "1"}
    command = ["git", "--no-pager", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
    try:
        with subprocess.Popen(  # noqa: S603  fixed arguments; what a person gives is checked above
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
        ) as process:
            try:
                said, _ = process.communicate(timeout=SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
    except FileNotFoundError:
        raise _problem("no-bundle", "git is not installed", place, "give a folder instead") from None
    except subprocess.TimeoutExpired:
        raise _problem("no-bundle", f"git did not answer within {SECONDS:g} s", place, "give a folder instead") from None
    if process.returncode != 0 or len(said) > most:
        raise _problem(
            "no-bundle", "git knows no such revision here", place, "is this folder in the repository, and the revision fetched?"
        )
    return said


def _from_texts(texts: dict[str, str], place: str) -> Bundle:
    from policies.bundle import BundleError, load_texts  # noqa: PLC0415

    try:
        return load_texts(texts)
    except BundleError as error:
        raise ProblemError(*bundle_problems(error, Path(place))) from None


def _problem(code: str, message: str, place: str, help_: str) -> ProblemError:
    return ProblemError(Problem(code, message, place, help_))
