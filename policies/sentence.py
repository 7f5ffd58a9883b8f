"""A decision in English, for people who may read policy: who asked whom for what, what came of it, and by which line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policies.model import AccessRequest, Answer, Decision, Match, Objection, Obligation, Reason, Role, Ruling

_ASKED = {
    "call": "call",
    "send": "send a message to",
    "read": "read",
    "list": "list the tools of",
    "relay": "pass on a request for",
}
_LIMIT = 200


def explain(request: AccessRequest, decision: Decision) -> str:
    """A line each for the decision, every principal of the chain, and the duties; no trailing newline."""
    lines = [_opening(request, decision)]
    agent = request.context.get("agent")
    if isinstance(agent, Mapping) and agent.get("assurance") == "correlated":
        lines.append("  The chain is correlated, not proven: a trace alone says for whom an agent goes on.")
    lines += [f"  {_answer(request, answer)}" for answer in decision.answers]
    if decision.ruling is not None:
        lines += [f"  {line}" for line in _ruling(decision.ruling)]
    if decision.obligations and decision.allowed:
        lines.append(f"  Duties: {'; '.join(_duty(duty, decision) for duty in decision.obligations)}.")
    if decision.missing:
        lines.append(f"  Missing: the right of {_and([_clean(name) for name in decision.missing])}.")
    return "\n".join(lines)


def _opening(request: AccessRequest, decision: Decision) -> str:
    chain = [_clean(request.subject), *(_clean(actor) for actor in request.actors)]
    wish = f"{_ASKED.get(request.action, _clean(request.action))} {_clean(request.resource)} in tenant {_clean(request.tenant)}"
    asked = f"{chain[0]} asked {', which asked '.join(chain[1:])}{' ' if chain[1:] else ''}to {wish}"
    if request.arguments is None:
        asked += ", arguments unknown"
    return f"{asked}: {'allowed' if decision.allowed else _refused(decision)}."


def _refused(decision: Decision) -> str:
    why = {
        Reason.UNKNOWN_RESOURCE: "nothing of that name is registered in this tenant, or may be known to this caller",
        Reason.USER_LACKS_RIGHT: "the person on whose behalf it is asked has no right to it",
        Reason.AGENT_LACKS_RIGHT: "an agent of the chain has no right to it",
        Reason.GUARDRAIL: "a deny rule forbids it",
        Reason.DECISION_ERROR: "the question could not be decided, and what cannot be decided is denied",
        Reason.STEP_MISSING: "there is a step missing in its workflow",
        Reason.STEP_TOO_LATE: "the time for it is over in its workflow",
        Reason.STEP_LOCKED: "something that was begun in its workflow must end first",
        Reason.STEP_REPEATED: "its workflow has it once",
        Reason.SAME_HANDS: "another must do it than the one who did a step before",
        Reason.BUDGET_SPENT: "the budget for it is spent",
        Reason.NOT_IN_WORKFLOW: "it is no part of its workflow",
        Reason.DATAFLOW: "what came into its workflow before may not leave by this way",
        Reason.WORKFLOW_UNKNOWN: "its workflow was begun under a name that the policy does not have",
    }.get(decision.reason, "no reason is on record")
    return f"denied ({decision.reason.value}), because {why}"


def _ruling(ruling: Ruling) -> Iterator[str]:
    for name, _digest in ruling.held:
        spoke = [match for match in ruling.spoke if match.rule.startswith(f"{name}/")]
        refused = [each for each in ruling.refused if each.match in spoke]
        watched = [each for each in ruling.watched if each.match in spoke]
        if not spoke:
            yield f"workflow {name}: yes; none of its rules is about this."
        elif not refused and not watched:
            yield f"workflow {name}: yes, by {_and([_rule(match) for match in spoke])}."
        for each in refused:
            yield f"workflow {name}: no; {_rule(each.match)}: {_because(each)}."
        for match, condition in ruling.exempt:
            if match in spoke:
                yield f"workflow {name}: {_rule(match)} would say no, and '{condition}' holds, which makes this exempt."
        for each in watched:
            said = f"would say no ({each.reason.value}), and is only watched"
            yield f"workflow {name}: {said}; {_rule(each.match)}: {_because(each)}."


def _because(objection: Objection) -> str:
    brought = [f"{each.label} came in with {_clean(each.resource)} (record {each.call})" for each in objection.brought]
    return f"{_and(brought)}; {objection.cure}" if brought else objection.cure


def _answer(request: AccessRequest, answer: Answer) -> str:
    question = answer.question
    role = {
        Role.SUBJECT: "on whose behalf it is asked",
        Role.RELAY: "which passes the request on",
        Role.ACTOR: f"which makes the {'request' if question.action == 'list' else _clean(request.action)}",
    }[question.role]
    who = f"{_clean(question.principal)}, {role}, may {_clean(question.action)}"
    if answer.allowed:
        grants = [m for m in answer.matched if m.effect == "allow"]
        return f"{who}: yes, by {_and([_rule(m) for m in grants])}." if grants else f"{who}: yes."
    denials = [m for m in answer.matched if m.effect == "deny"]
    if denials:
        return f"{who}: no; forbidden by {_and([_rule(m) for m in denials])}."
    if answer.near:
        return f"{who}: no; {_and([_near(m) for m in answer.near])}."
    return f"{who}: no; no rule grants {_clean(question.action)} on {_clean(request.resource)} to {_clean(question.principal)}."


def _rule(match: Match) -> str:
    condition = f" [{match.condition}]" if match.condition else ""
    return f"{match.rule} ({match.source}){condition}"


def _near(match: Match) -> str:
    return f"{match.rule} ({match.source}) would grant it, but only for: {match.condition}"


def _duty(duty: Obligation, decision: Decision) -> str:
    params = ", ".join(f"{key} {_value(value)}" for key, value in duty.params.items())
    lines = [f"{m.rule} ({m.source})" for m in decision.matched if m.effect == "require"]
    by = f", by {_and(lines)}" if len(decision.obligations) == 1 and lines else ""
    return f"{duty.name} ({duty.type}{': ' + params if params else ''}){by}"


def _value(value: object) -> str:
    return " and ".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _clean(text: str) -> str:
    """A caller's text on one line: unprintable characters are escaped, long text is cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_LIMIT])
    return shown + ("…" if len(text) > _LIMIT else "")
