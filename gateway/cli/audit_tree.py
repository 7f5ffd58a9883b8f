"""A workflow's tree for a terminal: who asked whom for what, who decided, what was received and returned."""

from __future__ import annotations

from rich.text import Text
from rich.tree import Tree

from audit.trace import Asked, CallFacts, Node, RunFacts, Shown, Story
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
    took += f"  {call.chunks} streamed" if call.chunks else ""
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
    lines = [Text(call.joined, style="yellow")] if call.joined else []
    for asked in call.asked:
        rules = ", ".join(f"{rule.rule} {rule.source}" for rule in asked.rules)
        near = ", ".join(f"{rule.rule} {rule.source}" for rule in asked.near)
        said = rules or ("" if asked.allowed else "no rule grants it")
        if near:
            said += f" (near: {near})"
        mark, style = ("✓", "green") if asked.allowed else ("✗", "bold red")
        lines.append(Text.assemble((mark, style), printable(f" {asked.who} may {_what(asked)}? {said}").rstrip()))
    if call.run is not None:
        lines.append(_run(call.run))
    if call.obligations:
        lines.append(Text(f"duties: {', '.join(call.obligations)}", style="dim"))
    if call.explanation is not None and call.explanation.state == "shown":
        lines.append(Text(printable(call.explanation.text), style="italic"))
    if values:
        lines += [_value(label, shown) for label, shown in (("received", call.request), ("returned", call.response)) if shown]
    return lines


def _what(asked: Asked) -> str:
    return f"{asked.action} {asked.resource}".rstrip()


def _run(run: RunFacts) -> Text:
    """How its code ran: where, how it ended, what was proven, and what it did through the gateway."""
    if run.missing:
        lacking = ", ".join(f"{name} ({how})" for name, how in run.missing.items())
        return Text(printable(f"ran nothing: {run.profile} is not proven here: {lacking}"), style="bold red")
    hard = sum(strength == "hard" for strength in run.guarantees.values())
    said = [
        f"{run.language} {run.code_sha256[:12]} under {run.profile} by {run.backend or 'nobody'}: {run.reason or 'under way'}"
    ]
    if run.wall_ms is not None:
        said.append(f"{run.wall_ms} ms")
    if run.guarantees:
        said.append(f"{len(run.guarantees)} guarantees proven, {hard} of them hard")
    said += [f"{count} {what}" for count, what in ((run.files, "files"), (run.connections, "connections")) if count]
    if run.calls:
        said.append(f"{run.calls} calls back, {run.refused} of them refused")
    return Text(printable("ran " + "; ".join(said)), style="dim")


def _value(label: str, shown: Shown) -> Text:
    if shown.state != "shown":
        return Text(f"{label}: [{shown.state}, {shown.size} bytes]", style="dim")
    text = " ".join(printable(shown.text).split())
    cut = f"… ({shown.size} bytes)" if shown.cut or len(text) > WIDTH else ""
    return Text(f"{label}: {text[:WIDTH]}{cut}", style="dim")
