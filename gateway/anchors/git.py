"""A git repository elsewhere that takes checkpoints, a commit each, by the git program: no shell, no hooks, no questions.

Commits only ever follow one another; a branch that went another way is not overwritten.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from audit.checkpoint import MAX_NOTE, Checkpoint, Vkey
from gateway.anchors.anchor import AnchorConflictError, AnchorFailedError, compare

SECONDS: Final = 60.0
FILE: Final = "checkpoint"
_INHERITED: Final = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK")
_QUIET: Final = (
    *("-c", "core.hooksPath=/dev/null", "-c", "protocol.ext.allow=never"),
    *("-c", "gc.auto=2000", "-c", "gc.autoDetach=false", "-c", "gc.pruneExpire=1.hour.ago"),
    *("-c", "user.name=bailiwick", "-c", "user.email=ledger@bailiwick.invalid", "-c", "commit.gpgSign=false"),
)


class GitAnchor:
    """Pushes to one branch of a remote.  folder: a bare repository of our own, made at first need; losing it loses nothing."""

    def __init__(self, folder: Path, remote: str, branch: str, own: Vkey, environ: Mapping[str, str] = os.environ) -> None:
        self._folder = folder
        self._remote = remote
        self._branch = branch
        self._own = own
        self._environ = {name: environ[name] for name in _INHERITED if name in environ} | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    async def put(self, head: Checkpoint, note: str) -> None:
        """See `Anchor`."""
        await asyncio.to_thread(self._put, head, note)

    def _put(self, head: Checkpoint, note: str) -> None:
        if not (self._folder / "HEAD").exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", ".")
        before = self._fetched()
        if before:
            found = self._git("cat-file", "blob", f"{before}:{FILE}")
            if compare(found, self._own, head).size == head.size:
                return
        blob = self._git("hash-object", "-w", "--stdin", said=note).strip()
        tree = self._git("mktree", said=f"100644 blob {blob}\t{FILE}\n").strip()
        words = ("commit-tree", tree, "-m", f"{head.origin}: {head.size} records", *(("-p", before) if before else ()))
        commit = self._git(*words).strip()
        self._git("push", "--quiet", "--porcelain", self._remote, f"{commit}:refs/heads/{self._branch}")

    def _fetched(self) -> str:
        """The branch's commit as it is there now; "" where there is none yet."""
        listed = self._git("ls-remote", "--", self._remote, f"refs/heads/{self._branch}")
        if not listed.strip():
            return ""
        self._git("fetch", "--quiet", "--no-tags", "--depth=1", self._remote, f"refs/heads/{self._branch}")
        return self._git("rev-parse", "--verify", "FETCH_HEAD").strip()

    def _git(self, *words: str, said: str = "") -> str:
        """One git command's output.  What it complains of may name the remote, which holds no secret."""
        try:
            process = subprocess.Popen(  # noqa: S603  no shell; the operator's settings name the remote, and it is no option
                ["git", *_QUIET, *words],  # noqa: S607  as the operator's PATH has it
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise AnchorFailedError(f"git cannot be run: {error.strerror}") from None
        with process:
            try:
                out, complaint = process.communicate(said.encode(), SECONDS)
            except subprocess.TimeoutExpired:
                raise AnchorFailedError(f"git {words[0]} takes too long") from None
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            why = complaint.decode("utf-8", "replace").strip().split("\n")[-1][:200]
            raise AnchorFailedError(f"git {words[0]}: {why or process.returncode}")
        return out[: MAX_NOTE + 1].decode("utf-8", "replace")


__all__ = ["AnchorConflictError", "GitAnchor"]
