"""The anchors that the settings name."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from audit.checkpoint import Vkey
from audit.journal import Journal
from audit.store_proofs import ProofStore
from gateway.anchors.anchor import Anchor
from gateway.anchors.anchoring import Anchoring, Post
from gateway.anchors.folder import FolderAnchor
from gateway.anchors.git import GitAnchor
from gateway.anchors.root import RootAnchor, RootLog
from gateway.anchors.s3 import BucketAnchor, BucketClient, Credentials
from gateway.anchors.timestamp import TimestampAnchor
from gateway.identity.keyfiles import ledger_key, resolve
from gateway.model import Clock
from gateway.problem import Problem, ProblemError
from gateway.settings import Anchor as Wanted
from gateway.settings import Settings
from gateway.settings_ledger import Bucket
from gateway.upstream.client import HttpRequest, HttpResponse, Upstreams


def anchors_of(  # noqa: PLR0917  what anchors are made of
    settings: Settings,
    environ: Mapping[str, str],
    own: Vkey,
    store: ProofStore,
    upstreams: Upstreams,
    clock: Clock,
    root: RootLog | None,
) -> Anchoring:
    """All of them; `ProblemError` for one that cannot be as the settings have it.  root: the one that the settings name."""

    def made(name: str, wanted: Wanted) -> Anchor:
        if wanted.folder is not None:
            return FolderAnchor(wanted.folder, own)
        if wanted.git is not None:
            folder = settings.data / "anchors" / settings.ledger.name
            return GitAnchor(folder / f"{name}.git", wanted.git.remote, wanted.git.branch, own, environ)
        if wanted.s3 is not None:
            return BucketAnchor(bucket_of(wanted.s3, environ, upstreams.send, clock), own)
        if root is not None and wanted.root is not None:
            return RootAnchor(root, own, store, clock)
        return _timestamp(name, wanted, store, upstreams)

    posts = {name: Post(made(name, wanted), wanted.seconds) for name, wanted in settings.ledger.anchors.items()}
    return Anchoring(store, own, posts, clock)


def bucket_of(
    wanted: Bucket, environ: Mapping[str, str], send: Callable[[HttpRequest], Awaitable[HttpResponse]], clock: Clock
) -> BucketClient:
    """A bucket as the settings have it."""
    keys = Credentials(resolve(wanted.access_key, environ), resolve(wanted.secret_key, environ), wanted.region)
    return BucketClient(str(wanted.endpoint), wanted.bucket, wanted.prefix, keys, send, clock)


def _timestamp(name: str, wanted: Wanted, store: ProofStore, upstreams: Upstreams) -> Anchor:
    assert wanted.timestamp is not None  # noqa: S101  the settings have exactly one kind
    where = f"ledger.anchors.{name}.timestamp"
    try:
        roots = x509.load_pem_x509_certificates(wanted.timestamp.roots.read_bytes())
        return TimestampAnchor(name, str(wanted.timestamp.url), roots, store, upstreams.send)
    except ImportError:
        hint = "pip install 'bailiwick[timestamps]'"
        raise ProblemError(Problem("missing-extra", "timestamps need another package", where, hint)) from None
    except (OSError, ValueError) as error:
        raise ProblemError(Problem("wrong-anchor", f"the authority's root certificates cannot be used: {error}", where)) from None


def root_of(settings: Settings, environ: Mapping[str, str], clock: Clock) -> RootLog | None:
    """The root log that the settings name, not opened yet; None where they name none."""
    wanted = next((anchor.root for anchor in settings.ledger.anchors.values() if anchor.root is not None), None)
    if wanted is None:
        return None
    url = wanted.url
    key = ledger_key(settings.data, wanted.key or settings.ledger.key, environ)
    # Nothing in a root log is about a person; its records' own key follows from the log's, so that there is one secret.
    seal = HKDF(hashes.SHA256(), 32, salt=None, info=b"bailiwick root log").derive(key.private_bytes_raw())
    name = f"{socket.gethostname()}:{settings.server.port} {settings.ledger.origin}"
    writer = name.encode("ascii", "replace").decode()[:64]
    kept = None if url.startswith("sqlite") else settings.data / "root-signed.json"

    async def open_root() -> Journal:
        return await Journal.open(
            url=url, origin=wanted.origin, signing_key=key, seal_key=seal, writer=writer, clock=clock, kept=kept
        )

    return RootLog(url, open_root)
