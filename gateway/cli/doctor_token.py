"""Which check of the gateway a person's token fails, and which setting that is about.  The token itself is never shown.

What a token says is unverified here; the last word is the gateway's own verification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gateway.cli.doctor_issuer import Check, Seen, short
from gateway.identity import claims as said
from gateway.identity.issuers import LEEWAY_SECONDS, LONGEST_SECONDS, STRICT_TYPES, endpoints_of
from gateway.identity.token import Unverified, check_signature, moment, parts, read
from gateway.model import Refused

if TYPE_CHECKING:
    from gateway.identity.access import AccessTokens
    from gateway.settings import Issuer, Settings

OF = "token"
_DEPTH = 4


async def examine_token(text: str, settings: Settings, seen: Mapping[str, Seen], access: AccessTokens, now: int) -> list[Check]:
    """Every check, each by itself; then what the gateway says of it."""
    if text.count(".") != 2:
        return [await _opaque(text, settings, access, now)]
    found: list[Check] = []
    try:
        token = read(text)
    except Refused as refusal:
        return [Check(OF, "form", "finding", refusal.detail, _form_help(text))]
    claims = token.unverified_claims
    issuer = next((each for each in settings.issuers if each.issuer == claims.get("iss")), None)
    if issuer is None:
        known = ", ".join(short(each.issuer) for each in settings.issuers) or "none"
        message = f"iss is {short(claims.get('iss'))}; the settings know {known}"
        return [Check(OF, "issuer", "finding", message, "issuers.<alias>.issuer must be the same, character by character")]
    found.append(Check(OF, "issuer", "ok", f"of issuers.{issuer.alias}"))
    found += _header(token, issuer, seen.get(issuer.alias, Seen("")))
    found += _times(claims, now)
    found += _claims(token, claims, issuer, settings)
    found.append(await _verdict(token, access, now))
    return found


async def _opaque(text: str, settings: Settings, access: AccessTokens, now: int) -> Check:
    if not any(issuer.introspection is not None for issuer in settings.issuers):
        help_ = "ask the issuer for JWT access tokens, or set issuers.<alias>.introspection"
        return Check(OF, "form", "finding", "it is no JWT, and no issuer is asked about opaque tokens", help_)
    try:
        await access.opaque(text, now)
    except Refused as refusal:
        return Check(OF, "introspection", "finding", f"refused: {refusal.detail}", "the issuer's log may say more")
    return Check(OF, "introspection", "ok", "the issuer says that it is good here")


def _form_help(text: str) -> str:
    try:
        header, _, _ = parts(text)
    except Refused:
        return "is it whole, an access token, and without line breaks or quotes?"
    unknown = sorted(header.keys() - {"alg", "typ", "kid", "x5t", "x5t#S256"})
    if unknown:
        return f"its header has {', '.join(short(name) for name in unknown[:4])}, by which a key could be smuggled in"
    missing = [name for name in ("alg", "kid") if not isinstance(header.get(name), str)]
    return f"its header lacks {', '.join(missing)}: let the issuer write it" if missing else ""


def _header(token: Unverified, issuer: Issuer, seen: Seen) -> Iterator[Check]:
    of = f"issuers.{issuer.alias}"
    types = set(issuer.token_types) | (STRICT_TYPES if "at+jwt" in issuer.token_types else frozenset())
    if token.typ not in types:
        shown = short(token.typ) if token.typ else "missing"
        wanted = ", ".join(each or '""' for each in (*issuer.token_types, token.typ))
        help_ = f"{of}.token_types: [{wanted}] accepts it, where the issuer cannot write at+jwt"
        yield Check(OF, "typ", "finding", f"typ is {shown}; accepted: {', '.join(sorted(types))}", help_)
    else:
        yield Check(OF, "typ", "ok", f"typ is {short(token.typ)}")
    if token.alg not in issuer.algorithms:
        message = f"alg is {short(token.alg)}; accepted: {', '.join(issuer.algorithms)}"
        yield Check(OF, "algorithm", "finding", message, f"{of}.algorithms, where this one is meant; never none or HS256")
    key = seen.keys.get(token.kid)
    if not seen.keys:
        return  # said of the issuer already
    if key is None:
        known = ", ".join(short(kid) for kid in list(seen.keys)[:8])
        help_ = "is it a token of this issuer, and not older than its keys?"
        yield Check(OF, "kid", "finding", f"kid is {short(token.kid)}; the issuer's usable keys are {known}", help_)
    elif token.alg not in key.algorithms:
        message = f"the key is for {', '.join(sorted(key.algorithms))}, and the token says {short(token.alg)}"
        yield Check(OF, "key", "finding", message, "a token is verified by its key's own algorithm alone")
    else:
        yield _signature(token, seen)


def _signature(token: Unverified, seen: Seen) -> Check:
    try:
        check_signature(token.text, token.payload, seen.keys[token.kid].public, token.alg)
    except Refused as refusal:
        help_ = "was it changed on its way, or made by somebody else under this kid?"
        return Check(OF, "signature", "finding", refusal.detail, help_)
    return Check(OF, "signature", "ok", "it is the issuer's")


def _times(claims: Mapping[str, object], now: int) -> Iterator[Check]:
    try:
        ends, issued = moment(claims, "exp"), moment(claims, "iat")
        begins = moment(claims, "nbf") if "nbf" in claims else issued
    except Refused as refusal:
        yield Check(OF, "times", "finding", refusal.detail, "the issuer writes times as whole seconds since 1970")
        return
    if now >= ends + LEEWAY_SECONDS:
        yield Check(OF, "expired", "finding", f"it ended {_span(now - ends)} ago", "get a new one")
    elif issued > now + LEEWAY_SECONDS or begins > now + LEEWAY_SECONDS:
        ahead = _span(max(issued, begins) - now)
        yield Check(OF, "times", "finding", f"it counts only in {ahead}", "compare the clocks: see `clock` of the issuer")
    elif ends <= issued or ends > now + LONGEST_SECONDS + LEEWAY_SECONDS:
        message = f"it ends in {_span(ends - now)}; {_span(LONGEST_SECONDS)} at most are accepted, and not before it was issued"
        yield Check(OF, "times", "finding", message, "let the issuer give shorter tokens")
    else:
        yield Check(OF, "times", "ok", f"it ends in {_span(ends - now)}")


def _claims(token: Unverified, claims: Mapping[str, object], issuer: Issuer, settings: Settings) -> Iterator[Check]:
    of = f"issuers.{issuer.alias}"
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
    alone = [each for each in named if isinstance(each, str) and each.startswith(endpoints_of(settings.public_url))]
    if issuer.audience not in named and alone:
        yield Check(OF, "audience", "ok", f"it is for {short(alone[0])}, and nothing else here")
    elif issuer.audience not in named:
        found = ", ".join(short(each) for each in named[:8]) or short(audience)
        help_ = f"ask for a token with resource or audience {short(issuer.audience)}, or correct {of}.audience"
        yield Check(OF, "audience", "finding", f"expected {short(issuer.audience)}, found {found}", help_)
    else:
        yield Check(OF, "audience", "ok", f"it is for {short(issuer.audience)}")
    if token.typ not in STRICT_TYPES and {"nonce", "at_hash", "c_hash"} & claims.keys():
        yield Check(OF, "use", "finding", "it is an ID token", "send the access token instead")
    elif said.is_of_another_kind(claims):
        yield Check(OF, "use", "finding", "it says itself that it is no access token", "send the access token instead")
    if {"act", "events"} & claims.keys():
        yield Check(OF, "use", "finding", "it is delegated, or a security event", "send the person's own access token")
    yield _client(token, claims, issuer, settings)
    yield _groups(claims, issuer)
    yield from _wanted(claims, issuer)


def _client(token: Unverified, claims: Mapping[str, object], issuer: Issuer, settings: Settings) -> Check:
    try:
        client = said.client(claims, strict=token.typ in STRICT_TYPES)
    except Refused as refusal:
        return Check(OF, "client", "finding", refusal.detail, "let the issuer write client_id (RFC 9068 §2.2)")
    if said.is_of_a_client(claims, client):
        help_ = "an agent proves itself with its own `auth`; a person's token comes of the person's sign-in"
        return Check(OF, "client", "finding", f"{short(client)} fetched it for itself: it names no person", help_)
    if client in issuer.direct_clients:
        return Check(OF, "client", "ok", f"{short(client)}: the person's own hands")
    for name, agent in settings.agents.items():
        ids = agent.client_ids.get(issuer.alias, ()) if isinstance(agent.client_ids, dict) else agent.client_ids
        if client in ids:
            return Check(OF, "client", "ok", f"{short(client)}: the agent {name}")
    help_ = (
        f"issuers.{issuer.alias}.direct_clients, if it is a person's own tool; agents.<id>.client_ids, if it is an agent's "
        "(with several issuers, under the issuer's alias)"
    )
    return Check(OF, "client", "finding", f"{short(client)} is nobody's", help_)


def _groups(claims: Mapping[str, object], issuer: Issuer) -> Check:
    name = issuer.groups_claim
    try:
        found = said.groups(claims, name)
    except Refused as refusal:
        return Check(OF, "groups", "finding", refusal.detail, f"issuers.{issuer.alias}.groups_claim must lead to a list of texts")
    if found is None:
        state, help_ = ("note", "") if issuer.directory is not None else ("finding", f"issuers.{issuer.alias}.directory")
        message = "the person has more groups than the token holds"
        return Check(OF, "groups", "note" if state == "note" else "finding", message, help_)
    if said.find(claims, name) is said.MISSING:
        if issuer.directory is not None:
            return Check(OF, "groups", "note", f"there is no claim {short(name)}: the directory is asked")
        lists = ", ".join(short(path) for path in list(_lists(claims, ""))[:8])
        help_ = f"lists stand in {lists}: issuers.{issuer.alias}.groups_claim" if lists else "no claim holds a list of texts"
        return Check(OF, "groups", "finding", f"there is no claim {short(name)}, so the person has no groups", help_)
    return Check(OF, "groups", "ok", f"{len(found)} groups in {short(name)}")


def _lists(claims: Mapping[str, object], prefix: str, depth: int = _DEPTH) -> Iterator[str]:
    """Paths of claims that hold lists of texts; their names alone."""
    for name, value in claims.items():
        path = f"{prefix}{name}"
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value) and path not in {"aud", "amr"}:
            yield path
        elif isinstance(value, Mapping) and depth:
            yield from _lists(value, f"{path}.", depth - 1)


def _wanted(claims: Mapping[str, object], issuer: Issuer) -> Iterator[Check]:
    of = f"issuers.{issuer.alias}"
    try:
        missing = sorted(set(issuer.required_scope) - set(said.scopes(claims)))
        if missing:
            yield Check(OF, "scope", "finding", f"it lacks {', '.join(map(short, missing))}", f"ask for it; {of}.required_scope")
        bound = said.bound_to(claims)
        if issuer.dpop == "require" and not bound:
            yield Check(OF, "bound", "finding", "it is bound to no key (RFC 9449)", f"{of}.dpop: accept takes it all the same")
        elif bound:
            yield Check(OF, "bound", "note", "it is bound to a key: each request needs a DPoP proof, which is not looked at here")
        if issuer.tenant_claim:
            said.tenant(claims, issuer.tenant_claim, issuer.tenants)
    except Refused as refusal:
        yield Check(OF, "claims", "finding", refusal.detail, f"{of}: tenant_claim and tenants, required_scope, dpop")


async def _verdict(token: Unverified, access: AccessTokens, now: int) -> Check:
    try:
        person = await access.verify(token, now)
    except Refused as refusal:
        return Check(OF, "verdict", "finding", f"the gateway refuses it: {refusal.detail}", "see the findings above")
    through = f" through {', '.join(person.actors)}" if person.actors else ""
    return Check(OF, "verdict", "ok", f"the gateway accepts it, as {short(person.subject)}{through}, tenant {person.tenant}")


def _span(seconds: int) -> str:
    for size, name in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
