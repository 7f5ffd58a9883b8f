"""Carries out a Dockerfile without an engine: its very steps, in a folder that stands for the root of the image.

Strict: an instruction, flag or path that is not known here is an error, so that nothing of the file goes untested unnoticed.
What it cannot show: the base image itself (`python` is this interpreter, the system's programs are this machine's).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

OURS = ("src", "build", "opt", "wheels", "etc/bailiwick", "var/lib/bailiwick", "usr/local/bin")
"""Paths of the image that lie below the folder; `usr/local/bin` because the base image's `python` is there."""
SYSTEM = frozenset({"/usr/bin", "/bin"})
_ABSOLUTE = re.compile(r"""(?:^|(?<=[\s=:"']))/(?!/)[\w./-]*""")
_FROM = re.compile(r"python:3\.\d+-slim-bookworm(?: AS ([a-z]+))?")
_STEP_SECONDS = 90


class DockerfileError(Exception):
    """Something that an engine would refuse, or that is not known here."""


@dataclass
class Image:
    """What the last stage says of itself, with the image's own paths; `root` is the folder that holds its files."""

    root: Path
    workdir: str = "/"
    user: tuple[int, int] = (0, 0)
    env: dict[str, str] = field(default_factory=dict)
    ports: list[int] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_seconds: float = 30.0
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def at(self, path: str) -> Path:
        """Where a path of the image lies."""
        absolute = path if path.startswith("/") else f"{self.workdir.rstrip('/')}/{path}"
        clean = os.path.normpath(absolute)
        if clean != "/" and not any(clean == f"/{ours}" or clean.startswith(f"/{ours}/") for ours in OURS):
            raise DockerfileError(f"{path}: not a path that is known here")
        return self.root / clean.lstrip("/")

    def here(self, text: str) -> str:
        """A text with the image's absolute paths replaced by where they lie."""

        def place(found: re.Match[str]) -> str:
            return found[0] if found[0] in SYSTEM else str(self.at(found[0])) + ("/" if found[0].endswith("/") else "")

        return _ABSOLUTE.sub(place, text)


def build(folder: Path, root: Path, environ: Mapping[str, str]) -> Image:
    """Carry out `folder`/Dockerfile below `root`, with `folder` as the context.

    RUN steps get `environ` beside the image's own environment.  Raises DockerfileError.
    """
    context = Context(folder)
    stages: dict[str, Path] = {}
    image: Image | None = None
    name = ""
    for instruction, rest in instructions((folder / "Dockerfile").read_text(encoding="utf-8")):
        if instruction == "FROM":
            if image is not None:  # the venv's scripts hold absolute paths: each stage is made at the same place, then set aside
                stages[name] = root.with_name(f"{root.name}.{name}")
                root.rename(stages[name])
            found = _FROM.fullmatch(rest)
            if found is None:
                raise DockerfileError(f"FROM {rest}: not a base that is known here")
            name = found[1] or ""
            image = _base(root)
        elif image is None:
            raise DockerfileError(f"{instruction} before FROM")
        else:
            _carry_out(image, instruction, rest, context, stages, environ)
    if image is None or not image.entrypoint:
        raise DockerfileError("there is nothing to start")
    return image


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Instruction and rest of every line; comments stand on lines of their own."""
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        instruction, _, rest = line.partition(" ")
        if line.endswith("\\") or "<<" in line or "$" in line or not instruction.isupper():
            raise DockerfileError(f"not known here: {line}")
        yield instruction, rest.strip()


class Context:
    """The files that the engine is given: what `.dockerignore` leaves."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        lines = (folder / ".dockerignore").read_text(encoding="utf-8").splitlines()
        self._rules = [_rule(line.strip()) for line in lines if line.strip() and not line.startswith("#")]

    def has(self, path: str) -> bool:
        """Whether the file at this path, relative to the context, is given."""
        parts = path.split("/")
        above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        ignored = False
        for pattern, ignores in self._rules:  # the last one that speaks of the file, or of a folder that it is in, holds
            if any(pattern.fullmatch(each) for each in above):
                ignored = ignores
        return not ignored

    def files(self, source: str) -> Iterator[Path]:
        """Every given file at or below `source`; an error where there is none."""
        start = self._folder / source
        found = sorted(path for path in (start.rglob("*") if start.is_dir() else [start]) if path.is_file())
        given = [path for path in found if self.has(path.relative_to(self._folder).as_posix())]
        if not given:
            raise DockerfileError(f"COPY {source}: the context has no such file")
        yield from given


