"""Where the embedded stores lie when the settings name no database."""

from __future__ import annotations

from gateway.settings import Settings


def ledger_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the ledger."""
    return settings.ledger.url or f"sqlite:///{(settings.data / 'ledger.db').resolve()}"


def state_url_of(settings: Settings) -> str:
    """SQLAlchemy URL of the state."""
    return settings.state.url or f"sqlite:///{(settings.data / 'state.db').resolve()}"
