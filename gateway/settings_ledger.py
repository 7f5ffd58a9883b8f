"""Settings of the ledger: where it is, who signs it, and who outside remembers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, HttpUrl, PrivateAttr, StringConstraints, model_validator

from gateway.settings_base import Group, Secret, Slug


def _witness_key(text: str) -> str:
    from audit.cosignature import WitnessKey  # noqa: PLC0415  settings without witnesses do not load it

    return str(WitnessKey.parse(text))


def _plain_key(text: str) -> str:
    from audit.checkpoint import Vkey  # noqa: PLC0415  as above

    return str(Vkey.parse(text))


VerifierKey = Annotated[str, StringConstraints(max_length=400), AfterValidator(_witness_key)]
"""A witness's verifier key: `<name>+<key id>+<base64>`."""


class Witness(Group):
    """Somebody outside who remembers the largest checkpoint and cosigns what continues it (c2sp.org/tlog-witness)."""

    url: HttpUrl
    """Its submission prefix: `/add-checkpoint` comes after it."""
    key: VerifierKey


GitRemote = Annotated[
    str, StringConstraints(pattern=r"^(https://[^\s@:]+(:[0-9]+)?/\S+|ssh://\S+|[a-z0-9._-]+@[^\s:/-][^\s:]*:\S+|/\S+)$")
]
"""https without a credential in it, ssh, or a folder; never an option."""


class Git(Group):
    """A branch of a git repository elsewhere; git's own configuration says how it is reached."""

    remote: GitRemote
    branch: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = "checkpoints"


class Bucket(Group):
    """An S3-compatible bucket."""

    endpoint: HttpUrl
    bucket: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/-]{0,200}$")] = ""
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    access_key: Secret
    secret_key: Secret


class Timestamp(Group):
    """A time-stamping authority (RFC 3161)."""

    url: HttpUrl
    roots: Path
    """Its root certificates (PEM)."""


class Root(Group):
    """A root log: a ledger whose records are the checkpoints of others.  Several gateways may share one, with its key."""

    url: str
    """SQLAlchemy URL, as of the ledger."""
    origin: str
    key: Secret | None = None
    """Ed25519 signing key (PKCS#8 PEM); defaults to the ledger's."""


class Anchor(Group):
    """A place elsewhere that takes checkpoints: exactly one of `folder`, `git`, `s3`, `timestamp` and `root`."""

    folder: Path | None = None
    git: Git | None = None
    s3: Bucket | None = None
    timestamp: Timestamp | None = None
    root: Root | None = None
    seconds: float = Field(300, ge=0.1, le=7 * 24 * 3600)
    """At most one checkpoint in so long."""

    @model_validator(mode="after")
    def _one(self) -> Anchor:
        if sum(each is not None for each in (self.folder, self.git, self.s3, self.timestamp, self.root)) != 1:
            msg = "give exactly one of folder, git, s3, timestamp and root"
            raise ValueError(msg)
        return self


class Retention(Group):
    """How long records stay and where they go: exactly one of `folder` and `s3`."""

    folder: Path | None = None
    s3: Bucket | None = None
    object_lock: bool = True
    """Objects cannot be deleted before their time (S3 Object Lock, compliance mode); the bucket must have it switched on."""
    classes: tuple[Literal["eu-ai-act", "soc2", "pci-dss", "hipaa", "sec-17a-4"], ...] = Field(("eu-ai-act",), min_length=1)
    """Whose floors count."""
    days: int = Field(0, ge=0, le=36_500)
    """Longer than they ask for."""

    @model_validator(mode="after")
    def _one(self) -> Retention:
        if (self.folder is None) == (self.s3 is None):
            msg = "give exactly one of folder and s3"
            raise ValueError(msg)
        return self


class Syslog(Group):
    """A syslog receiver over TLS (RFC 5425)."""

    host: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]
    port: int = Field(6514, ge=1, le=65535)
    roots: Path | None = None
    """Certificates (PEM) that the receiver's must lead to; else the system's."""
    certificate: Path | None = None
    key: Path | None = None
    """The gateway's own (PEM), where the receiver asks for one."""
    lenient: bool = False
    """For a receiver that closes connections without TLS's own end: what it did not read is then not known."""


class Endpoint(Group):
    """An HTTP receiver."""

    url: HttpUrl
    headers: dict[str, Secret] = Field(default_factory=dict)


class Forwarder(Group):
    """A place that gets a copy of every record: exactly one of `syslog`, `otlp`, `webhook` and `file`."""

    syslog: Syslog | None = None
    otlp: Endpoint | None = None
    """An OTLP/HTTP endpoint for logs, with its path."""
    webhook: Endpoint | None = None
    """Gets JSON lines."""
    file: Path | None = None
    format: Literal["jsonl", "csv", "ocsf", "cef"] | None = None
    """Of a row; defaults to `cef` for syslog, `ocsf` for a webhook, `jsonl` for a file."""
    begin: Literal["first", "now"] = "now"
    """Where a forwarder begins that has never run."""
    batch: int = Field(500, ge=1, le=5000)
    seconds: float = Field(1.0, ge=0.05, le=3600)
    """How often new records are looked for."""

    @model_validator(mode="after")
    def _one(self) -> Forwarder:
        if sum(each is not None for each in (self.syslog, self.otlp, self.webhook, self.file)) != 1:
            msg = "give exactly one of syslog, otlp, webhook and file"
            raise ValueError(msg)
        if self.otlp is not None and self.format is not None:
            msg = "OTLP has a form of its own"
            raise ValueError(msg)
        return self


