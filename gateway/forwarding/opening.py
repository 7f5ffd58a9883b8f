"""The forwarders that the settings name."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

from audit.store_proofs import ProofStore
from gateway.forwarding.file import LinesFile
from gateway.forwarding.forwarding import Forwarding, Post
from gateway.forwarding.http import Headers, Otlp, Send, Webhook
from gateway.forwarding.receiver import Receiver
from gateway.forwarding.syslog import Syslog
from gateway.identity.keyfiles import resolve
from gateway.model import Clock
from gateway.policy.records import Append
from gateway.problem import Problem, ProblemError
from gateway.settings import Settings
from gateway.settings_ledger import Endpoint, Forwarder
from gateway.settings_ledger import Syslog as SyslogPlace


def forwarders_of(  # noqa: PLR0917  what forwarders are made of
    settings: Settings, environ: Mapping[str, str], url: str, store: ProofStore, send: Send, append: Append, clock: Clock
) -> Forwarding:
    """All of them; `ProblemError` for one that cannot be as the settings have it."""
    posts = {
        name: Post(
            _receiver(name, wanted, environ, send), wanted.batch, wanted.seconds, wanted.begin == "first"
        )
        for name, wanted in settings.ledger.forwarders.items()
    }  # fmt: skip
    return Forwarding(url, store, posts, append, clock)


def _receiver(name: str, wanted: Forwarder, environ: Mapping[str, str], send: Send) -> Receiver:
    where = f"ledger.forwarders.{name}"
    try:
        if wanted.syslog is not None:
            place = wanted.syslog
            return Syslog(
                place.host, place.port, _context(place), wanted.format or "cef", socket.gethostname(), lenient=place.lenient
            )
        if wanted.otlp is not None:
            return Otlp(str(wanted.otlp.url), _headers(wanted.otlp, environ), send)
        if wanted.webhook is not None:
            return Webhook(str(wanted.webhook.url), _headers(wanted.webhook, environ), wanted.format or "ocsf", send)
        assert wanted.file is not None  # noqa: S101  the settings have exactly one kind
        return LinesFile(wanted.file, wanted.format or "jsonl")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ProblemError(Problem("wrong-forwarder", f"it cannot be as it is set: {error}", where)) from None


def _context(place: SyslogPlace) -> ssl.SSLContext:
    """TLS that verifies the receiver by name, and shows a certificate where one is set."""
    context = ssl.create_default_context(cafile=None if place.roots is None else str(place.roots))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if place.certificate is not None:
        context.load_cert_chain(place.certificate, place.key)
    return context


def _headers(endpoint: Endpoint, environ: Mapping[str, str]) -> Headers:
    return tuple((name.lower().encode("ascii"), resolve(secret, environ).encode()) for name, secret in endpoint.headers.items())
