"""A comparison of two bundles for a terminal, for a pull request and for programs; what opens anything stands on top.

Names and sentences of a bundle are text and nothing else: no control characters on a terminal, code spans in Markdown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from policies.changes import Change, Diff, Kind, Named
from policies.expression import spaced
from policies.terms import Proof

if TYPE_CHECKING:
    from policies.bundle import Bundle
    from policies.rules import Rule

SHOWN = 8
MOST, MOST_IN_A_COMMENT = 200, 50
"""Changes of a section that are shown to people; JSON has all of them."""
Show = Callable[[str], str]
"""How a text of a bundle is dressed: as it is, or as a code span."""
_WORDS = {
    Kind.GAIN: "GAINS",
    Kind.WIDER: "WIDER",
    Kind.CHANGED: "CHANGED",
    Kind.NARROWER: "NARROWER",
    Kind.LOSS: "LOSES",
    Kind.DUTY_ADDED: "DUTY ADDED",
    Kind.DUTY_REMOVED: "DUTY REMOVED",
    Kind.DUTY_CHANGED: "DUTY CHANGED",
}


class Page:
    """One comparison, with the bundles that its lines' sentences stand in."""

    def __init__(self, found: Diff, before: Bundle, after: Bundle) -> None:
        self._found = found
        self._before, self._after = before, after

    def terminal(self) -> Iterator[str]:
        """Line by line."""
        found = self._found
        yield f"{found.before[:19]} → {found.after[:19]}"
        if found.empty:
            yield "Nothing differs."
        if found.incomparable:
            yield f"\nDENY → ALLOW\n  NOT COMPARABLE  {found.incomparable}"
        for title, changes in self._sections():
            if changes:
                yield f"\n{title}"
            for change in changes[:MOST]:
                yield f"  {_WORDS[change.kind]:<9} {self._sentence(change, str)}"
                for line in self._details(change, str):
                    yield f"            {line}"
            if len(changes) > MOST:
                yield f"  and {len(changes) - MOST} more: --json shows all"
        if found.model:
            yield f"\nMODEL\n  {_MODEL}"
        for title, named in self._named():
            if named:
                yield f"\n{title}"
                yield from (f"  {line}" for line in _lines(named))
        yield f"\n{_plural(found.same, 'line')} of grants/ unchanged."

    def markdown(self) -> str:
        """A comment for a pull request: what is newly allowed first, everything else folded."""
        found = self._found
        opened = found.granting
        head = "nothing is newly allowed"
        if found.grants:
            number = len(opened) + bool(found.incomparable) + found.opened + found.loosened
            head = f"**{_plural(number, 'change')} may allow what was denied**"
        lines = [f"### Policy diff: {head}", "", f"{_code(found.before[:19])} → {_code(found.after[:19])}", ""]
        if found.empty:
            lines.append("Nothing differs.")
        if found.incomparable:
            lines += [f"- **NOT COMPARABLE** {_code(found.incomparable)}", ""]
        for title, changes in self._sections():
            if not changes:
                continue
            folded = changes is not opened and title != _OPENED
            lines += [f"<details><summary>{title} ({len(changes)})</summary>", ""] if folded else [f"#### {title}", ""]
            for change in changes[:MOST_IN_A_COMMENT]:
                lines.append(f"- **{_WORDS[change.kind]}** {self._sentence(change, _code)}")
                lines += [f"  - {line}" for line in self._details(change, _code)]
            if len(changes) > MOST_IN_A_COMMENT:
                lines.append(f"- and {len(changes) - MOST_IN_A_COMMENT} more")
            lines += ["", "</details>", ""] if folded else [""]
        if found.model:
            lines += [f"- **MODEL** {_MODEL}", ""]
        for title, named in self._named():
            if named:
                listed = (f"- {_code(line)}" for line in _lines(named))
                more = "servers may say more" if found.opened and named is found.definitions else ""
                more = "less may be refused" if found.loosened and title in ("WORKFLOWS", "LABELS") else more
                if more:
                    lines += [f"#### {title}: {more} than before", "", *listed, ""]
                    continue
                lines += [f"<details><summary>{title}</summary>", "", *listed, "", "</details>", ""]
        return "\n".join([*lines, f"{_plural(found.same, 'line')} of `grants/` unchanged."])

    def document(self) -> dict[str, object]:
        """Everything, for programs."""
        found = self._found
        return {
            "before": found.before,
            "after": found.after,
            "grants": found.grants,
            "incomparable": found.incomparable or None,
            "changes": [self._change(change) for change in found.changes],
            **{title.lower().replace(" ", "_"): _named(named) for title, named in self._named()},
            "model_changed": found.model,
            "same_lines": found.same,
        }

    # --- parts

    def _sections(self) -> list[tuple[str, tuple[Change, ...]]]:
        """What surely opens, what may open, what closes, duties."""
        found = self._found
        opening = tuple(c for c in found.granting if c.opens is not None)
        resting = tuple(c for c in found.granting if c.opens is None)
        closing = tuple(c for c in found.taking if c.kind is not Kind.CHANGED)
        return [(_OPENED, opening), (_MAY_OPEN, resting), ("ALLOW → DENY", closing), ("DUTIES", found.duties)]

    def _named(self) -> list[tuple[str, Named]]:
        found = self._found
        return [
            ("ROLES", found.roles),
            ("TOOLS", found.tools),
            ("SETS", found.sets),
            ("TESTS", found.tests),
            ("WATCHED LINES", found.shadow),
            ("DEFINITIONS", found.definitions),
            ("WORKFLOWS", found.workflows),
            ("LABELS", found.labels),
        ]

    def _sentence(self, change: Change, show: Show) -> str:
        who = _some(change.who, show).replace("*", "everybody (*)", 1) if change.who == ("*",) else _some(change.who, show)
        what = f"{'/'.join(_spoken(change.actions))} {_some(change.tools, show)}"
        where = f"(tenant {show(change.tenant)})"
        if change.kind in (Kind.DUTY_ADDED, Kind.DUTY_REMOVED, Kind.DUTY_CHANGED):
            return f"{show(change.duty)} when {who}: {what} {where}"
        if change.effect == "deny":
            verb = {Kind.GAIN: "no longer forbidden for", Kind.LOSS: "now forbidden for"}.get(
                change.kind, "forbidden otherwise for"
            )
            return f"{verb} {who}: {what} {where}"
        verb = {Kind.GAIN: "may now", Kind.LOSS: "may no longer"}.get(change.kind, "may, under other terms,")
        return f"{who} {verb} {what} {where}"

    def _details(self, change: Change, show: Show) -> Iterator[str]:
        was = [self._line(rule, self._before, show) for rule in change.before]
        now = [self._line(rule, self._after, show) for rule in change.after]
        told = [*(f"was: {line}" for line in was if line not in now), *(f"now: {line}" for line in now if line not in was)]
        yield from told[: 2 * SHOWN] or (f"by {line}" for line in now[:SHOWN])
        if change.kind in (Kind.DUTY_ADDED, Kind.DUTY_REMOVED):
            return
        if change.newly is not None:
            yield f"newly {'due' if change.duty else 'let through'}, for example: {show(str(change.newly))}"
        if change.no_longer is not None:
            yield f"no longer {'due' if change.duty else 'let through'}, for example: {show(str(change.no_longer))}"
        if change.opens is not None and str(change.opens) != str(change.newly):
            yield f"denied before and allowed now, for example: {show(str(change.opens))}"
        if change.felt_by:
            yield f"felt by {_some(change.felt_by, show)}"
        elif change.opens is None and change.kind in (Kind.GAIN, Kind.WIDER):
            yield "turns no answer for these alone: another right is missing, or a deny line still stands"
        if change.proof is Proof.NONE:
            yield "no proof, example search only: there may be further cases"

    def _line(self, rule: Rule, bundle: Bundle, show: Show) -> str:
        condition = bundle.conditions[rule.when] if rule.when else None
        terms = f" when {show(spaced(condition.expression.text))}" if condition is not None else ""
        return f"{show(f'{rule.id} {rule.source}')} {show(rule.who)} {rule.effect} {show(rule.tool)} {rule.action}{terms}"

    def _change(self, change: Change) -> dict[str, object]:
        return {
            "kind": change.kind.value,
            "tenant": change.tenant,
            "who": list(change.who),
            "tools": list(change.tools),
            "actions": list(change.actions),
            "effect": change.effect,
            "duty": change.duty or None,
            "before": [self._rule(rule, self._before) for rule in change.before],
            "after": [self._rule(rule, self._after) for rule in change.after],
            "newly": None if change.newly is None else str(change.newly),
            "no_longer": None if change.no_longer is None else str(change.no_longer),
            "opens": None if change.opens is None else str(change.opens),
            "closes": None if change.closes is None else str(change.closes),
            "felt_by": list(change.felt_by),
            "proof": change.proof.value,
        }

    def _rule(self, rule: Rule, bundle: Bundle) -> dict[str, object]:
        condition = bundle.conditions[rule.when] if rule.when else None
        return {
            "id": rule.id,
            "source": str(rule.source),
            "who": rule.who,
            "tool": rule.tool,
            "action": rule.action,
            "condition": None if condition is None else condition.expression.text,
            "duty": rule.must,
        }


_MODEL = "model.conf changed: what every line means is decided there, so read it"
_OPENED = "DENY → ALLOW"
_MAY_OPEN = "MAY ALLOW MORE, together with other rights"


def _some(names: tuple[str, ...], show: Show) -> str:
    shown = ", ".join(show(name) for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _spoken(actions: tuple[str, ...]) -> Iterable[str]:
    """Whoever may do it may also cause it: `relay` is said alone."""
    return [action for action in actions if action != "relay"] or actions


def _lines(named: Named) -> Iterator[str]:
    for mark, names in (("+", named.added), ("-", named.removed), ("~", named.changed)):
        yield from (f"{mark} {name}" for name in names)


def _named(named: Named) -> dict[str, object]:
    return {"added": list(named.added), "removed": list(named.removed), "changed": list(named.changed)}


def _code(text: str) -> str:
    """Text as a code span: no markup, no mention, no HTML in it is anything but text."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def _plural(number: int, of: str) -> str:
    return f"{number} {of}{'' if number == 1 else 's'}"
