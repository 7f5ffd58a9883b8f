"""What of servers' definitions is approved in one bundle and not in another."""

from __future__ import annotations

from collections.abc import Iterator

from policies.changes import Named
from policies.lock import Approved, Lock, What
from policies.pinning import EVERY, GRADES, MODES, NEVER, Pinning
from policies.unseen import shown


def newly(before: Lock, after: Lock) -> Iterator[tuple[str, What, str, Approved]]:
    """What `after` approves and `before` does not, or of which it approved something else."""
    for server, what, name, approved in after.every():
        then = before.approved(server, what, name)
        if then is None or then.digests != approved.digests:
            yield server, what, name, approved


def differing(before: Pinning, after: Pinning) -> Iterator[str]:
    """Servers of which another definition counts, or may count, than before."""
    for server in {*before.servers, *after.servers, *before.lock.servers, *after.lock.servers} - {EVERY}:
        rules = [
            (side.mode(server), [side.waits(server, grade) for grade in GRADES], side.lock.servers.get(server))
            for side in (before, after)
        ]
        if rules[0] != rules[1]:
            yield server


def compared(before: Pinning, after: Pinning) -> tuple[Named, bool]:
    """What was approved, withdrawn or approved anew, and which servers' rules changed; whether any of it lets more through."""
    then, now = ({_said(*each[:3]): set(each[3].digests) for each in side.lock.every()} for side in (before, after))
    added, changed = (
        sorted(now.keys() - then.keys()),
        [name for name in sorted(now.keys() & then.keys()) if now[name] != then[name]],
    )
    opened = bool(added) or any(now[name] - then[name] for name in changed)
    for server in sorted({*before.servers, *after.servers, *before.lock.servers, *after.lock.servers}):
        rules = [(side.mode(server), next((g for g in GRADES if side.waits(server, g)), NEVER)) for side in (before, after)]
        if rules[0][0] != rules[1][0]:
            changed.append(f"{server}: {rules[0][0]} → {rules[1][0]}")
            opened = opened or MODES.index(rules[1][0]) > MODES.index(rules[0][0])
        if rules[0][1] != rules[1][1]:
            changed.append(f"{server}: suspicious from {rules[0][1]} → {rules[1][1]}")
            opened = opened or (*GRADES, NEVER).index(rules[1][1]) > (*GRADES, NEVER).index(rules[0][1])
    return Named(tuple(added), tuple(sorted(then.keys() - now.keys())), tuple(changed)), opened


def _said(server: str, what: str, name: str) -> str:
    return f"{server} {what} {shown(name)}".strip()
