"""A gateway process whose policy is changed while it serves, and the words by which tests change it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.interaction.world import BUNDLE, ROOT, Gateway, Peers

ADMIN = """\
p, role:buyer, acme, admin:policy, read,   allow, -, -, ADM-1
p, role:buyer, acme, admin:policy, change, allow, -, -, ADM-2
"""
TESTS = """\
people:
  paul: {is: "user:dev/paul", groups: [procurement-managers]}
  mia: {is: "user:dev/mia", groups: [marketing-managers]}
tests:
  - {name: a buyer reads, who: paul, tool: desk.read, args: {text: a}, expect: allow}
  - {name: a marketer does not, who: mia, tool: desk.read, args: {text: a}, expect: deny}
"""
MODEL = (ROOT / "policies" / "default" / "model.conf").read_text()
QUICK = {"watch_seconds": 0.05, "settle_seconds": 0.02}
ASKED_ONLY = {"watch_seconds": 0, "settle_seconds": 0.01}


def texts(**grants: str) -> dict[str, str]:
    """A bundle's files: those of the interaction tests, with `grants/<name>.csv` added or replaced."""
    files = {"model.conf": MODEL, **BUNDLE, "grants/admin.csv": ADMIN, "tests/desk.yaml": TESTS}
    return files | {f"grants/{name}.csv": text for name, text in grants.items()}


def only(*tools: str) -> dict[str, str]:
    """A bundle in which a buyer may call these tools and no other."""
    lines = [f"p, role:buyer, acme, {tool}, call, allow, -, -, BUY-{n}" for n, tool in enumerate(tools)]
    lines += ["p, role:marketer, acme, a2a:clerk, send, allow, -, -, MKT-1"]
    return {name: text for name, text in texts(people="\n".join(lines) + "\n").items() if not name.startswith("tests/")}


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write a whole bundle beside, and rename it into place."""
    beside = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    for name, text in files.items():
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        (beside / name).write_text(text)
    (beside / "grants").mkdir(exist_ok=True)
    old = folder.with_name(f".old-{secrets.token_hex(4)}")
    if folder.exists():
        folder.rename(old)
    beside.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def swap(link: Path, files: Mapping[str, str]) -> None:
    """The same as git-sync does it: a new folder, and a link that turns to it in one step."""
    target = link.with_name(f"tree-{secrets.token_hex(4)}")
    write(target, files)
    turned = link.with_name(f".link-{secrets.token_hex(4)}")
    turned.symlink_to(target.name)
    turned.replace(link)


class Live:
    """A gateway, and an administrator's token."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.folder = gateway.folder / "policies"
        self.admin = gateway.token("paul")

    @property
    def frame(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin}"}

    def status(self) -> dict[str, Any]:
        return dict(self.gateway.http.get("/api/policy", headers=self.frame).raise_for_status().json())

    def digest(self) -> str:
        return str(self.status()["active"]["digest"])

    def reload(self) -> httpx.Response:
        return self.gateway.http.post("/api/policy/reload", headers=self.frame)

    def roll_back(self, bundle: str) -> httpx.Response:
        return self.gateway.http.post("/api/policy/rollback", headers=self.frame, json={"bundle": bundle})

    def becomes(self, digest: str, role: str = "active") -> None:
        """Wait until the watch has put it in force."""
        for _ in range(3000):
            if self.status().get(role, {}).get("digest") == digest:
                return
        raise AssertionError(f"{digest} never came into force: {self.status()}")


@contextmanager
def live(folder: Path, peers: Peers, files: Mapping[str, str], **policy: Any) -> Iterator[Live]:
    """A gateway that serves these files."""
    more = policy.pop("more", {})
    policy.setdefault("require_tests", "tests/desk.yaml" in files)
    write(folder / "policies", files)
    gateway = Gateway(folder, peers, more={"policy": policy, **more})
    try:
        yield Live(gateway.start())
    finally:
        gateway.kill()
