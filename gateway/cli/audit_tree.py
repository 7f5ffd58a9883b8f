"""A workflow's tree for a terminal: who asked whom for what, who decided, what was received and returned."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from audit.trace import CallFacts, Node, Shown, Story
from gateway.cli.output import printable

WIDTH = 160
_STYLE = {"allow": "green", "deny": "bold red"}


def draw(story: Story, *, values: bool = True) -> Tree:
    """The tree; `values` adds what was received and returned."""
    root = Tree(
        Text.assemble(
            (printable(story.root.name or "nobody"), "bold"),
            (f"   workflow {story.workflow}: {story.allowed} allowed, {story.denied} denied, {story.open} open", "dim"),
        )
    )
    for child in story.root.children:
        _add(root, child, values=values)
    return root


def _add(tree: Tree, node: Node, *, values: bool) -> None:
    branch = tree.add(Text(printable(node.name), style="bold") if node.call is None else _head(node.call))
    if node.call is not None:
        for line in _details(node.call, values=values):
            branch.add(line)
    for child in node.children:
        _add(branch, child, values=values)


def _head(call: CallFacts) -> Text:
    took = f"  {call.latency_us / 1000:.1f} ms" if call.latency_us is not None else ""
    outcome = "" if call.outcome == "refused" else f" → {call.outcome}"
    return Text.assemble(
        (printable(call.by), "cyan"),
        f"  {printable(call.action or call.method)} ",
        (printable(call.resource or call.target), "bold"),
        (f" ({printable(call.method)})", "dim"),
        "  ",
        ("ALLOWED" if call.effect == "allow" else "DENIED", _STYLE[call.effect]),
        f" {printable(call.reason)}" if call.effect == "deny" else "",
        outcome,
        (took, "dim"),
        (f"  {call.id}", "dim"),
    )


def _details(call: CallFacts, *, values: bool) -> list[Text]:
    lines = []
    for asked in call.asked:
        rules = ", ".join(f"{rule.rule} {rule.source}" for rule in asked.rules)
        near = ", ".join(f"{rule.rule} {rule.source}" for rule in asked.near)
        said = rules or ("" if asked.allowed else "no rule grants it")
        if near:
            said += f" (near: {near})"
        mark, style = ("✓", "green") if asked.allowed else ("✗", "bold red")
        lines.append(Text.assemble((mark, style), printable(f" {asked.who} may {asked.action}? {said}").rstrip()))
    if call.obligations:
        lines.append(Text(f"duties: {', '.join(call.obligations)}", style="dim"))
    if call.explanation is not None and call.explanation.state == "shown":
        lines.append(Text(printable(call.explanation.text), style="italic"))
    if values:
        lines += [_value(label, shown) for label, shown in (("received", call.request), ("returned", call.response)) if shown]
    return lines


def _value(label: str, shown: Shown) -> Text:
    if shown.state != "shown":
        return Text(f"{label}: [{shown.state}, {shown.size} bytes]", style="dim")
    text = " ".join(printable(shown.text).split())
    cut = f"… ({shown.size} bytes)" if shown.cut or len(text) > WIDTH else ""
    return Text(f"{label}: {text[:WIDTH]}{cut}", style="dim")
