"""From texts to a bundle and an engine that may decide: signed where that is wanted, linted, proven by its own tests.

All of it happens aside, in a thread; nothing that decides now is touched.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.policy.in_force import Pair
from gateway.problem import Problem, ProblemError
from policies.bundle import Bundle, BundleError, digest_of, load_texts
from policies.engine import Engine
from policies.finding import Finding
from policies.lint import Facts, lint
from policies.manifest import KeyFileError, public_key, serial_of, verify
from policies.testing import check_for_activation

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from gateway.policy.memory import Memory

log = logging.getLogger("gateway.policy")

CONTEXT: Final = frozenset(
    {"agent.assurance", "agent.method", "ctx.protocol", "ctx.method", "ctx.version", "ctx.acr"}
    | {"ctx.extensions", "ctx.url_hosts", "ctx.media_types", "ctx.raw_bytes"}
)
"""Names under `agent.` and `ctx.` that the gateway fills in for conditions; they stand in docs/reference/conditions.md."""


class RefusedBundleError(Exception):
    """It may not come into force.  `digest` is "" where it is not even a bundle; `findings` are never none."""

    def __init__(self, findings: tuple[Finding, ...], digest: str = "") -> None:
        super().__init__("\n".join(str(finding) for finding in findings))
        self.findings = findings
        self.digest = digest


@dataclass(frozen=True, slots=True)
class Checks:
    """What a bundle must fulfil.

    trust          keys of which one must have signed it; none: signatures are not asked for.
    require_tests  whether its own tests must prove a denial.  Tests that it has must pass in any case.
    """

    trust: tuple[Ed25519PublicKey, ...] = ()
    require_tests: bool = True

    @classmethod
    def of(cls, trust: tuple[Path, ...], *, require_tests: bool) -> Checks:
        """ProblemError for a file that holds no public key."""
        keys = []
        for path in trust:
            try:
                keys.append(public_key(path.read_bytes()))
            except (OSError, KeyFileError) as error:
                help_ = "an Ed25519 public key in PEM: openssl pkey -in key.pem -pubout"
                raise ProblemError(Problem("bad-key", f"policy.trust: {error}", str(path), help_)) from None
        return cls(tuple(keys), require_tests)

    def build(self, texts: Mapping[str, str], since: int, memory: Memory | None, *, decides: bool = True) -> Pair:
        """The pair that these texts make; RefusedBundleError with everything that is wrong.  Blocks; nothing else is raised.

        `memory` says which serials are too old; None: any will do, as somebody asked for this very bundle.
        """
        digest = ""
        try:
            if unsigned := self._unsigned(texts, memory):  # before anything of it is believed, or even parsed
                raise RefusedBundleError(tuple(unsigned), digest_of(texts))
            bundle = load_texts(texts)
            digest = bundle.digest
            engine = Engine(bundle)
            faults = (_errors(bundle) or self._unproven(bundle, engine)) if decides else []
        except RefusedBundleError:
            raise
        except BundleError as error:
            raise RefusedBundleError(error.findings) from None
        except Exception as error:  # the boundary: what breaks the loader is refused, and the watch goes on
            log.exception("a bundle broke the loader")
            broken = Finding("loader-error", "", 0, 0, f"reading this bundle failed: {type(error).__name__}", "please report it")
            raise RefusedBundleError((broken,), digest) from None
        if faults:
            raise RefusedBundleError(tuple(faults), digest)
        log.info("bundle %s: %d rules, %s path (%s)", digest, len(bundle.rules), engine.path, engine.path_reason)
        return Pair(bundle, engine, since, serial_of(texts) if self.trust else None)

    def _unsigned(self, texts: Mapping[str, str], memory: Memory | None) -> list[Finding]:
        if not self.trust:
            return []
        return verify(texts, self.trust, memory.least_serial(digest_of(texts)) if memory is not None else 0)

    def _unproven(self, bundle: Bundle, engine: Engine) -> list[Finding]:
        found = check_for_activation(bundle, engine)
        return found if self.require_tests else [each for each in found if each.code != "no-proven-denial"]


def _errors(bundle: Bundle) -> list[Finding]:
    """What lint calls an error by the bundle alone.  A duty that nobody can fulfil is none here: it refuses its calls already."""
    found = lint(bundle, Facts(context=CONTEXT))
    return [each.finding for each in found.complaints if each.severity == "error"]
