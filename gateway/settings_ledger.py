"""Settings of the ledger: where it is, who signs it, and who outside remembers it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, HttpUrl, StringConstraints, model_validator

from gateway.settings_base import Group, Secret


def _witness_key(text: str) -> str:
    from audit.cosignature import WitnessKey  # noqa: PLC0415  settings without witnesses do not load it

    return str(WitnessKey.parse(text))


VerifierKey = Annotated[str, StringConstraints(max_length=400), AfterValidator(_witness_key)]
"""A witness's verifier key: `<name>+<key id>+<base64>`."""


class Witness(Group):
    """Somebody outside who remembers the largest checkpoint and cosigns what continues it (c2sp.org/tlog-witness)."""

    url: HttpUrl
    """Its submission prefix: `/add-checkpoint` comes after it."""
    key: VerifierKey


class Ledger(Group):
    """The audit log."""

    url: str | None = None
    origin: str = "bailiwick.invalid/ledger"
    """C2SP origin line and key name of the log: a schema-less URL of yours."""
    key: Secret | None = None
    """Ed25519 signing key (PKCS#8 PEM); defaults to a key made in the data folder on first start."""
    seal_key: Secret | None = None
    """32 random bytes, base64, that seal the openings; defaults to a key made in the data folder on first start."""
    queue: int = Field(10_000, ge=1)
    witnesses: tuple[Witness, ...] = Field((), max_length=14)
    """Whoever is asked to cosign checkpoints."""
    quorum: int | None = Field(None, ge=1)
    """How many of them make a checkpoint witnessed; defaults to more than half."""
    witness_seconds: float = Field(10, ge=0.1, le=3600)
    """How often they are asked while records come."""

    @property
    def wanted(self) -> int:
        """How many witnesses must agree."""
        return self.quorum or (len(self.witnesses) // 2 + 1 if self.witnesses else 0)

    @model_validator(mode="after")
    def _witnesses(self) -> Ledger:
        names = [witness.key.partition("+")[0] for witness in self.witnesses]
        if len(set(names)) != len(names) or self.origin in names:
            msg = "witnesses have names of their own"
            raise ValueError(msg)
        if self.wanted > len(names):
            msg = f"{self.wanted} of {len(names)} witnesses cannot agree"
            raise ValueError(msg)
        return self
