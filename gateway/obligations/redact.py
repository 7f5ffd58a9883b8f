"""`redact`: fields, by name or path, and what detectors find, are blanked before anything is sent on, released or recorded."""

from __future__ import annotations

from typing import NamedTuple

from gateway.model import Permit
from gateway.obligations.blank import DETECTOR, KINDS, PATH
from gateway.obligations.detect import DETECTORS
from gateway.obligations.duty import Params, WrongParameterError, about_arguments, fulfilled, only, terms, words
from policies.model import Obligation

TYPE = "redact"


class Terms(NamedTuple):
    """What is blanked, as `gateway.obligations.blank` reads it, and in which direction."""

    entries: frozenset[str]
    arguments: bool
    results: bool


def read(params: Params) -> Terms:
    """`{in: arguments | results | [both], fields: [NAME or /PATH …], detectors: [NAME …]}`; without `in`, results."""
    only(params, "in", "fields", "detectors")
    where = words(params, "in", ("arguments", "results")) or ("results",)
    entries = _fields(params) | {DETECTOR + name for name in words(params, "detectors", tuple(DETECTORS))}
    if not entries:
        raise WrongParameterError("", "neither fields nor detectors are named")
    return Terms(entries, "arguments" in where, "results" in where)


def read_result(params: Params) -> Terms:
    """`{fields: [NAME …]}`: the same for results alone."""
    only(params, "fields")
    if not (entries := _fields(params)):
        raise WrongParameterError("", "fields must be a list of names")
    return Terms(entries, arguments=False, results=True)


def _fields(params: Params) -> frozenset[str]:
    found = words(params, "fields")
    for name in found:
        if name.startswith(PATH) and not all(name[1:].split("/")):
            raise WrongParameterError("fields", f"fields: '{name[:60]}' is no path: /order/lines/*/account")
        if name.casefold().startswith(KINDS):
            raise WrongParameterError("fields", f"fields: '{name[:60]}' is a detector; name it under detectors")
    return frozenset(name.casefold() for name in found)


def fulfil(permit: Permit, obligation: Obligation) -> Permit:
    """Several such duties blank what any of them names."""
    return _fulfilled(permit, obligation, terms(permit, obligation, read))


def fulfil_result(permit: Permit, obligation: Obligation) -> Permit:
    """`{type: redact-result, fields: [NAME …]}`: `redact` for results, by fields alone."""
    return _fulfilled(permit, obligation, terms(permit, obligation, read_result))


def _fulfilled(permit: Permit, obligation: Obligation, found: Terms) -> Permit:
    results, arguments = permit.redact, permit.redact_sent
    if found.results:
        results |= found.entries
    if found.arguments:
        arguments |= found.entries
    return fulfilled(permit, obligation, redact=results, redact_sent=arguments)


def of_arguments(obligation: Obligation) -> bool:
    """Whether it blanks arguments; so, too, where its parameters cannot be read."""
    return about_arguments(obligation, TYPE, read)