class Outside(Group):
    """Who outside remembers the root log, and who gets its records: as of every log."""

    witnesses: tuple[Witness, ...] = Field((), max_length=14)
    quorum: int | None = Field(None, ge=1)
    witness_seconds: float = Field(10, ge=0.1, le=3600)
    anchors: dict[Slug, Anchor] = Field(default_factory=dict)
    """None of them a root log itself."""
    forwarders: dict[Slug, Forwarder] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _agreeing(self) -> Outside:
        if any(anchor.root is not None for anchor in self.anchors.values()):
            msg = "over the root log there is no other"
            raise ValueError(msg)
        _agree(self.witnesses, self.quorum)
        return self


class Spool(Group):
    """How much of an outage of the store is bridged, for routes that are set to `spool`."""

    bytes: int = Field(32 * 1024 * 1024, ge=64 * 1024, le=256 * 1024 * 1024)
    """The most that is kept on disk; the last eighth is for the ends of calls."""
    seconds: float = Field(300, ge=1, le=24 * 3600)
    """For so long after the first record new calls are taken."""


class Ledger(Group):
    """The audit log."""

    logs: Literal["one", "tenant"] = "one"
    """`tenant`: each tenant's records stand in a log of its own, those of nobody in the gateway's, all under a root log."""
    url: str | None = None
    origin: str = "bailiwick.invalid/ledger"
    """C2SP origin line and key name of the log: a schema-less URL of yours."""
    key: Secret | None = None
    """Ed25519 signing key (PKCS#8 PEM); defaults to a key made in the data folder on first start."""
    seal_key: Secret | None = None
    """32 random bytes, base64, that seal the openings; defaults to a key made in the data folder on first start."""
    queue: int = Field(10_000, ge=1)
    spool: Spool = Spool()
    receipts: bool = True
    """Whether known callers get a receipt with every answer: where the call's record stands, signed by the log's key."""
    witnesses: tuple[Witness, ...] = Field((), max_length=14)
    """Whoever is asked to cosign checkpoints."""
    quorum: int | None = Field(None, ge=1)
    """How many of them make a checkpoint witnessed; defaults to more than half."""
    witness_seconds: float = Field(10, ge=0.1, le=3600)
    """How often they are asked while records come."""
    anchors: dict[Slug, Anchor] = Field(default_factory=dict)
    """Where else checkpoints are pushed to."""
    erasure_keys: tuple[Annotated[str, StringConstraints(max_length=400), AfterValidator(_plain_key)], ...] = Field(
        (), max_length=64
    )
    """Verifier keys of people who may agree to an erasure where no gateway answers (`bailiwick audit agree`)."""
    retention: Retention | None = None
    """Where old records go; without it none does."""

    forwarders: dict[Slug, Forwarder] = Field(default_factory=dict)
    """Who gets a copy of every record."""
    root: Outside | None = None
    """Who remembers the root log; without it the same as tenants' logs, and of one that an anchor names nobody."""

    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        """Of the log that these settings are about, where there are several (`gateway.stores.of_log`); "" the gateway's own."""
        return self._name

    @property
    def wanted(self) -> int:
        """How many witnesses must agree."""
        return _wanted(self.witnesses, self.quorum)

    @model_validator(mode="after")
    def _witnesses(self) -> Ledger:
        _agree(self.witnesses, self.quorum, self.origin)
        roots = sum(anchor.root is not None for anchor in self.anchors.values())
        if roots > 1:
            msg = "there is one root log"
            raise ValueError(msg)
        if self.root is not None and not roots and self.logs == "one":
            msg = "there is no root log: neither `logs: tenant` nor an anchor of the kind `root` makes one"
            raise ValueError(msg)
        agreeing = [key.partition("+")[0] for key in self.erasure_keys]
        if len(set(agreeing)) != len(agreeing) or self.origin in agreeing:
            msg = "whoever agrees to erasures has a name and a key of their own"
            raise ValueError(msg)
        return self


def _wanted(witnesses: tuple[Witness, ...], quorum: int | None) -> int:
    return quorum or (len(witnesses) // 2 + 1 if witnesses else 0)


def _agree(witnesses: tuple[Witness, ...], quorum: int | None, origin: str = "") -> None:
    """ValueError unless so many of them can agree, each under a name of its own."""
    names = [witness.key.partition("+")[0] for witness in witnesses]
    if len(set(names)) != len(names) or origin in names:
        msg = "witnesses have names of their own"
        raise ValueError(msg)
    if _wanted(witnesses, quorum) > len(names):
        msg = f"{_wanted(witnesses, quorum)} of {len(names)} witnesses cannot agree"
        raise ValueError(msg)
