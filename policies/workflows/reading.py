"""Reads workflows/*.yaml: strictly, each rule with its place; a rule that says less than it seems to is a finding."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal

from policies import names
from policies.finding import Report
from policies.membership import Membership
from policies.model import Source
from policies.reading import Item, read_yaml
from policies.registry import Registry
from policies.rules import Rule as Grant
from policies.workflows import checks
from policies.workflows.model import (
    KEYWORDS,
    SCOPES,
    Before,
    Bind,
    Budget,
    Coordinator,
    Distinct,
    Locked,
    Once,
    Only,
    Rule,
    Steps,
    Taint,
    Within,
    Workflow,
    Workflows,
)
from policies.workflows.terms import Words, World

FOLDER: Final = "workflows/"
MAX_RULES: Final = 500
"""Rules of one workflow."""
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TOP: Final = ("workflow", "tenants", "mode", "binds", *KEYWORDS)


def read_workflows(
    texts: Mapping[str, str], registry: Registry, roles: tuple[Membership, ...], grants: Iterable[Grant], report: Report
) -> Workflows:
    """Every workflow of a bundle, by name, in the order of their files."""
    found: dict[str, Workflow] = {}
    world: World | None = None
    for file in sorted(name for name in texts if name.startswith(FOLDER)):
        world = world or World.of(registry, roles, _named(grants))
        workflow = _File(file, texts[file], world, report).read()
        if workflow is None:
            continue
        if workflow.name in found:
            message = f"the workflow '{workflow.name}' stands in {found[workflow.name].source.file} already"
            report.add("duplicate-id", (file, workflow.source.line, 1), message, "give this one a name of its own")
        found[workflow.name] = workflow
    return MappingProxyType(found)


def _named(grants: Iterable[Grant]) -> frozenset[str]:
    """Whoever grants are about, and whoever they let be sent to."""
    cells = [(grant.who, grant.tool) for grant in grants]
    sent = {f"agent:{tool.removeprefix('a2a:')}" for _, tool in cells if tool.startswith("a2a:") and not tool.endswith("*")}
    return frozenset(who for who, _ in cells) | sent


class _File:
    """One workflow."""

    def __init__(self, file: str, text: str, world: World, report: Report) -> None:
        self._top = Words(file, read_yaml(file, text, report), world, report, "a workflow")
        self._digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
        self._ids: dict[str, Source] = {}
        self._name = ""

    def read(self) -> Workflow | None:
        top = self._top
        top.only(*_TOP)
        self._name = top.text("workflow") or "" if top.needs("workflow") is not None else ""
        if not self._name:
            return None
        if not names.SLUG.fullmatch(self._name):
            help_ = "lower-case letters, digits and hyphens"
            top.wrong("odd-name", top.found["workflow"], f"'{self._name[:60]}' is no name of a workflow", help_)
            return None
        rules = tuple(rule for keyword in KEYWORDS for rule in self._rules(keyword))
        if not rules and not top.report:
            top.wrong("empty-workflow", top.item, f"the workflow '{self._name}' has no rules", "write one, or remove the file")
        binds = self._binds(rules)
        workflow = Workflow(
            name=self._name,
            digest=self._digest,
            tenants=self._tenants(),
            shadow=top.word("mode", ("enforce", "shadow"), "enforce") == "shadow",
            binds=binds,
            rules=rules,
            source=Source(top.file, 1),
        )
        if not top.report:
            checks.check(workflow, top.world, top.report)
        return workflow

    def _tenants(self) -> frozenset[str]:
        item, known = self._top.found.get("tenants"), self._top.world.registry.tenants
        if item is None:
            return known
        chosen = set()
        for each in self._top.listed(item, "'tenants'"):
            if each.value in known:
                chosen.add(str(each.value))
            else:
                self._top.wrong("unknown-tenant", each, f"there is no tenant '{str(each.value)[:60]}'")
        return frozenset(chosen)

    def _binds(self, rules: Iterable[Rule]) -> tuple[Bind, ...]:
        """As written; where nothing is, every step that a rule names outright: nobody gets around a rule by not beginning it."""
        item = self._top.found.get("binds")
        if item is None:
            for rule in rules:
                if isinstance(rule, Locked | Only | Coordinator):
                    place = Item(None, rule.source.line, rule.source.column)
                    message = f"'{rule.keyword}' is about every call of a workflow, and nothing says which calls those are"
                    help_ = "add 'binds: [{agent: agent:<id>}]', or 'binds: []' where it counts for workflows begun by name alone"
                    self._top.wrong("unbound-workflow", place, message, help_)
            return tuple(Bind(steps, None) for steps in dict.fromkeys(checks.named_in(rules)))
        found = []
        for words in self._each(item, "'binds'"):
            words.only("tool", "agent")
            steps = words.steps("tool") if "tool" in words.found else None
            agent = words.by("agent")
            if not words.found:
                words.wrong("missing-key", words.item, "this binds nothing", "name a tool, an agent, or both")
            elif steps is not None or agent is not None:
                found.append(Bind(steps, agent))
        return tuple(found)

    def _each(self, item: Item, what: str) -> Iterator[Words]:
        top = self._top
        if item.value is None or (item.is_list and not item.value):
            return
        if not item.is_list:
            top.wrong("wrong-type", item, f"{what} must be a list", "every entry starts with '- '")
            return
        if len(item.value) > MAX_RULES:
            top.wrong("too-large", item, f"more than {MAX_RULES} entries")
            return
        for each in item.value:
            yield Words(top.file, each, top.world, top.report, f"an entry of {what}")

    def _rules(self, keyword: str) -> Iterator[Rule]:
        item = self._top.found.get(keyword)
        if item is None:
            return
        if keyword == "only":
            yield from self._only(item)
            return
        read: Callable[[Words, str], Iterable[Rule | None]] = getattr(self, f"_{keyword}")
        for number, words in enumerate(self._each(item, f"'{keyword}'"), 1):
            rule_id = self._id(words, keyword, number)
            yield from (rule for rule in read(words, rule_id) if rule is not None)

    def _id(self, words: Words, keyword: str, number: int) -> str:
        given = words.text("id")
        rule_id = f"{self._name}/{given or f'{keyword}-{number}'}"
        if given is not None and not _ID.fullmatch(given):
            words.wrong("odd-name", words.found["id"], f"'{given[:60]}' is no id", "letters, digits, '-', '.' and '_'")
        if rule_id in self._ids:
            message = f"the id '{rule_id}' is taken by {self._ids[rule_id]}"
            words.wrong("duplicate-id", words.item, message, "give this rule an id of its own")
        self._ids[rule_id] = words.source
        return rule_id

    # --- one method a keyword: the rules that an entry says

    def _before(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("tool", "needs", "by", "same", "within", "result", "id")
        tool, needs = words.steps("tool"), words.steps("needs")
        if tool is None or needs is None:
            return ()
        by, same, seconds, bound = words.by("by"), words.same((tool,), (needs,)), words.seconds("within"), words.bound()
        return (Before("before", rule_id, words.source, tool, needs, by, same, seconds, bound),)

    def _within(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("tool", "after", "time", "id")
        tool, after = words.steps("tool"), words.steps("after") if "after" in words.found else None
        seconds = words.seconds("time") if words.needs("time") is not None else None
        return () if tool is None or seconds is None else (Within("within", rule_id, words.source, tool, seconds, after),)

    def _locked(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("steps", "id")
        steps = words.many("steps", 2)
        return (Locked("locked", rule_id, words.source, steps),) if steps else ()

    def _once(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("tool", "same", "id")
        tool = words.steps("tool")
        return () if tool is None else (Once("once", rule_id, words.source, tool, words.same((tool,), (tool,))),)

    def _distinct(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("steps", "of", "same", "id")
        steps, of = words.many("steps", 2), words.word("of", ("agent", "person"), "agent")
        same = words.same(steps, steps)
        if of == "person" and not same:
            message = "a workflow is one person's: to tell persons apart, steps of several workflows must be about the same thing"
            words.wrong("missing-key", words.item, message, "add 'same: …', the argument that names the thing")
            return ()
        if any(own != theirs for own, theirs in same):
            words.wrong("wrong-type", words.found["same"], "every step has the argument under one name", "write 'same: [a, b]'")
            return ()
        if not steps:
            return ()
        return (Distinct("distinct", rule_id, words.source, steps, "person" if of == "person" else "agent", same),)

    def _budget(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("tool", "by", "count", "sum", "max", "per", "id")
        tool = words.steps("tool")
        if tool is None:
            return ()
        count, most = words.count("count"), words.number("max")
        total = words.argument("sum", tool, ("number", "integer"))
        if "count" not in words.found and "sum" not in words.found:
            words.wrong("missing-key", words.item, "the budget counts nothing", "add 'count: …', or 'sum: …' and 'max: …'")
        if ("sum" in words.found) != ("max" in words.found):
            words.wrong("missing-key", words.item, "'sum' and 'max' go together", "name the argument, and what it may come to")
        if most is not None and most <= 0:
            help_ = "deny the call in grants/, if that is meant"
            words.wrong("unmeetable-rule", words.found["max"], f"of a budget of {most} nothing can be spent", help_)
        return (Budget("budget", rule_id, words.source, tool, self._per(words), words.by("by"), count, total, most),)

    def _per(self, words: Words) -> tuple[str, ...]:
        item = words.found.get("per")
        if item is None:
            return ("workflow",)
        chosen = [str(each.value) for each in words.listed(item, "'per'")]
        for each in chosen:
            if each not in SCOPES:
                words.wrong("unknown-word", item, f"per '{each[:60]}' is not known", f"known are {', '.join(SCOPES)}")
        if chosen and not {"workflow", "day"} & set(chosen):
            words.wrong("endless-budget", item, "such a budget would never begin anew", "add 'day' or 'workflow'")
        return tuple(scope for scope in SCOPES if scope in chosen)

    def _only(self, item: Item) -> Iterable[Rule]:
        top = self._top
        steps = [top.step(each) for each in top.listed(item, "'only'")]
        source = Source(top.file, item.line, item.column)
        known = tuple(each for each in steps if each is not None)
        return (Only("only", f"{self._name}/only-1", source, known),) if known and all(steps) else ()

    def _chain(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("steps", "same", "within", "id")
        steps = words.many("steps", 2)
        same, seconds = words.same(steps, steps), words.seconds("within")
        return [Before("chain", rule_id, words.source, after, first, None, same, seconds) for first, after in pairwise(steps)]

    def _parallel(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("steps", "then", "same", "within", "id")
        steps, then = words.many("steps", 2), words.steps("then")
        if not steps or then is None:
            return ()
        same, seconds = words.same((then,), steps), words.seconds("within")
        return [Before("parallel", rule_id, words.source, then, step, None, same, seconds) for step in steps]

    def _coordinator(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("agent", "calls", "id")
        agent = words.by("agent") if words.needs("agent") is not None else None
        calls = words.many("calls")
        for steps in calls:
            if not _all_agents(steps):
                words.wrong("unknown-step", words.found["calls"], f"'{steps.text}' is no agent", "write a2a:<agent> or a2a:*")
                return ()
        return () if agent is None or not calls else (Coordinator("coordinator", rule_id, words.source, agent, calls),)

    def _taint(self, words: Words, rule_id: str) -> Iterable[Rule | None]:
        words.only("after", "deny", "of", "within", "unless", "cleared", "must", "id")
        after, deny = words.labels("after"), words.labels("deny")
        of, seconds = words.word("of", ("workflow", "person"), "workflow"), words.seconds("within")
        if (of == "person") != ("within" in words.found):
            message = "'of: person' and 'within' go together: labels of a workflow are kept to its end, a person has none"
            words.wrong("missing-key", words.item, message, "add 'within: 8h' and 'of: person', or neither")
        if not after or not deny:
            return ()
        objects = [words.world.registry.labels.objects(label) for label in deny]
        sinks = Steps(
            " or ".join(deny),
            frozenset(name for each in objects for name in each.names),
            tuple(dict.fromkeys(start for each in objects for start in each.beginnings)),
        )
        cleared = self._cleared(words, rule_id, sinks)
        scope: Literal["workflow", "person"] = "person" if of == "person" else "workflow"
        return (Taint("taint", rule_id, words.source, after, sinks, scope, seconds, words.unless(), cleared, words.must()),)

    def _cleared(self, words: Words, rule_id: str, sinks: Steps) -> tuple[Before, ...]:
        """Steps that vouch for what is sent, by its very arguments: one that vouched for nothing certain would let all out."""
        item = words.found.get("cleared")
        if item is None:
            return ()
        found: list[Before] = []
        for each in words.listed(item, "'cleared'"):
            one = Words(words.file, each, words.world, words.report, "an entry of 'cleared'")
            one.only("tool", "needs", "by", "same", "within", "result")
            tool = one.steps("tool") if "tool" in one.found else sinks
            needs = one.steps("needs")
            if tool is None or needs is None or one.needs("same") is None:
                continue
            same = one.same((tool,), (needs,))
            parts = tool, needs, one.by("by"), same, one.seconds("within"), one.bound()
            found += [Before("taint", rule_id, one.source, *parts)] if same else []
        return tuple(found)


def _all_agents(steps: Steps) -> bool:
    return all(name.startswith("a2a:") for name in (*steps.names, *steps.beginnings))
