"""Rules about labels, beside one call: which labels its step brings, and which rules let it through whatever came before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from policies.bundle import Bundle
from policies.model import AccessRequest
from policies.values import Facts, kind
from policies.workflows.model import Workflow, taints
from policies.workflows.values import exact


def brings(bundle: Bundle, resource: str) -> tuple[str, ...]:
    """The labels of an object that some rule looks for: what no rule looks for is not kept."""
    labels = bundle.labels.of(resource) if bundle.flows else ()
    return tuple(sorted(bundle.flows.intersection(labels))) if labels else ()


def exempt(bundle: Bundle, held: Iterable[Workflow], request: AccessRequest, arguments: Mapping[str, object]) -> frozenset[str]:
    """Ids of the rules whose exemption surely holds; what is not known holds for none."""
    rules = [rule for rule in taints(held) if rule.unless is not None and rule.deny.covers(request.resource)]
    if not rules:
        return frozenset()
    tool = bundle.tools.get(request.resource)
    facts = Facts(
        arguments=arguments if tool is not None else {name: exact(value) for name, value in arguments.items()},
        types=_types(arguments) if tool is None else tool.args,
        subject=request.subject,
        groups=request.groups,
        context=request.context,
        at=request.at,
        tool=tool,
    )
    return frozenset(rule.id for rule in rules if rule.unless is not None and rule.unless.test.evaluate(facts) is True)


def _types(arguments: Mapping[str, object]) -> dict[str, str]:
    """What a message to an agent says is declared nowhere: each value is of its own type."""
    said = {name: "array" if isinstance(value, list) else kind(exact(value)) for name, value in arguments.items()}
    return {name: each for name, each in said.items() if each is not None}
