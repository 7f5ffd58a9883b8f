"""A time-stamping authority (RFC 3161): a third party's word when a checkpoint existed.  Its token is kept beside the log.

The token is verified against pinned roots before it is kept; `openssl ts -verify` checks it without anything of ours.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from audit.checkpoint import Checkpoint
from audit.leaf import Kind
from audit.model import Entry, LedgerUnavailableError, Receipt
from audit.store import StoreError
from audit.store_proofs import ProofStore
from gateway.anchors.anchor import AnchorFailedError
from gateway.model import UpstreamError, new_id, wall_clock
from gateway.upstream.client import HttpRequest, HttpResponse, Url

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Append = Callable[[Entry], Awaitable[Receipt]]

_LARGEST: Final = 64 * 1024


class TimestampAnchor:
    """Asks one authority.  Thief of its key: could date checkpoints, not sign them."""

    def __init__(
        self,
        name: str,
        url: str,
        roots: Sequence[Certificate],
        store: ProofStore,
        send: Callable[[HttpRequest], Awaitable[HttpResponse]],
    ) -> None:
        """`ValueError` for what is no URL, or no root at all; `ImportError` without the extra `timestamps`."""
        import rfc3161_client  # noqa: F401, PLC0415  an optional weight: asked for at the start, not at the first token

        if not roots:
            raise ValueError("an authority is believed by its root certificates, and there are none")
        self._name = name
        self._url = Url.parse(url, allow_private=True)
        self._roots = roots
        self._store = store
        self._send = send
        self.append: Append | None = None
        """The log's own, once it is open: then each token is on record."""

    async def put(self, head: Checkpoint, note: str) -> None:
        """See `Anchor`."""
        import rfc3161_client as tsp  # noqa: PLC0415  see above

        data = note.encode()
        request = tsp.TimestampRequestBuilder().data(data).hash_algorithm(tsp.HashAlgorithm.SHA256).nonce(nonce=True).build()
        headers = ((b"content-type", b"application/timestamp-query"),)
        try:
            response = await self._send(HttpRequest(self._url, request.as_bytes(), headers))
            try:
                status, token = response.status, await response.read(_LARGEST)
            finally:
                await response.aclose()
        except UpstreamError as error:
            raise AnchorFailedError(f"the authority cannot be reached: {error}") from None
        if status != 200:
            raise AnchorFailedError(f"the authority answers {status}")
        builder = tsp.VerifierBuilder.from_request(request)
        for root in self._roots:
            builder = builder.add_root_certificate(root)
        try:
            builder.build().verify_message(tsp.decode_timestamp_response(token), data)
        except (tsp.VerificationError, ValueError) as error:
            raise AnchorFailedError(f"the authority's token does not verify: {error}") from None
        try:
            await asyncio.to_thread(self._store.add_timestamp, head.size, self._name, token)
        except StoreError as error:
            raise AnchorFailedError(f"the token cannot be kept: {error}") from None
        if self.append is not None:
            at = wall_clock()
            fields = {"anchor": self._name, "size": head.size, "token": f"sha256:{hashlib.sha256(token).hexdigest()}"}
            try:
                await self.append(Entry(Kind.ANCHOR_TIMESTAMP, new_id(at), at, None, fields))
            except LedgerUnavailableError as error:
                raise AnchorFailedError(f"the token cannot be recorded: {error.detail}") from None
