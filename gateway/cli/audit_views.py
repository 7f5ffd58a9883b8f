"""Records as people and programs see them; opened values are shown, everything else as it stands in the leaf."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.checkpoint import Vkey
from audit.model import TamperedError
from audit.reader import Ledger, Record, Shredded
from audit.trace import JOINED
from gateway.identity.keyfiles import LEDGER_FILE, SEAL_FILE, ledger_key, seal_key
from gateway.stores import ledger_url_of

if TYPE_CHECKING:
    from audit.cosignature import Witnessed
    from gateway.settings import Settings


def ledger_url(settings: Settings, ledger: Path | None) -> str:
    """The ledger's URL: another file, or the one that the settings mean."""
    return f"sqlite:///{ledger.resolve()}" if ledger is not None else ledger_url_of(settings)


def existing_seal_key(settings: Settings, environ: Mapping[str, str] = os.environ) -> bytes | None:
    """The key that opens sealed values; None where this person has none.  Reading never makes one."""
    if settings.ledger.seal_key is None and not (settings.data / SEAL_FILE).exists():
        return None
    return seal_key(settings.data, settings.ledger.seal_key, environ)


def own_vkey(settings: Settings, environ: Mapping[str, str] = os.environ) -> str | None:
    """The verifier key of the settings' own signing key; None where there is none yet.  Verifying never makes one."""
    if settings.ledger.key is None and not (settings.data / LEDGER_FILE).exists():
        return None
    return str(Vkey.of(settings.ledger.origin, ledger_key(settings.data, settings.ledger.key, environ)))


_ENDS = frozenset({"call.end", "call.orphaned", "egress.end"})


def seen_by(settings: Settings, ledger: Path | None, environ: Mapping[str, str] = os.environ) -> Witnessed:
    """What the settings' witnesses say of the ledger, as far as their pinned keys verify it."""
    from audit.cosignature import Witnessed, WitnessKey, witnessed  # noqa: PLC0415  not every verb asks
    from audit.store import StoreError  # noqa: PLC0415
    from audit.store_proofs import ProofStore  # noqa: PLC0415

    keys = [WitnessKey.parse(each.key) for each in settings.ledger.witnesses]
    own = own_vkey(settings, environ)
    nothing = Witnessed(len(keys), settings.ledger.wanted)
    if not keys or own is None:
        return nothing
    store = ProofStore(ledger_url(settings, ledger), read_only=True)
    try:
        return witnessed(store.cosigned(100), Vkey.parse(own), keys, nothing.quorum) if store.exists() else nothing
    except StoreError:
        return nothing
    finally:
        store.close()


