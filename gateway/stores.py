"""Where the embedded stores lie when the settings name no database."""

from __future__ import annotations

from pathlib import Path

from gateway.settings import Settings


def ledger_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the ledger."""
    return settings.ledger.url or f"sqlite:///{(settings.data / 'ledger.db').resolve()}"


def state_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the state."""
    return settings.state.url or f"sqlite:///{(settings.data / 'state.db').resolve()}"


def signed_head_of(settings: Settings) -> Path | None:
    """Where the last signed head is kept apart from a database that others back up and restore; a SQLite file has its own."""
    return None if ledger_url_of(settings).startswith("sqlite") else settings.data / "ledger-signed.json"
