"""Vectors of the families in which JOSE libraries were found wrong (as Project Wycheproof orders them), made with fresh keys.

Each goes the road of a token: the key set is read, the token is read, the signature is checked.  Every bad one is refused and
every good one passes; what is refused although the standards allow it is listed with its reason.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from gateway.identity.keys import KeySetError, b64url, parse_jwks
from gateway.identity.token import Rule, read, verify
from gateway.model import Refused

NOW = 1_800_000_000
RULE = Rule(
    frozenset({"at+jwt"}), frozenset({"ES256", "ES384", "EdDSA", "RS256", "PS256"}), "https://i.example", "api", 30, 86400
)
CLAIMS = {"iss": "https://i.example", "aud": "api", "sub": "paul", "client_id": "cli", "iat": NOW, "exp": NOW + 600}
ORDERS = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES384": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED, RSA = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
N = RSA.private_numbers()


def number(value: int, size: int = 0) -> str:
    return b64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def ec_jwk(key: ec.EllipticCurvePrivateKey, crv: str, size: int) -> dict[str, object]:
    point = key.public_key().public_numbers()
    return {"kty": "EC", "crv": crv, "x": number(point.x, size), "y": number(point.y, size)}


KEYS: dict[str, dict[str, object]] = {
    "ES256": ec_jwk(P256, "P-256", 32),
    "ES384": ec_jwk(P384, "P-384", 48),
    "EdDSA": {"kty": "OKP", "crv": "Ed25519", "x": b64url(ED.public_key().public_bytes_raw())},
    "RS256": {"kty": "RSA", "n": number(N.public_numbers.n), "e": "AQAB", "alg": "RS256"},
    "PS256": {"kty": "RSA", "n": number(N.public_numbers.n), "e": "AQAB", "alg": "PS256"},
}


def jwks(*keys: dict[str, object]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


ALL = jwks(*({"kid": name} | key for name, key in KEYS.items()))


def ecdsa(key: ec.EllipticCurvePrivateKey, size: int, digest: hashes.HashAlgorithm) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return sign


def pss(salt: int) -> padding.PSS:
    return padding.PSS(padding.MGF1(hashes.SHA256()), salt)


SIGN: dict[str, Callable[[bytes], bytes]] = {
    "ES256": ecdsa(P256, 32, hashes.SHA256()),
    "ES384": ecdsa(P384, 48, hashes.SHA384()),
    "EdDSA": ED.sign,
    "RS256": lambda data: RSA.sign(data, padding.PKCS1v15(), hashes.SHA256()),
    "PS256": lambda data: RSA.sign(data, pss(32), hashes.SHA256()),
}


def signed_part(alg: str, /, **header: object) -> str:
    head = {"typ": "at+jwt", "alg": alg, "kid": alg} | header
    return f"{b64url(json.dumps(head).encode())}.{b64url(json.dumps(CLAIMS).encode())}"


def token(alg: str, signature: bytes | None = None, /, **header: object) -> str:
    signed = signed_part(alg, **header)
    return f"{signed}.{b64url(SIGN[alg](signed.encode()) if signature is None else signature)}"


def passes(text: str, keys: bytes = ALL) -> bool:
    try:
        unverified = read(text)
        key = parse_jwks(keys).get(unverified.kid)
        if key is not None:
            verify(unverified, key, RULE, NOW)
    except (Refused, KeySetError):
        return False
    return key is not None


@dataclass(frozen=True)
class Vector:
    name: str
    text: str
    keys: bytes = ALL


def signatures(alg: str) -> Iterator[Vector]:
    """What a verifier may take for a signature and must not."""
    signed = signed_part(alg).encode()
    good = SIGN[alg](signed)
    size = len(good)
    for at in sorted({0, 1, size // 2 - 1, size // 2, size - 2, size - 1}):
        for bit in (0x01, 0x80):
            yield Vector(
                f"{alg} bit {bit:#x} of byte {at} flipped", token(alg, bytes((*good[:at], good[at] ^ bit, *good[at + 1 :])))
            )
    forms = {
        "empty": b"",
        "one byte": b"\0",
        "zeros": bytes(size),
        "ones": b"\xff" * size,
        "cut by one": good[:-1],
        "half": good[: size // 2],
        "a zero after": good + b"\0",
        "a zero before": b"\0" + good,
        "twice": good * 2,
        "reversed": good[::-1],
        "halves swapped": good[size // 2 :] + good[: size // 2],
        "of the payload alone": SIGN[alg](signed.partition(b".")[2]),
        "of the header alone": SIGN[alg](signed.partition(b".")[0]),
        "of the digest": SIGN[alg](hashlib.sha256(signed).digest()),
        "of nothing": SIGN[alg](b""),
        "of the text with a dot": SIGN[alg](signed + b"."),
        "base64 of itself": b64url(good).encode(),
    }
    for name, signature in forms.items():
        yield Vector(f"{alg} signature {name}", token(alg, signature))


def ecdsa_edges(alg: str) -> Iterator[Vector]:
    order, size = ORDERS[alg], 32 if alg == "ES256" else 48
    key, digest = (P256, hashes.SHA256()) if alg == "ES256" else (P384, hashes.SHA384())
    signed = signed_part(alg).encode()
    good = SIGN[alg](signed)
    r, s = int.from_bytes(good[:size], "big"), int.from_bytes(good[size:], "big")
    edges = (0, 1, 2, order - 1, order, order + 1, 2 ** (8 * size) - 1)
    for left in edges:
        for right in edges:
            yield Vector(f"{alg} r={left:#x} s={right:#x}", token(alg, left.to_bytes(size, "big") + right.to_bytes(size, "big")))
    for name, (left, right) in {"r+n": (r + order, s), "s+n": (r, s + order), "-r": (order - r, s), "r for s": (r, r)}.items():
        if max(left, right) < 2 ** (8 * size):
            yield Vector(f"{alg} {name}", token(alg, left.to_bytes(size, "big") + right.to_bytes(size, "big")))
    yield Vector(f"{alg} in DER", token(alg, key.sign(signed, ec.ECDSA(digest))))
    yield Vector(f"{alg} padded to 66", token(alg, r.to_bytes(66, "big") + s.to_bytes(66, "big")))
    other = ec.ECDSA(hashes.SHA384() if alg == "ES256" else hashes.SHA256())
    left, right = decode_dss_signature(key.sign(signed, other))
    yield Vector(f"{alg} over another hash", token(alg, left.to_bytes(size, "big") + right.to_bytes(size, "big")))


def eddsa_edges() -> Iterator[Vector]:
    good = SIGN["EdDSA"](signed_part("EdDSA").encode())
    s = int.from_bytes(good[32:], "little")
    for times in (1, 2, 4, 8):
        if (more := s + times * ED25519_ORDER) < 2**256:
            yield Vector(f"EdDSA S+{times}L", token("EdDSA", good[:32] + more.to_bytes(32, "little")))
    for name, point in {
        "identity": b"\x01" + bytes(31),
        "zero": bytes(32),
        "minus one": b"\xec" + b"\xff" * 30 + b"\x7f",
    }.items():
        yield Vector(f"EdDSA R={name}, S=0", token("EdDSA", point + bytes(32)))


def rsa_edges() -> Iterator[Vector]:
    n, d, size = N.public_numbers.n, N.d, 256
    info = bytes.fromhex("3031300d060960864801650304020105000420")
    for alg in ("RS256", "PS256"):
        signed = signed_part(alg).encode()
        digest = hashlib.sha256(signed).digest()

        def raw(block: bytes) -> bytes:
            return pow(int.from_bytes(block, "big"), d, n).to_bytes(size, "big")

        def padded(rest: bytes, fill: bytes = b"\xff") -> bytes:
            return b"\0\x01" + fill * (size - 3 - len(rest)) + b"\0" + rest

        blocks = {
            "no DigestInfo": padded(digest),
            "DigestInfo without NULL": padded(bytes.fromhex("302f300b0609608648016503040201" + "0420") + digest),
            "DigestInfo of SHA-1": padded(bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(signed).digest()),
            "DigestInfo with a long length": padded(bytes.fromhex("308131300d060960864801650304020105000420") + digest),
            "garbage after the digest (CVE-2006-4339)": b"\0\x01"
            + b"\xff" * 8
            + b"\0"
            + info
            + digest
            + bytes(size - 11 - len(info) - 32),
            "garbage within the padding": padded(info + digest, b"\xaa"),
            "type 0": b"\0\0" + bytes(size - 3 - len(info) - 32) + b"\0" + info + digest,
            "type 2": b"\0\x02" + b"\xff" * (size - 3 - len(info) - 32) + b"\0" + info + digest,
            "short padding": (b"\0\x01" + b"\xff" * 7 + b"\0" + info + digest).ljust(size, b"\0"),
            "seven bytes": b"\0" * (size - 8) + b"\x01" + digest[:7],
        }
        for name, block in blocks.items():
            yield Vector(f"{alg} {name}", token(alg, raw(block)))
        edges = {"0": 0, "1": 1, "the modulus less one": n - 1, "the modulus": n, "all ones": 2 ** (8 * size) - 1}
        for name, value in edges.items():
            yield Vector(f"{alg} signature {name} at an edge", token(alg, value.to_bytes(size, "big")))
        good = int.from_bytes(SIGN[alg](signed), "big")
        yield Vector(f"{alg} plus the modulus", token(alg, (good + n).to_bytes(size + 1, "big")))
    signed = signed_part("PS256").encode()
    for salt in (0, 20, 31, 33, 222):
        yield Vector(f"PS256 with a salt of {salt}", token("PS256", RSA.sign(signed, pss(salt), hashes.SHA256())))
    sha1 = padding.PSS(padding.MGF1(hashes.SHA1()), 32)
    yield Vector("PS256 with MGF1 over SHA-1", token("PS256", RSA.sign(signed, sha1, hashes.SHA256())))
    yield Vector("PS256 over SHA-512", token("PS256", RSA.sign(signed, pss(32), hashes.SHA512())))
    yield Vector(
        "RS256 over SHA-512", token("RS256", RSA.sign(signed_part("RS256").encode(), padding.PKCS1v15(), hashes.SHA512()))
    )


def encodings(alg: str) -> Iterator[Vector]:
    """One token in texts that a lenient reader takes for it."""
    good = token(alg)
    parts = good.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at, part in enumerate(parts):
        name = ("header", "payload", "signature")[at]
        changed = {
            "padded": part + "=" * (-len(part) % 4 or 1),
            "a space after": part + " ",
            "a newline after": part + "\n",
            "a newline within": part[:8] + "\n" + part[8:],
            "a tab within": part[:8] + "\t" + part[8:],
            "a null after": part + "\0",
            "a star within": part[:8] + "*" + part[8:],
            "quoted": f'"{part}"',
            "percent-coded": part[:8] + "%41" + part[9:],
            "one character more": part + "A",
            "four more": part + "AAAA",
            "one less": part[:-1],
            "empty": "",
            "a full width dot": part + "．",
            "the other alphabet": part.replace("-", "+").replace("_", "/") + "+/",
            "another last character": part[:-1] + last[last.index(part[-1]) ^ 1] if len(part) % 4 else part + "A=",
        }
        for how, text in changed.items():
            yield Vector(f"{alg} {name} {how}", ".".join((*parts[:at], text, *parts[at + 1 :])))
    raw = {"payload": parts[1], "protected": parts[0], "signature": parts[2]}
    wholes = {
        "two parts": ".".join(parts[:2]),
        "four parts": good + ".",
        "five parts": good + "..",
        "JSON, flattened": json.dumps(raw),
        "JSON, general": json.dumps({"payload": parts[1], "signatures": [raw]}),
        "a dot before": "." + good,
        "dots alone": "..",
        "upper case": good.upper(),
        "parts turned round": ".".join(reversed(parts)),
        "a comma for a dot": good.replace(".", ","),
        "detached": f"{parts[0]}..{parts[2]}",
    }
    for how, text in wholes.items():
        yield Vector(f"{alg} {how}", text)


def headers(alg: str) -> Iterator[Vector]:
    """Headers that ask the verifier for something else; each is truly signed."""
    foreign: dict[str, object] = {
        "jwk": KEYS[alg],
        "jku": "https://e.example",
        "x5u": "https://e.example",
        "x5c": ["MIIB"],
        "crit": ["exp"],
        "b64": True,
        "zip": "DEF",
        "enc": "A128GCM",
        "cty": "JWT",
        "epk": {},
        "apu": "",
        "p2c": 1,
        "iv": "",
        "tag": "",
        "url": "x",
        "nonce": "x",
    }
    for name, value in foreign.items():
        yield Vector(f"{alg} header {name}", token(alg, **{name: value}))
    for other in (*SIGN, "HS256", "HS512", "none", "None", "ES256K", "ES512", "RS512", "EdDSA ", "Ed448", ""):
        if other != alg:
            yield Vector(f"{alg} called {other!r}", token(alg, alg=other))
    for other in SIGN:
        if other != alg:
            yield Vector(f"{alg} under the kid of {other}", token(alg, kid=other))
    for name, kid in {
        "missing": None,
        "empty": "",
        "number": 1,
        "list": [alg],
        "null byte": alg + "\0",
        "case": alg.lower(),
    }.items():
        yield Vector(f"{alg} kid {name}", token(alg, kid=kid))


def key_sets() -> Iterator[Vector]:
    """Good tokens under key sets that must not be used so."""
    good, key = token("ES256"), {"kid": "ES256"} | KEYS["ES256"]
    flipped = base64.urlsafe_b64decode(str(key["y"]) + "=")
    minus = b64url(bytes((*flipped[:-1], flipped[-1] ^ 1)))
    changed: dict[str, dict[str, object]] = {
        "for encryption": {"use": "enc"},
        "use of nothing": {"use": ""},
        "use a list": {"use": ["sig"]},
        "use a number": {"use": 7},
        "to sign": {"key_ops": ["sign"]},
        "to wrap": {"key_ops": ["wrapKey"]},
        "key_ops text": {"key_ops": "verify"},
        "for ES384": {"alg": "ES384"},
        "for HS256": {"alg": "HS256"},
        "for none": {"alg": "none"},
        "alg a list": {"alg": ["ES256"]},
        "of P-384": {"crv": "P-384"},
        "of secp256k1": {"crv": "secp256k1"},
        "of no curve": {"crv": None},
        "of RSA": {"kty": "RSA"},
        "OKP": {"kty": "OKP"},
        "no kty": {"kty": None},
        "kty in lower case": {"kty": "ec"},
        "off the curve": {"y": minus},
        "at infinity": {"x": b64url(bytes(32)), "y": b64url(bytes(32))},
        "y missing": {"y": None},
        "x padded": {"x": f"{key['x']}="},
        "x cut": {"x": str(key["x"])[:-2]},
        "x with a zero before": {"x": "AA" + str(key["x"])},
        "x a number": {"x": 1},
        "private": {"d": number(P256.private_numbers().private_value, 32)},
        "kid of another": {"kid": "other"},
        "no kid": {"kid": None},
    }
    for name, change in changed.items():
        yield Vector(f"key {name}", good, jwks({k: v for k, v in (key | change).items() if v is not None}))
    secret = {"kty": "oct", "kid": "s", "k": b64url(bytes(32)), "alg": "HS256"}
    yield Vector("keys of both kinds", good, jwks(key, secret))
    yield Vector("two keys of one kid", good, jwks(key, key))
    yield Vector("two keys of one kid, different", good, jwks(key, {"kid": "ES256"} | KEYS["EdDSA"]))
    yield Vector("a public key as a secret", good, jwks({"kty": "oct", "kid": "ES256", "k": str(key["x"])}))
    weak = rsa.generate_private_key(65537, 1024)
    text = f"{signed_part('RS256')}."
    small = text + b64url(weak.sign(text[:-1].encode(), padding.PKCS1v15(), hashes.SHA256()))
    modulus = weak.private_numbers().public_numbers.n
    yield Vector("RSA of 1024 bits", small, jwks({"kty": "RSA", "kid": "RS256", "n": number(modulus), "e": "AQAB"}))
    one = padded_as_signature(text[:-1].encode())
    for e in (1, 2, 3, 65536, 0):
        made = jwks({"kty": "RSA", "kid": "RS256", "n": number(N.public_numbers.n), "e": number(e, 3)})
        yield Vector(f"RSA exponent {e}", text + b64url(one), made)
    small_order = [
        "01" + "00" * 31,
        "00" * 32,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ]
    small_order += ["c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", "ee" + "ff" * 30 + "7f", "00" * 31 + "80"]
    for point in small_order:
        forged = token("EdDSA", b"\x01" + bytes(63))
        yield Vector(
            f"Ed25519 point {point[:8]}",
            forged,
            jwks({"kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": b64url(bytes.fromhex(point))}),
        )


def padded_as_signature(signed: bytes) -> bytes:
    """What verifies under exponent 1: the padded digest itself."""
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(signed).digest()
    return b"\0\x01" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info


BAD: list[Vector] = [
    *(vector for alg in SIGN for family in (signatures, encodings, headers) for vector in family(alg)),
    *ecdsa_edges("ES256"),
    *ecdsa_edges("ES384"),
    *eddsa_edges(),
    *rsa_edges(),
    *key_sets(),
]

REFUSED_THOUGH_ALLOWED = {
    "cty": "a nested token is none of ours",
    "jwk": "a key inside a token proves nothing, even where it is the right one",
    "x5c": "as above",
    "b64": "true is the default; nobody who needs to say it is served here",
    "nonce": "a header member of other protocols",
}
"""Header members that RFC 7515 lets a verifier ignore, and why this one does not."""


@pytest.mark.parametrize("vector", BAD, ids=lambda vector: vector.name.encode("ascii", "replace").decode())
def test_a_vector_of_a_family_in_which_libraries_were_wrong_is_refused(vector: Vector) -> None:
    assert not passes(vector.text, vector.keys)


@pytest.mark.parametrize("alg", SIGN)
def test_a_good_token_of_every_algorithm_passes_beside_them(alg: str) -> None:
    assert passes(token(alg))
    assert passes(token(alg, x5t="ignored"))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")  # the library only warns
def test_the_vectors_are_many_differ_and_a_plain_library_lets_some_through() -> None:
    assert len({(vector.text, vector.keys) for vector in BAD}) > 600
    let_through = []
    for vector in BAD:
        try:
            for key in jwt.PyJWKSet.from_dict(json.loads(vector.keys)).keys:
                if key.key_id == jwt.get_unverified_header(vector.text).get("kid"):
                    jwt.decode(
                        vector.text,
                        key,
                        list(SIGN),
                        audience="api",
                        issuer="https://i.example",
                        options={"verify_exp": False, "verify_iat": False},
                    )
                    let_through.append(vector.name)
                    break
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, NotImplementedError):
            continue
    assert len(let_through) > 20, let_through
    assert any(name.startswith("key ") for name in let_through)
    assert {name for name in REFUSED_THOUGH_ALLOWED if f"ES256 header {name}" in let_through} == set(REFUSED_THOUGH_ALLOWED)