def when(at: int) -> str:
    """UTC, to the millisecond."""
    return datetime.fromtimestamp(at / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def who(record: Record, log: Ledger) -> str:
    """The chain, person first, by name where the name may be read; of a kill, whoever wanted it."""
    links = record.leaf.get("chain") or []
    names = [str(link[1]) for link in links if isinstance(link, list) and len(link) == 2]
    if not names and record.kind == "identity.kill":
        return _killer(record, log)
    return " > ".join(_name(name, log) for name in names)


def _killer(record: Record, log: Ledger) -> str:
    """An administrator stands in the wish, an issuer or an account in `by`; what is one's own, one kills oneself."""
    leaf = record.leaf
    wish = log.get(str(leaf["request"])) if "request" in leaf else None
    if wish is not None and wish.leaf.get("chain"):
        return who(wish, log)
    return _name(str(leaf.get("by") or (leaf.get("subject", "") if leaf.get("source") == "self" else "")), log)


def summary(record: Record, log: Ledger) -> dict[str, Any]:
    """One line of `tail`."""
    leaf = record.leaf
    refused, outcome = leaf.get("refused"), leaf.get("outcome")
    begun = log.get(str(leaf["call"])) if "call" in leaf else None  # an end names the call that it ends
    whose = begun or record
    what = _identity(whose, log) or whose.leaf.get("resource") or whose.leaf.get("target") or _policy(whose.leaf)
    if isinstance(refused, dict):
        what = f"{what} {refused.get('code', '')}"
    elif isinstance(outcome, dict):
        what = f"{what} {outcome.get('status', '')}"
    elif record.kind == "sandbox.probe":
        what = f"{leaf.get('backend', '')} {leaf.get('probe', '')!s:.12}"
    elif record.kind in {"sandbox.start", "sandbox.end"}:
        what = f"{what} {leaf.get('profile', '')} {leaf.get('reason', '')}"
    return {
        "index": record.index,
        "at": when(record.at),
        "kind": record.kind,
        "what": str(what).strip(),
        "who": who(whose, log),
        "workflow": leaf.get("workflow", ""),
        "id": whose.id,
    }


def _identity(record: Record, log: Ledger) -> str:
    """Of a record of identity itself: whom it stops, which token, whose grant, or which key."""
    leaf = record.leaf
    match record.kind:
        case "identity.kill" if "what" in leaf:
            return f"{leaf['what']} {_name(str(leaf.get('target', '')), log)}"
        case "grant.set" | "grant.revoke" if "agent" in leaf:
            return f"{leaf['agent']} {' '.join(str(each) for each in leaf.get('scope') or ())}"
        case "approval.ask" | "approval.grant" | "approval.deny" | "approval.use" | "approval.expire" | "approval.withdraw":
            return f"{leaf.get('resource', '')} {leaf.get('approval', '')}"
        case "key.activate":
            return f"{leaf.get('kid', '')} {leaf.get('use', '')}"
        case "identity.lift" if "kill" in leaf:
            return f"{leaf.get('what', '')} {leaf['kill']}"
        case "identity.kill" | "identity.lift" | "identity.delegate":
            return str(leaf.get("wanted", ""))
        case _:
            return ""


def _policy(leaf: Mapping[str, Any]) -> str:
    """Of a record of policy itself: which bundle, and why it was looked at."""
    if not str(leaf.get("kind", "")).startswith("policy."):
        return ""
    return f"{str(leaf.get('policy', ''))[:19]} {leaf.get('role', '')} {leaf.get('cause', '')}".strip()


def full(record: Record, log: Ledger) -> dict[str, Any]:
    """A record with its opened values and, for a call, the record of its end, and of the code that it ran."""
    view: dict[str, Any] = {
        "index": record.index,
        "leaf_hash": record.hash.hex(),
        "who": who(record, log),
        "names": _names(record, log),
        "record": record.leaf,
        "values": {name: _value(record, name, log) for name in record.values},
    }
    if record.kind in {"call.start", "egress.start"}:
        found = [one for one in log.workflow(str(record.leaf.get("workflow", ""))) if one.leaf.get("call") == record.id]
        end = next((one for one in found if one.kind in _ENDS), None)
        view["end"] = None if end is None else full(end, log)
        view["run"] = [full(one, log) for one in found if one.kind in {"sandbox.start", "sandbox.end"}]
    return view


def render_record(view: Mapping[str, Any], indent: str = "") -> str:
    """For a terminal: who, why, what it carried, and last the record itself."""
    lines = [f"{indent}record {view['index']}  leaf hash {view['leaf_hash']}"]
    if view["who"]:
        lines.append(f"{indent}who     {view['who']}")
    if (view["record"].get("auth") or {}).get("assurance") == "correlated":
        lines.append(f"{indent}proof   {JOINED}")
    if isinstance(streamed := view["record"].get("stream"), dict):
        lines.append(
            f"{indent}stream  {streamed.get('chunks')} messages; `bailiwick audit stream` holds what was kept against them"
        )
    lines += [f"{indent}{pseudonym} is {name}" for pseudonym, name in view["names"].items()]
    for name, text in sorted(view["values"].items(), key=lambda item: item[0] != "explanation"):
        lines.append(f"{indent}{name}:")
        lines += [f"{indent}    {line}" for line in str(text).splitlines() or [""]]
    lines.append(f"{indent}the record:")
    lines += [f"{indent}    {line}" for line in json.dumps(view["record"], indent=2, ensure_ascii=False).splitlines()]
    for part in view.get("run", ()):
        lines += ["", f"{indent}and of the code that it ran:", render_record(part, indent + "  ")]
    if view.get("end"):
        lines += ["", f"{indent}and its end:", render_record(view["end"], indent + "  ")]
    return "\n".join(lines)


def _value(record: Record, name: str, log: Ledger) -> str:
    try:
        value = log.open_value(record, name)
    except TamperedError as error:
        return f"[damaged: {error}]"
    if value is None:
        return "[sealed: --reason opens it, for who has the key]"
    return str(value) if isinstance(value, Shredded) else value.decode("utf-8", "replace")


def _names(record: Record, log: Ledger) -> dict[str, str]:
    """Who is behind the pseudonyms that the record says of a person, where that may be read."""
    said = {str(record.leaf.get(member, "")) for member in ("subject", "target")}
    found = {each: _name(each, log) for each in sorted(said) if each.startswith("s_")}
    return {pseudonym: name for pseudonym, name in found.items() if name != pseudonym}


def _name(pseudonym: str, log: Ledger) -> str:
    if not pseudonym.startswith("s_"):
        return pseudonym
    try:
        return str(log.subject_name(pseudonym) or pseudonym)
    except TamperedError:
        return pseudonym
