"""The image, without an engine: the Dockerfile's very steps are carried out, and what comes of them is started and stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from .dockerfile import Context, DockerfileError, Image, build, instructions

ROOT = Path(__file__).resolve().parents[2]
TRIES = 40
pytestmark = pytest.mark.timeout(300)  # it installs everything anew: half a minute on an idle machine, more on a busy one
INDEX = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "HOME", "USER", "LANG")
"""What the steps may know of this machine: where packages come from and are kept."""

DEVELOPMENT = """
tenant: default
policies: policies
server: {public_url: "%(url)s"}
issuers:
  - alias: dev
    development: true
    issuer: "%(url)s/dev"
    audience: "%(url)s"
    jwks: {file: %(data)s/dev-jwks.json}
    algorithms: [ES256]
"""


@dataclass
class Container:
    """The image with its mounts: settings and policies that cannot be written, a data folder that can."""

    image: Image
    prefix: list[str]
    port: int

    @property
    def environ(self) -> dict[str, str]:
        own = {key: self.image.here(value) for key, value in self.image.env.items()}
        own["PATH"] = f"{self.image.root}/opt/bailiwick/bin:" + own["PATH"].partition(":")[2]
        return {**own, "HOME": "/", "TMPDIR": f"{self.image.root}/tmp", "BAILIWICK_SERVER__PORT": str(self.port)}

    def words(self, words: list[str]) -> list[str]:
        """A command line of the image, its paths and its published port as they are here."""
        here = [self.image.here(word).replace(f"127.0.0.1:{self.image.ports[0]}", f"127.0.0.1:{self.port}") for word in words]
        found = [place for folder in self.environ["PATH"].split(":") if os.path.lexists(place := f"{folder}/{here[0]}")]
        assert found, f"{here[0]} is not in the image"
        return [*self.prefix, found[0], *here[1:]]

    def run(self, words: list[str], seconds: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(words),
            cwd=self.image.at(self.image.workdir),
            env=self.environ,
            timeout=seconds,
            capture_output=True,
            text=True,
            check=False,
        )

    def healthy(self) -> bool:
        try:
            return self.run(self.image.health, self.image.health_seconds).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    @contextmanager
    def started(self, log: Path, command: Sequence[str] = ()) -> Iterator[subprocess.Popen[bytes]]:
        """With the image's own command, or another one."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.words([*self.image.entrypoint, *(command or self.image.command)]),
                cwd=self.image.at(self.image.workdir),
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def becomes_healthy(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """Wait for it."""
        tries = 0
        while not self.healthy():  # each try is a process of its own, which is pause enough
            tries += 1
            assert process.poll() is None, log.read_text()
            assert tries < TRIES, log.read_text()

    def files(self) -> dict[str, tuple[int, int, int, int]]:
        """Everything that must not change, and what would show a change."""
        free = (self.image.at("/var/lib/bailiwick"), self.image.root / "tmp")
        found = {}
        for path in sorted(self.image.root.rglob("*")):
            if not any(path.is_relative_to(each) for each in free):
                stat = path.lstat()
                found[str(path)] = stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns
        return found


@pytest.fixture(scope="module")
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    """Not below pytest's own folder, which nobody but its owner may enter."""
    with tempfile.TemporaryDirectory(prefix="bailiwick-image-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        known = {key: value for key, value in os.environ.items() if key.upper().startswith(INDEX)}
        image = build(ROOT, folder / "image", known)
        (image.root / "tmp").mkdir()
        (image.root / "tmp").chmod(0o1777)
        settings = image.at("/etc/bailiwick")
        (settings / "bailiwick.yaml").write_text("tenant: default\npolicies: policies\n")
        port = _free_port()
        said = {"url": f"http://127.0.0.1:{port}", "data": image.at("/var/lib/bailiwick")}
        (settings / "development.yaml").write_text(DEVELOPMENT % said)
        shutil.copytree(ROOT / "policies" / "default", settings / "policies")
        for path in sorted(settings.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        prefix, warning = _as_the_images_user(image)
        if warning:
            with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                print(f"\nWARNING: {warning}")
        yield Container(image, prefix, port)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _as_the_images_user(image: Image) -> tuple[list[str], str]:
    """What makes a command run as the image's user without capabilities, and what must be said where that is not quite so."""
    uid, gid = image.user
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return [], f"the image runs as uid {os.geteuid()} and not as {uid}: only root with setpriv can change that"
    user = [setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    plain = [*user, "--bounding-set=-all"]
    if _starts(plain, image):
        return plain, ""
    reading = [*user, "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    if _starts(reading, image):
        return reading, f"uid {uid} may not read this machine's Python: the image runs as that user, but may read every file"
    return [], f"uid {uid} cannot run this machine's Python: the image runs as root"


def _starts(prefix: list[str], image: Image) -> bool:
    """Whether Python runs so, is the same one with the same library, and can start itself again."""
    program = "import os, ssl, subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True); print(os.__file__)"
    python = [str(image.at("/opt/bailiwick/bin/python")), "-c", program]
    said = [
        subprocess.run(command, cwd="/", capture_output=True, timeout=30, check=False) for command in (python, [*prefix, *python])
    ]
    return said[1].returncode == 0 and said[1].stdout == said[0].stdout


def test_the_image_becomes_healthy_and_ends_cleanly(container: Container, tmp_path: Path) -> None:
    log = tmp_path / "log"
    before = container.files()
    assert not container.healthy()
    with container.started(log) as process:
        container.becomes_healthy(process, log)
        if container.prefix:
            assert Path(f"/proc/{process.pid}").stat().st_uid == container.image.user[0]
        process.send_signal(signal.SIGTERM)
        # Uvicorn ends in good order and raises the signal again, which the kernel ignores for a container's first process.
        assert process.wait(timeout=20) in (0, -signal.SIGTERM), log.read_text()
    assert "Traceback" not in log.read_text()
    assert not container.healthy()
    records = json.loads(container.run(["bailiwick", "audit", "tail", "--json"]).stdout)["records"]
    assert records[-1]["kind"] == "writer.stop"
    assert container.files() == before  # nothing but the data folder was written


def test_the_image_starts_with_a_development_issuer_and_gives_its_tokens(container: Container, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with container.started(log, ["serve", "--config", "/etc/bailiwick/development.yaml"]) as process:
        container.becomes_healthy(process, log)
        address = f"http://127.0.0.1:{container.port}/dev/token"
        given = httpx.post(address, data={"user": "paul"}, trust_env=False)
        assert (given.status_code, given.json()["token_type"]) == (200, "Bearer")
        assert httpx.post(address, data={"user": "nobody"}, trust_env=False).status_code == 404


def test_the_image_holds_what_runs_and_nothing_that_builds(container: Container) -> None:
    program = "import importlib.metadata as m, json; print(json.dumps([d.name.lower() for d in m.distributions()]))"
    ran = container.run(["python", "-I", "-c", program])
    assert ran.returncode == 0, ran.stderr
    installed = set(json.loads(ran.stdout))
    assert {"bailiwick", "pycasbin", "psycopg", "uvicorn"} <= installed
    assert installed & {"pip", "uv", "hatchling", "setuptools", "wheel", "mcp", "pytest"} == set()
    programs = {path.name for path in container.image.at("/opt/bailiwick/bin").iterdir()}
    assert not {name for name in programs if name.startswith(("pip", "uv", "hatch")) and not name.startswith("uvicorn")}
    assert not container.image.at("/src").exists()


def test_nothing_of_the_image_belongs_to_its_user_but_the_data(container: Container) -> None:
    image = container.image
    data = image.at("/var/lib/bailiwick")
    assert data.stat().st_mode & 0o777 == 0o700
    assert 0 not in image.user
    if os.geteuid() == 0:
        assert (data.stat().st_uid, data.stat().st_gid) == image.user
        mine = [path for path in image.root.rglob("*") if path.lstat().st_uid == image.user[0] and data not in path.parents]
        assert mine == [data]


def test_every_package_is_installed_by_its_hash() -> None:
    steps = [rest for instruction, rest in instructions((ROOT / "Dockerfile").read_text()) if instruction == "RUN"]
    installs = [step for step in steps if "pip install" in step]
    assert len(installs) == 3
    assert all("--require-hashes" in step or ("--no-index" in step and "--no-deps" in step) for step in installs)


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("pyproject.toml", True),
        ("gateway/app.py", True),
        ("examples/procurement/README.md", True),
        ("gateway/__pycache__/app.cpython-311.pyc", False),
        ("gateway/cli/__pycache__/x.pyc", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("data/ledger-key.pem", False),
        (".demo/data/seal-key", False),
        ("tests/test_docs.py", False),
        ("examples/other/secret", False),
        ("deploy/config/bailiwick.yaml", False),
    ],
)
def test_the_engine_is_given_what_is_built_and_no_key(path: str, given: bool) -> None:
    assert Context(ROOT).has(path) is given


@pytest.mark.parametrize(
    "line",
    [
        "ADD https://example.com/x /src",
        "RUN --mount=type=secret,id=x true",
        "RUN cat /etc/passwd",
        "RUN exit 3",
        "USER root",
        "COPY no-such-file /src/",
        "COPY --chmod=777 LICENSE /src/",
        "ENV A=$B",
        'SHELL ["/bin/bash"]',
        "HEALTHCHECK NONE",
        "ENTRYPOINT bailiwick",
    ],
)
def test_a_step_that_an_engine_would_refuse_or_that_is_not_known_is_an_error(line: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "LICENSE").touch()
    (context / ".dockerignore").write_text("*\n!LICENSE\n")
    start = "FROM python:3.11-slim-bookworm\nWORKDIR /src\nCOPY LICENSE ./\nRUN test -f /src/LICENSE\n"
    end = '\nENTRYPOINT ["true"]\n'
    (context / "Dockerfile").write_text(start + end)
    assert build(context, tmp_path / "fine", {}).entrypoint == ["true"]
    (context / "Dockerfile").write_text(start + line + end)
    with pytest.raises((DockerfileError, ValueError)):
        build(context, tmp_path / "refused", {})
