"""An agent's card as the gateway publishes it (sans-I/O): from an allow-list, with nothing of the agent's own address.

A member that is not named here is not published; neither is any address of the agent, wherever in the card it stood, nor a
character that a reader does not see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from a2a.types import a2a_pb2 as pb
from google.protobuf.json_format import MessageToDict, ParseDict  # type: ignore[import-untyped]  # protobuf ships no stubs

from gateway.a2a import v03
from gateway.a2a.wire import identifier
from policies.unseen import IGNORABLE, shown

if TYPE_CHECKING:
    from gateway.a2a.cards import Interface

MAX_SKILLS = 256
MAX_SIGNATURES = 16
MAX_EXTENSIONS = 64
MAX_MODES = 64
_LINES = frozenset("\n\t")


def unfit(card: pb.AgentCard, extensions: frozenset[str]) -> str:
    """Why a card cannot be published; "" where it can.  It quotes nothing but the URI of an extension that is demanded."""
    if not card.name or len(card.skills) > MAX_SKILLS:
        return "name or skills"
    if len(card.signatures) > MAX_SIGNATURES or len(card.capabilities.extensions) > MAX_EXTENSIONS:
        return "too many signatures or extensions"
    if max(len(card.default_input_modes), len(card.default_output_modes)) > MAX_MODES:
        return "too many media types"
    for extension in card.capabilities.extensions:
        if extension.required and extension.uri not in extensions:
            return f"it demands the extension {shown(extension.uri)[:200]}, which agents.*.extensions does not let through"
    return ""


def own_addresses(card: pb.AgentCard, said: Mapping[str, Any]) -> tuple[str, ...]:
    """The authorities that a card names as its agent's own, in the members of 1.0 and (`said`: as JSON) in those of 0.3."""
    urls = (*v03.addresses(said), *(each.url for each in card.supported_interfaces))
    return tuple(name for url in urls if (name := _authority(url)))


def _authority(url: str) -> str:
    try:
        return urlsplit(url if "//" in url else f"//{url}").netloc.lower()  # of gRPC it is `host:port` alone
    except ValueError:
        return ""


def published(
    card: pb.AgentCard,
    agent: str,
    base: str,
    here: str,
    served: Sequence[Interface],
    *,
    hidden: Sequence[str] = (),
    push: bool = False,
    extensions: frozenset[str] = frozenset(),
) -> pb.AgentCard:
    """The allow-list, of a card that is not `unfit`: all skills, not signed.

    base    public URL of the gateway, `here` of the agent at it.
    served  the interfaces that the card names.
    hidden  authorities (`host:port`) that must not stand in any text.
    """
    clean = _Clean(frozenset(name.lower() for name in hidden if name), here)
    name = clean(card.name) or agent
    made = pb.AgentCard(
        name=name,
        description=clean(card.description) or name,
        version=clean(card.version) or "0",
        supported_interfaces=[
            pb.AgentInterface(url=each.url, protocol_binding=each.binding, protocol_version=each.version) for each in served
        ],
        capabilities=pb.AgentCapabilities(
            streaming=card.capabilities.streaming,
            push_notifications=push and card.capabilities.push_notifications,
            extended_agent_card=card.capabilities.extended_agent_card,
            extensions=[_extension(each, clean) for each in card.capabilities.extensions if each.uri in extensions],
        ),
        default_input_modes=clean.all(card.default_input_modes),
        default_output_modes=clean.all(card.default_output_modes),
        skills=_skills(card.skills, clean),
    )
    if card.provider.organization:  # its URL is a required member; it says the gateway's, as the provider's own is withheld
        made.provider.CopyFrom(pb.AgentProvider(organization=clean(card.provider.organization) or name, url=base))
    bearer = pb.HTTPAuthSecurityScheme(scheme="Bearer", bearer_format="JWT")
    made.security_schemes["bearer"].CopyFrom(pb.SecurityScheme(http_auth_security_scheme=bearer))
    made.security_requirements.append(pb.SecurityRequirement(schemes={"bearer": pb.StringList()}))
    return made


def _skills(skills: Sequence[pb.AgentSkill], clean: _Clean) -> list[pb.AgentSkill]:
    """Those that have an id which can be read in one way; of two with the same id the first."""
    known: dict[str, pb.AgentSkill] = {}
    for skill in skills:
        if identifier(skill.id) and IGNORABLE.search(skill.id) is None and clean(skill.id) == skill.id:
            known.setdefault(skill.id, skill)
    return [_skill(skill, clean) for skill in known.values()]


def _skill(skill: pb.AgentSkill, clean: _Clean) -> pb.AgentSkill:
    name = clean(skill.name) or skill.id
    return pb.AgentSkill(
        id=skill.id,
        name=name,
        description=clean(skill.description) or name,
        tags=clean.all(skill.tags),
        examples=clean.all(skill.examples),
        input_modes=clean.all(skill.input_modes),
        output_modes=clean.all(skill.output_modes),
    )


def _extension(extension: pb.AgentExtension, clean: _Clean) -> pb.AgentExtension:
    made = pb.AgentExtension(
        uri=extension.uri, description=clean(extension.description), required=extension.required
    )  # its URI is the operator's own word
    if extension.HasField("params"):
        ParseDict(clean.deeply(MessageToDict(extension.params)), made.params)
    return made


class _Clean:
    """Text without what a reader does not see, and without the agent's addresses.

    A URL on one of its hosts goes whatever its port, user and path; a bare name only where a port makes it an address.
    """

    __slots__ = ("_found", "_here")

    def __init__(self, authorities: frozenset[str], here: str) -> None:
        bare = {authority.rpartition("@")[2] for authority in authorities}
        hosts = {re.sub(r":[0-9]*$", "", authority) for authority in bare}
        named = "|".join(re.escape(host) for host in sorted(hosts, key=len, reverse=True) if host)
        ported = "|".join(re.escape(each) for each in sorted(bare) if re.search(r":[0-9]+$", each))
        rest = r"(?![\w-])(?!\.[a-z0-9])"
        # a text is read in one go: no part before the host may be as long as it likes
        patterns = (
            [rf"(?:[a-z][a-z0-9+.-]{{0,15}}:)?//(?:[^\s/@\"'<>]{{0,64}}@)?(?:{named})\.?{rest}[^\s\"'<>)\]]*"] if named else []
        )
        patterns += [rf"(?<![\w.-])(?:{ported}){rest}"] if ported else []
        self._found = re.compile("|".join(patterns), re.IGNORECASE) if patterns else None
        self._here = here

    def __call__(self, text: str) -> str:
        if not (text.isascii() and text.isprintable()):
            text = "".join(each for each in text if (each.isprintable() or each in _LINES) and not IGNORABLE.match(each))
        return self._found.sub(self._here, text) if self._found is not None else text

    def all(self, texts: Sequence[str]) -> list[str]:
        """Each of them that is not empty."""
        return [cleaned for text in texts if (cleaned := self(text))]

    def deeply(self, value: Any) -> Any:
        """Every text in a JSON value, names of members too."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(name): self.deeply(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self.deeply(inner) for inner in value]
        return value
