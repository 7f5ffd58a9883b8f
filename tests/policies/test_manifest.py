"""A signature covers every file of a bundle, by one algorithm and pinned keys; each way around it is refused by name."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from policies.bundle import BundleError, load, load_texts
from policies.finding import Finding
from policies.manifest import (
    JWS,
    MANIFEST,
    KeyFileError,
    key_id,
    private_key,
    public_key,
    serial_of,
    sign,
    verify,
)

from .conftest import FILES, Write

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
TRUSTED = [KEY.public_key()]
CREATED = "2026-11-22T18:00:00Z"
TEXTS = FILES | {"tests/orders.yaml": "tests: []\n"}


def signed(serial: int = 7, key: Ed25519PrivateKey = KEY) -> dict[str, str]:
    return TEXTS | sign(TEXTS, key, serial=serial, created=CREATED)


def codes(found: list[Finding]) -> list[tuple[str, str]]:
    return [(each.code, each.file) for each in found]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jws(manifest: str, header: dict[str, Any] | str, sign_with: Callable[[bytes], bytes] = KEY.sign) -> str:
    protected = encode((header if isinstance(header, str) else json.dumps(header)).encode())
    return f"{protected}..{encode(sign_with(f'{protected}.{encode(manifest.encode())}'.encode()))}\n"


HEADER = {"alg": "EdDSA", "kid": key_id(KEY.public_key()), "typ": "bailiwick-manifest+jws"}


def forged(**changes: Any) -> dict[str, str]:
    """A manifest with something else in it, well signed: what a careless signer could be made to sign."""
    said = json.loads(signed()[MANIFEST]) | changes
    text = json.dumps(said)
    return TEXTS | {MANIFEST: text, JWS: jws(text, HEADER)}


# --- what holds


def test_a_signed_bundle_verifies_by_the_key_that_signed_it() -> None:
    assert verify(signed(), TRUSTED) == []
    assert verify(signed(), [OTHER.public_key(), *TRUSTED], 7) == []
    assert serial_of(signed()) == 7


def test_signing_changes_neither_the_digest_nor_what_the_bundle_decides(write: Write) -> None:
    plain = load(write())
    folder = write(dict(sign(plain.texts, KEY, serial=1, created=CREATED)))
    after = load(folder)
    assert after.digest == plain.digest
    assert after.rules == plain.rules
    assert verify(after.texts, TRUSTED) == []
    assert load_texts(after.texts).texts == after.texts
    assert json.loads(after.texts[MANIFEST])["digest"] == plain.digest


def test_signing_again_signs_the_same_files_and_not_the_old_signature() -> None:
    again = sign(signed(7), KEY, serial=8, created=CREATED)
    assert verify(TEXTS | again, TRUSTED, 8) == []
    assert MANIFEST not in json.loads(again[MANIFEST])["files"]


def test_a_checkout_with_other_line_ends_verifies_as_the_loader_reads_both_alike(write: Write) -> None:
    folder = write(dict(sign(FILES, KEY, serial=1, created=CREATED)))
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert verify(load(folder).texts, TRUSTED) == []


def test_the_key_id_is_the_thumbprint_of_rfc_8037() -> None:
    raw = base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    assert key_id(Ed25519PublicKey.from_public_bytes(raw)) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_every_signature_of_random_bundles_verifies_and_no_bundle_with_one_byte_changed_does() -> None:
    rng = random.Random(20261122)
    refused = 0
    for _ in range(60):
        texts = TEXTS | {f"grants/x{n}.csv": "#" + "a" * rng.randrange(30) + "\n" for n in range(rng.randrange(4))}
        whole = texts | sign(texts, KEY, serial=rng.randrange(1, 99), created=CREATED)
        assert verify(whole, TRUSTED) == []
        name = rng.choice(sorted(whole))
        if not whole[name]:
            continue
        at = rng.randrange(len(whole[name]))
        changed = whole[name][:at] + ("x" if whole[name][at] != "x" else "y") + whole[name][at + 1 :]
        assert verify(whole | {name: changed}, TRUSTED) != [], name
        refused += 1
    assert refused > 50


# --- attacks


def test_a_changed_file_is_named_with_what_was_signed() -> None:
    found = verify(signed() | {"roles.csv": FILES["roles.csv"] + "g, agent:evil, agents:crew, acme\n"}, TRUSTED)
    assert codes(found) == [("wrong-digest", MANIFEST), ("changed-file", "roles.csv")]
    assert "bytes" in found[1].message


def test_two_files_that_were_swapped_are_both_named() -> None:
    texts = signed()
    one, two = "grants/people.csv", "grants/guardrails.csv"
    found = verify(texts | {one: texts[two], two: texts[one]}, TRUSTED)
    assert {("changed-file", one), ("changed-file", two)} <= set(codes(found))


def test_a_truncated_file_is_refused() -> None:
    text = TEXTS["grants/guardrails.csv"]
    assert ("changed-file", "grants/guardrails.csv") in codes(verify(signed() | {"grants/guardrails.csv": text[:-5]}, TRUSTED))


def test_a_changed_test_file_is_refused_though_it_decides_nothing() -> None:
    assert codes(verify(signed() | {"tests/orders.yaml": ""}, TRUSTED)) == [("changed-file", "tests/orders.yaml")]


def test_a_file_more_and_a_file_less_are_findings() -> None:
    texts = signed() | {"grants/more.csv": "p, *, acme, erp.read, call, allow, -, -, X-1\n"}
    del texts["grants/guardrails.csv"]
    assert set(codes(verify(texts, TRUSTED))) == {
        ("extra-file", "grants/more.csv"),
        ("missing-file", "grants/guardrails.csv"),
        ("wrong-digest", MANIFEST),
    }


@pytest.mark.parametrize("name", [MANIFEST, JWS])
def test_a_bundle_without_its_manifest_or_signature_is_not_signed(name: str) -> None:
    texts = signed()
    del texts[name]
    assert codes(verify(texts, TRUSTED)) == [("not-signed", name)]


def test_an_older_signed_bundle_is_refused_where_a_newer_one_was_seen() -> None:
    assert codes(verify(signed(6), TRUSTED, least_serial=7)) == [("old-serial", MANIFEST)]
    assert verify(signed(7), TRUSTED, least_serial=7) == []


def test_a_serial_that_was_raised_by_hand_breaks_the_signature() -> None:
    texts = signed(6)
    raised = texts[MANIFEST].replace('"serial": 6', '"serial": 9')
    assert raised != texts[MANIFEST]
    assert codes(verify(texts | {MANIFEST: raised}, TRUSTED, 7)) == [("bad-signature", JWS)]


def test_another_key_is_not_trusted_whatever_kid_it_claims() -> None:
    assert codes(verify(signed(key=OTHER), TRUSTED)) == [("unknown-key", JWS)]
    text = signed()[MANIFEST]
    claimed = TEXTS | {MANIFEST: text, JWS: jws(text, HEADER, OTHER.sign)}
    assert codes(verify(claimed, TRUSTED)) == [("bad-signature", JWS)]
    assert codes(verify(signed(), [])) == [("unknown-key", JWS)]


def hs256(data: bytes) -> bytes:
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hmac.new(public, data, hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("change", "signer"),
    [
        ({"alg": "none"}, lambda _: b""),
        ({"alg": "none"}, KEY.sign),
        ({"alg": "None"}, KEY.sign),
        ({"alg": "HS256"}, hs256),
        ({"alg": "ES256"}, KEY.sign),
        ({"alg": ["EdDSA"]}, KEY.sign),
        ({"alg": "EdDSA "}, KEY.sign),
        ({"crit": ["b64"], "b64": False}, KEY.sign),
        ({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}}, KEY.sign),
        ({"typ": "JWT"}, KEY.sign),
        ({"kid": None}, KEY.sign),
        ({"kid": "../" + "a" * 40}, KEY.sign),
    ],
)
def test_no_other_algorithm_and_no_other_header_is_accepted(change: dict[str, Any], signer: Callable[[bytes], bytes]) -> None:
    text = signed()[MANIFEST]
    found = verify(TEXTS | {MANIFEST: text, JWS: jws(text, HEADER | change, signer)}, TRUSTED)
    assert codes(found) == [("bad-signature", JWS)]


def test_a_header_in_which_a_name_stands_twice_is_refused() -> None:
    text = signed()[MANIFEST]
    header = f'{{"alg":"none","alg":"EdDSA","kid":"{HEADER["kid"]}","typ":"{HEADER["typ"]}"}}'
    assert codes(verify(TEXTS | {MANIFEST: text, JWS: jws(text, header)}, TRUSTED)) == [("bad-signature", JWS)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("..", "." + encode(b"{}") + "."),  # a payload of its own
        lambda text: text.strip() + "=\n",
        lambda text: " " + text,
        lambda text: text + "\n",
        lambda text: text.replace("..", "."),
        lambda text: text.strip() + ".x",
        lambda text: text.strip()[:-1],
        lambda _: "a" * 5000,
        lambda _: "",
    ],
)
def test_a_signature_that_is_written_in_any_other_way_is_refused(change: Callable[[str], str]) -> None:
    texts = signed()
    assert codes(verify(texts | {JWS: change(texts[JWS])}, TRUSTED)) == [("bad-signature", JWS)]


def test_a_signed_manifest_in_which_a_name_stands_twice_is_refused() -> None:
    text = signed()[MANIFEST].replace('"serial": 7,', '"serial": 7, "serial": 9,')
    found = verify(TEXTS | {MANIFEST: text, JWS: jws(text, HEADER)}, TRUSTED)
    assert codes(found) == [("bad-manifest", MANIFEST)]
    inner = signed()[MANIFEST].replace('"size":', '"size": 0, "size":', 1)
    assert codes(verify(TEXTS | {MANIFEST: inner, JWS: jws(inner, HEADER)}, TRUSTED)) == [("bad-manifest", MANIFEST)]


@pytest.mark.parametrize(
    "name",
    [
        "../roles.csv",
        "grants/../roles.csv",
        "/etc/passwd",
        "grants/a/b.csv",
        "grants\\x.csv",
        "./roles.csv",
        "grants//x.csv",
        "roles.csv\x00",
        "roles.csv\n",
        "Roles.csv",
        "gr\u0430nts/people.csv",  # a Cyrillic a
        "roles.cs\u1d20",
        "\uff52oles.csv",
        "\ud800",
        MANIFEST,
        "",
    ],
)
def test_a_signed_manifest_that_names_a_path_or_a_look_alike_is_refused(name: str) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    found = verify(forged(files=json.loads(signed()[MANIFEST])["files"] | {name: entry}), TRUSTED)
    assert codes(found) == [("bad-manifest", MANIFEST)]
    found[0].message.encode("ascii")


def test_a_look_alike_file_beside_the_signed_one_is_extra_and_shown_in_ascii() -> None:
    found = verify(signed() | {"gr\u0430nts/people.csv": "x"}, TRUSTED)
    assert "extra-file" in {each.code for each in found}
    assert all(str(each).isascii() for each in found)


def test_a_signed_manifest_of_another_digest_is_refused() -> None:
    assert codes(verify(forged(digest="sha256:" + "0" * 64), TRUSTED)) == [("wrong-digest", MANIFEST)]


def test_the_signature_of_another_bundle_cannot_be_moved_here() -> None:
    other = TEXTS | {"roles.csv": "g, idp:buyers, role:buyer, acme\n"}
    moved = TEXTS | sign(other, KEY, serial=9, created=CREATED)
    assert {("changed-file", "roles.csv"), ("wrong-digest", MANIFEST)} == set(codes(verify(moved, TRUSTED)))


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": 0},
        {"serial": -1},
        {"serial": True},
        {"serial": "7"},
        {"serial": 7.0},
        {"serial": 2**53},
        {"format": "bailiwick-manifest-v2"},
        {"created": "yesterday"},
        {"digest": "sha256:ABC"},
        {"digest": None},
        {"files": []},
        {"files": {"roles.csv": "x"}},
        {"files": {"roles.csv": {"sha256": "0" * 64}}},
        {"files": {"roles.csv": {"sha256": "0" * 64, "size": -1}}},
        {"files": {"roles.csv": {"sha256": "0" * 64, "size": True}}},
        {"files": {"roles.csv": {"sha256": "0" * 63 + "G", "size": 1}}},
        {"files": {f"grants/{n}.csv": {"sha256": "0" * 64, "size": 1} for n in range(501)}},
        {"more": 1},
    ],
)
def test_a_signed_manifest_that_does_not_say_exactly_what_a_manifest_says_is_refused(changes: dict[str, Any]) -> None:
    assert codes(verify(forged(**changes), TRUSTED)) == [("bad-manifest", MANIFEST)]


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"serial": 1e9999}', "9" * 10_000, "NaN"])
def test_a_signed_text_that_is_no_manifest_is_refused_and_nothing_fails(text: str) -> None:
    assert codes(verify(TEXTS | {MANIFEST: text, JWS: jws(text, HEADER)}, TRUSTED)) == [("bad-manifest", MANIFEST)]
    assert serial_of({MANIFEST: text}) is None


def test_junk_never_verifies_and_never_fails() -> None:
    rng = random.Random(5)
    texts = signed()
    for _ in range(300):
        junk = bytes(rng.randrange(32, 127) for _ in range(rng.randrange(200))).decode()
        assert verify(texts | {rng.choice([MANIFEST, JWS]): junk}, TRUSTED) != []


# --- keys, and what is signed


def test_keys_are_read_from_pem_and_no_other_key_is_taken_for_one() -> None:
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert verify(signed(key=private_key(pem)), [public_key(public)]) == []
    curve = generate_private_key(SECP256R1())
    others = [
        curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        curve.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        b"",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        os.urandom(32),
    ]
    for each in [*others, pem]:
        with pytest.raises(KeyFileError):
            public_key(each)
    for each in [*others, public]:
        with pytest.raises(KeyFileError) as raised:
            private_key(each)
        assert repr(each) not in str(raised.value)


@pytest.mark.parametrize(("serial", "created"), [(0, CREATED), (2**53, CREATED), (1, "now"), (1, CREATED + "\n")])
def test_what_would_not_verify_is_not_signed(serial: int, created: str) -> None:
    with pytest.raises(ValueError, match=r"serial|time"):
        sign(TEXTS, KEY, serial=serial, created=created)


def test_the_signature_files_are_no_stray_files_and_the_loader_does_not_believe_them(write: Write) -> None:
    load(write({MANIFEST: "junk", JWS: "junk"}))
    with pytest.raises(BundleError):
        load(write({"manifest.yaml": ""}))