def _rule(line: str) -> tuple[re.Pattern[str], bool]:
    pattern = line.removeprefix("!").strip("/")
    if not re.fullmatch(r"(\*\*/)?(\*|[\w.-]+)(/[\w.-]+)*", pattern):
        raise DockerfileError(f".dockerignore: not known here: {line}")
    anywhere = pattern.startswith("**/")
    body = "/".join(r"[^/]*" if part == "*" else re.escape(part) for part in pattern.removeprefix("**/").split("/"))
    return re.compile(f"(?:.*/)?{body}" if anywhere else body), not line.startswith("!")


def _base(root: Path) -> Image:
    """An empty root with the base image's `python`; a script and not a link, so that a virtual environment finds its home."""
    programs = root / "usr/local/bin"
    programs.mkdir(parents=True)
    root.chmod(0o755)
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return Image(root, env={"PATH": "/usr/local/bin:/usr/bin:/bin"})


def _carry_out(
    image: Image, instruction: str, rest: str, context: Context, stages: Mapping[str, Path], environ: Mapping[str, str]
) -> None:
    match instruction:
        case "WORKDIR":
            image.workdir = rest
            image.at(rest).mkdir(parents=True, exist_ok=True)
        case "COPY":
            _copy(image, rest, context, stages)
        case "RUN":
            _run(image, rest, environ)
        case "USER" if re.fullmatch(r"[1-9]\d*:[1-9]\d*", rest):
            uid, gid = rest.split(":")
            image.user = int(uid), int(gid)
        case "ENV":
            for word in shlex.split(rest):
                key, equals, value = word.partition("=")
                if not equals:
                    raise DockerfileError(f"ENV {rest}: not known here")
                image.env[key] = value
        case "EXPOSE":
            image.ports.append(int(rest))
        case "HEALTHCHECK":
            _health(image, rest)
        case "ENTRYPOINT":
            image.entrypoint = _exec_form(rest)
        case "CMD":
            image.command = _exec_form(rest)
        case _:
            raise DockerfileError(f"not known here: {instruction} {rest}")


def _copy(image: Image, rest: str, context: Context, stages: Mapping[str, Path]) -> None:
    words = rest.split()
    if words[0].startswith("--from="):
        source, target = words[1:]
        stage = stages[words[0].removeprefix("--from=")]
        shutil.copytree(stage / source.lstrip("/"), image.at(target), symlinks=True)
        return
    if any(word.startswith("--") for word in words):
        raise DockerfileError(f"COPY {rest}: not known here")
    *sources, target = words
    if len(sources) > 1 and not target.endswith("/"):
        raise DockerfileError(f"COPY {rest}: several files need a folder")
    for source in sources:
        start = context._folder / source
        for file in context.files(source):
            below = file.relative_to(start) if start.is_dir() else Path(file.name) if target.endswith("/") else Path()
            place = image.at(target) / below
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)


def _run(image: Image, rest: str, environ: Mapping[str, str]) -> None:
    if rest.startswith(("[", "--")):
        raise DockerfileError(f"RUN {rest}: not known here")
    if os.geteuid() != 0:
        rest = re.sub(r" -[og] \d+", "", rest)  # `install` for another user: only root can
    ran = subprocess.run(
        ["/bin/sh", "-c", image.here(rest)],
        cwd=image.at(image.workdir),
        env={**environ, **{key: image.here(value) for key, value in image.env.items()}},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_STEP_SECONDS,
        check=False,
    )
    if ran.returncode != 0:
        raise DockerfileError(f"RUN {rest}\n{ran.stdout}")


def _health(image: Image, rest: str) -> None:
    options, cmd, words = rest.partition(" CMD ")
    found = dict(re.findall(r"--(interval|timeout|start-period)=(\d+)s", options))
    if not cmd or len(found) != len(options.split()):
        raise DockerfileError(f"HEALTHCHECK {rest}: not known here")
    image.health, image.health_seconds = _exec_form(words), float(found.get("timeout", 30))


def _exec_form(rest: str) -> list[str]:
    words = json.loads(rest)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DockerfileError(f"not a list of words: {rest}")
    return words
