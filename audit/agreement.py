"""What somebody signs who agrees to an erasure where no gateway answers: a C2SP signed note over exactly that wish.  No I/O."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.checkpoint import CheckpointError, Vkey, signature_line

_HEAD: Final = "bailiwick/erasure/v1"
MAX_NOTE: Final = 8192  # a person of a hundred logs has as many pseudonyms


@dataclass(frozen=True, slots=True)
class Agreement:
    """That the person behind a pseudonym is erased from a log, as one request asks for.  No checkpoint has this form."""

    log: str
    request: str
    pseudonym: str

    def text(self) -> str:
        """The four lines that are signed, each ended by a newline."""
        return f"{_HEAD}\n{self.log}\n{self.request}\n{self.pseudonym}\n"


def sign(agreement: Agreement, name: str, key: Ed25519PrivateKey) -> str:
    """The signed note of whoever has the key, under the name that settings give it."""
    vkey, text = Vkey.of(name, key), agreement.text()
    signature = base64.b64encode(vkey.key_id + key.sign(text.encode())).decode()
    return f"{text}\n\u2014 {name} {signature}\n"


def signed_by(note: str, agreement: Agreement, keys: Iterable[Vkey]) -> Vkey:
    """Whose of these keys signed exactly this, once and alone; else `CheckpointError`, which says in which way."""
    text, blank, line = note.partition("\n\n")
    if len(note) > MAX_NOTE or not blank or not line.endswith("\n"):
        raise CheckpointError("it is no signed note")
    if f"{text}\n" != agreement.text():
        raise CheckpointError("it agrees to something else than this request of this log about this person")
    name, data = signature_line(line[:-1])
    for vkey in keys:
        if vkey.name == name and data[:4] == vkey.key_id:
            try:
                Ed25519PublicKey.from_public_bytes(vkey.public).verify(data[4:], agreement.text().encode())
            except InvalidSignature:
                raise CheckpointError("the signature does not fit") from None
            return vkey
    raise CheckpointError("it is signed by nobody whose key the settings name (ledger.erasure_keys)")
