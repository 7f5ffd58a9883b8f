"""A command that prints a secret: no shell, no terminal, hardly any environment; bounded in time and in what it may say."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from gateway.problem import Problem, ProblemError

SECONDS = 10.0
MAX_BYTES = 64 * 1024
_INHERITED = ("PATH", "HOME", "LANG")


def printed(command: Sequence[str], environ: Mapping[str, str], seconds: float = SECONDS) -> bytes:
    """What the command wrote to its standard output; blocks.

    ProblemError, which names the program alone (an argument could be a secret), where it cannot be run, fails, takes longer than
    `seconds` or says more than 64 KiB: then it and what it started in its group is killed.
    """
    environment = {name: environ[name] for name in _INHERITED if name in environ}
    try:
        process = subprocess.Popen(  # noqa: S603  the operator's own settings name it, and no shell reads it
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # it could repeat the secret
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise _problem(command, f"cannot be run: {error.strerror}") from None
    with process:
        try:
            output = _read(process, command, time.monotonic() + seconds)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise _problem(command, f"ended with status {process.returncode}")
    return output


def _read(process: subprocess.Popen[bytes], command: Sequence[str], deadline: float) -> bytes:
    output = bytearray()
    assert process.stdout is not None  # noqa: S101  a pipe was asked for
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise _problem(command, "takes too long")
            chunk = os.read(process.stdout.fileno(), 16 * 1024)
            if not chunk:
                break
            output += chunk
            if len(output) > MAX_BYTES:
                raise _problem(command, "says more than a secret is long")
    try:
        process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
        raise _problem(command, "takes too long") from None
    return bytes(output)


def _problem(command: Sequence[str], message: str) -> ProblemError:
    return ProblemError(Problem("missing-secret", f"the command {message}", command[0]))
