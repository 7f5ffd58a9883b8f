"""The runner that is elsewhere, made of settings.  None of this machine's stands in for it, whatever it could prove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sandbox.remote import RemoteRunner, TlsAddress, client_tls, own_address

if TYPE_CHECKING:
    from gateway.settings import Runner as Settings


def remote(settings: Settings) -> RemoteRunner:
    """ValueError for certificates that cannot be used."""
    if settings.tls is None:
        return RemoteRunner(own_address(settings.socket or Path(), settings.uid))
    tls = settings.tls
    try:
        context = client_tls(tls.certificate, tls.key, tls.authority)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"sandbox.runner.tls: the certificates cannot be used: {error}") from error
    return RemoteRunner(TlsAddress(tls.host, tls.port, tls.name, context))
