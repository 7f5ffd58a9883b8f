"""What a second person signs: what `audit agree` takes is what `audit erase` reads."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.agreement import Agreement, sign, signed_by
from audit.checkpoint import Vkey


@pytest.mark.parametrize("logs", [1, 54, 100])
def test_a_person_of_as_many_logs_as_can_be_agreed_about_is_agreed_about(logs: int) -> None:
    key = Ed25519PrivateKey.generate()
    wish = Agreement("example.org/ledger", "0" * 36, ",".join(f"s_{number:032x}" for number in range(logs)))
    who = Vkey.of("dpo.example.org", key)
    assert signed_by(sign(wish, who.name, key), wish, [who]) == who
