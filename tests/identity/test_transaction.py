"""The canonical form that transaction tokens bind to (RFC 8785), and the tokens themselves."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import struct
import subprocess
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from examples.txn_token import canonical as of_the_example
from gateway.identity.signing import KeyRing
from gateway.identity.transaction import MAX_CHARS, TransactionTokens, canonical, digest
from gateway.model import Arrival, Call, Permit, Principal, Refused, Trace
from gateway.reasons import Code
from policies.model import AccessRequest, Decision, Effect, Reason

NUMBERS = {  # RFC 8785, appendix B
    "0000000000000000": "0", "8000000000000000": "0", "0000000000000001": "5e-324", "8000000000000001": "-5e-324",
    "7fefffffffffffff": "1.7976931348623157e+308", "ffefffffffffffff": "-1.7976931348623157e+308",
    "4340000000000000": "9007199254740992", "c340000000000000": "-9007199254740992", "4430000000000000": "295147905179352830000",
    "44b52d02c7e14af5": "9.999999999999997e+22", "44b52d02c7e14af6": "1e+23", "44b52d02c7e14af7": "1.0000000000000001e+23",
    "444b1ae4d6e2ef4e": "999999999999999700000", "444b1ae4d6e2ef4f": "999999999999999900000", "444b1ae4d6e2ef50": "1e+21",
    "3eb0c6f7a0b5ed8c": "9.999999999999997e-7", "3eb0c6f7a0b5ed8d": "0.000001", "41b3de4355555553": "333333333.3333332",
    "41b3de4355555554": "333333333.33333325", "41b3de4355555555": "333333333.3333333", "41b3de4355555556": "333333333.3333334",
    "41b3de4355555557": "333333333.33333343", "becbf647612f3696": "-0.0000033333333333333333",
    "43143ff3c1cb0959": "1424953923781206.2",
}  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
START = 1_800_000_000
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(("bits", "text"), NUMBERS.items())
def test_numbers_are_written_as_rfc_8785_writes_them(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical(value) == text.encode()


def test_the_samples_of_rfc_8785_come_out_as_they_should() -> None:
    sample = '{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}'  # noqa: E501  as it stands in §3.2.2
    expected = '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'  # noqa: E501
    assert canonical(json.loads(sample)).decode() == expected
    members = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7}  # §3.2.3
    assert list(json.loads(canonical(members))) == ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


@given(JSON)
def test_the_form_reads_back_as_the_same_value_and_is_the_only_one(value: object) -> None:
    text = canonical(value)
    again = json.loads(text, parse_int=float)  # as every number of JSON is one (RFC 8785 §3.2.2.3)
    assert again == value
    assert canonical(again) == text
    assert of_the_example(value) == text


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_numbers_are_written_as_javascript_writes_them() -> None:
    doubles = [struct.unpack(">d", hashlib.sha256(b"%d" % n).digest()[:8])[0] for n in range(20_000)]
    values = [value for value in doubles if math.isfinite(value)] + [
        n * 10.0**e for n in (1, -7, 123_456_789) for e in range(-30, 30)
    ]
    program = "console.log(JSON.stringify(JSON.parse(require('fs').readFileSync(0)).map(x => JSON.stringify(x))))"
    ran = subprocess.run(["node", "-e", program], input=json.dumps(values), capture_output=True, text=True, check=True)
    assert [canonical(value).decode() for value in values] == json.loads(ran.stdout)


def test_two_integers_that_are_one_double_do_not_share_a_digest() -> None:
    assert digest(2**53) != digest(2**53 - 1)
    assert digest(2**60) == digest(float(2**60)) != digest(2**60 + 256)
    for value in (2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**60 + 1, 10**400):
        with pytest.raises(Refused) as refused:
            digest({"deep": [value]})
        assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE


def _permit(principal: Principal) -> Permit:
    arrival = Arrival("id-1", "mcp", "erp", (), b"", START * 1_000_000, Trace("0" * 31 + "1", "0" * 15 + "1"))
    call = Call(arrival, "tools/call", "erp", {"params": {"arguments": {"amount": 5}}}, arrival.trace, name="write_po")
    request = AccessRequest(principal.subject, principal.actors, principal.tenant, "call", "erp.write_po", arrival.at)
    return Permit.of(call, principal, request, Decision(Effect.ALLOW, Reason.ALLOWED, bundle=""))


def _principal(**changes: object) -> Principal:
    said: dict[str, object] = {
        "subject": "user:idp/paul", "actors": ("agent:analyst", "agent:erp"), "tenant": "acme", "workflow": "wf-1",
        "ends": START + 3600, "method": "bearer", "credential": "0" * 64, "acr": "mfa", "assurance": "pop",
    }  # fmt: skip
    return Principal(**(said | changes))  # type: ignore[arg-type]  # a table of what a test changes


RING = KeyRing.of(ec.generate_private_key(ec.SECP256R1()))


def _tokens(lifetime: int = 30) -> TransactionTokens:
    return TransactionTokens(
        RING,
        "https://gw",
        "https://erp",
        "Txn-Token",
        lifetime,
        lambda call: call.message["params"]["arguments"],
        lambda: START * 1_000_000,
    )


async def _claims(principal: Principal) -> dict[str, object]:
    (((name, token),), kind) = await _tokens().for_call(_permit(principal))
    assert (name, kind) == (b"txn-token", "transaction")
    assert jwt.get_unverified_header(token)["typ"] == "txntoken+jwt"
    return dict(jwt.decode(token, options={"verify_signature": False}))


async def test_a_token_says_for_whom_through_whom_and_for_what() -> None:
    claims = await _claims(_principal())
    assert claims.pop("jti")
    assert claims == {
        "iss": "https://gw", "aud": "https://erp", "iat": START, "exp": START + 30, "txn": "wf-1", "sub": "user:idp/paul",
        "scope": "call:erp.write_po", "req_wl": "agent:erp", "chain": ["agent:analyst", "agent:erp"],
        "act": {"sub": "agent:erp", "act": {"sub": "agent:analyst"}},
        "tctx": {"call": "id-1", "method": "tools/call", "tool": "write_po", "args_sha256": digest({"amount": 5})},
        "rctx": {"assurance": "pop", "tenant": "acme", "acr": "mfa"},
    }  # fmt: skip


async def test_a_token_never_outlives_the_persons_time() -> None:
    assert (await _claims(_principal(ends=START + 7)))["exp"] == START + 7
    with pytest.raises(Refused) as refused:
        await _claims(_principal(ends=START))
    assert refused.value.code is Code.CREDENTIAL_UNAVAILABLE


async def test_two_calls_never_share_a_token() -> None:
    assert (await _claims(_principal()))["jti"] != (await _claims(_principal()))["jti"]


async def test_a_token_that_would_not_fit_a_header_is_not_sent() -> None:
    with pytest.raises(Refused):
        await _tokens().for_call(_permit(_principal(subject="user:idp/" + "x" * MAX_CHARS)))


def test_the_verifier_that_the_page_shows_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs/how-to/upstream-credentials.md").read_text()
    assert f"```python\n{(ROOT / 'examples/txn_token.py').read_text()}```" in page
