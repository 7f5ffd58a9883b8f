"""Where the stores lie; and, where the ledger is several logs, the settings as one of them has them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from audit.several import ROOT as BESIDE
from audit.several import exists, url_of
from gateway.settings import Settings
from gateway.settings_ledger import Anchor, Forwarder, Ledger, Outside, Retention, Root

LOG: Final = "ledger"
"""The gateway's own log: the only one, or that of all that belongs to no tenant."""
ROOT: Final = "root"
"""The log over the others."""
_ROOT_SECONDS: Final = 5.0
_OUTSIDE: Final = tuple(Outside.model_fields)


def ledger_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the ledger."""
    return settings.ledger.url or f"sqlite:///{(settings.data / 'ledger.db').resolve()}"


def state_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the state."""
    return settings.state.url or f"sqlite:///{(settings.data / 'state.db').resolve()}"


def signed_head_of(settings: Settings) -> Path | None:
    """Where the last signed head is kept apart from a database that others back up and restore; a SQLite file has its own."""
    if ledger_url_of(settings).startswith("sqlite"):
        return None
    name = settings.ledger.name
    return settings.data / (f"{name}-signed.json" if name == ROOT else f"ledger-signed{name and '-'}{name}.json")


def index_of(settings: Settings) -> Path:
    """The index of the log, which searches make and can make again."""
    name = settings.ledger.name
    return settings.data / f"ledger-index{name and '-'}{name}.db"


def several(settings: Settings) -> bool:
    """Whether each tenant has a log of its own."""
    return settings.ledger.logs == "tenant"


def logs_of(settings: Settings) -> tuple[str, ...]:
    """The names of all logs that there may be, the gateway's own first."""
    root = (ROOT,) if _root(settings) is not None else ()
    return (LOG, *(sorted(settings.every_tenant) if several(settings) else ()), *root)


def of_log(settings: Settings, name: str) -> Settings:
    """The settings as the log of that name has them: with its own place, origin, anchors, archive.

    `LOG` is the gateway's own, `ROOT` the one over all, else a tenant's; `LookupError` where the settings name no such.
    """
    ledger, root = settings.ledger, _root(settings)
    if name == LOG:
        anchors = ledger.anchors
        if root is not None and all(anchor.root is None for anchor in anchors.values()):
            anchors = {**anchors, "root-log": Anchor(root=root, seconds=_ROOT_SECONDS)}
        return _with(settings, ledger.model_copy(update={"anchors": anchors}), "")
    if name == ROOT and root is not None:
        outside = _outside(ledger)
        own = {"url": root.url, "origin": root.origin, "key": root.key or ledger.key, "retention": None}
        return _with(settings, ledger.model_copy(update={**{name: getattr(outside, name) for name in _OUTSIDE}, **own}), ROOT)
    if not several(settings) or name not in settings.every_tenant:
        raise LookupError(name)
    return _with(settings, _tenants(of_log(settings, LOG).ledger, ledger_url_of(settings), name), name)


def existing(settings: Settings) -> list[tuple[str, str]]:
    """Tenant and URL of every log that is there, the gateway's own ("") first.  Asks the database: `StoreError`."""
    found = [("", ledger_url_of(settings))]
    for tenant in sorted(settings.every_tenant) if several(settings) else ():
        url = ledger_url_of(of_log(settings, tenant))
        if exists(url):
            found.append((tenant, url))
    return found


def urls_of(settings: Settings, tenant: str) -> list[str]:
    """Where records of a tenant can stand, of the logs that are there: its own, and the gateway's from before it had one."""
    own = [ledger_url_of(settings)]
    if not several(settings) or tenant not in settings.every_tenant:
        return own
    url = ledger_url_of(of_log(settings, tenant))
    return [url, *own] if exists(url) else own


def _tenants(ledger: Ledger, url: str, name: str) -> Ledger:
    """What would be in one place is in one for each: nobody writes over another's."""
    return ledger.model_copy(
        update={
            "url": url_of(url, name),
            "origin": f"{ledger.origin}/t/{name}",
            "anchors": {each: _anchor(anchor, name) for each, anchor in ledger.anchors.items()},
            "forwarders": {each: _forwarder(forwarder, name) for each, forwarder in ledger.forwarders.items()},
            "retention": None if ledger.retention is None else _retention(ledger.retention, name),
        }
    )


def _anchor(anchor: Anchor, name: str) -> Anchor:
    if anchor.folder is not None:
        return anchor.model_copy(update={"folder": anchor.folder / name})
    if anchor.git is not None:
        return anchor.model_copy(update={"git": anchor.git.model_copy(update={"branch": f"{anchor.git.branch}-{name}"})})
    if anchor.s3 is not None:
        return anchor.model_copy(update={"s3": anchor.s3.model_copy(update={"prefix": _below(anchor.s3.prefix, name)})})
    return anchor


def _forwarder(forwarder: Forwarder, name: str) -> Forwarder:
    path = forwarder.file
    if path is None:
        return forwarder
    return forwarder.model_copy(update={"file": path.with_name(f"{path.stem}.{name}{path.suffix}")})


def _retention(retention: Retention, name: str) -> Retention:
    if retention.folder is not None:
        return retention.model_copy(update={"folder": retention.folder / name})
    assert retention.s3 is not None  # noqa: S101  the settings have exactly one kind
    return retention.model_copy(update={"s3": retention.s3.model_copy(update={"prefix": _below(retention.s3.prefix, name)})})


def _below(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}".lstrip("/")


def _root(settings: Settings) -> Root | None:
    """The root log that the settings name; else one beside several logs."""
    ledger = settings.ledger
    named = next((anchor.root for anchor in ledger.anchors.values() if anchor.root is not None), None)
    if named is not None or not several(settings):
        return named
    return Root(url=url_of(ledger_url_of(settings), BESIDE), origin=f"{ledger.origin}/root")


def _outside(ledger: Ledger) -> Outside:
    """Who remembers the root log.  One that others write too is remembered by nobody who was not named for it."""
    if ledger.root is not None:
        return ledger.root
    if any(anchor.root is not None for anchor in ledger.anchors.values()):
        return Outside()
    same = {name: getattr(ledger, name) for name in ("witnesses", "quorum", "witness_seconds")}
    anchors = {name: _anchor(anchor, ROOT) for name, anchor in ledger.anchors.items()}
    return Outside(**same, anchors=anchors, forwarders={name: _forwarder(each, ROOT) for name, each in ledger.forwarders.items()})


def _with(settings: Settings, ledger: Ledger, name: str) -> Settings:
    ledger._name = name
    return settings.model_copy(update={"ledger": ledger})
