"""Which lists a change of policy changes: seen from the policies alone, whatever the servers have."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from gateway.mcp.lists import asking
from gateway.model import Principal
from gateway.policy.in_force import Pair, Policy
from gateway.policy.listed import listed
from policies.bundle import load_texts
from policies.engine import Engine
from tests.conformance.world import Granting, tools_of
from tests.mcp.world import modern_body, modern_headers, reference_server

MODEL = (Path(__file__).parents[2] / "policies" / "default" / "model.conf").read_text()
TOOLS = """
tenants: [acme]
tools:
  erp.read: {args: {}, risk: low}
  erp.write: {args: {}, risk: low}
  crm.read: {args: {}, risk: low}
"""
PAUL = Principal("user:dev/paul", (), "acme", "wf-1", 0, "bearer", "0" * 64)


def policy(*rows: str) -> Policy:
    """The rules of one person."""
    texts = {
        "model.conf": MODEL,
        "tools.yaml": TOOLS,
        "conditions.yaml": "{}\n",
        "obligations.yaml": "{}\n",
        "roles.csv": "",
        "grants/all.csv": "".join(f"p, user:dev/paul, acme, {row}, allow, -, -, R-{n}\n" for n, row in enumerate(rows)),
    }
    bundle = load_texts(texts)
    return Policy(Pair(bundle, Engine(bundle), 0))


def changed(before: Policy, after: Policy, server: str = "erp") -> set[str]:
    one, other = [asking(each.active.engine.decide, lambda: 0) for each in (before, after)]
    return {kind for kind, name in listed((before, after))(server) if one(PAUL, name) != other(PAUL, name)}


CASES = [
    (("erp.read, call",), ("erp.read, call", "erp.write, call"), {"tools"}),
    (("erp.read, call", "erp.write, call"), ("erp.read, call",), {"tools"}),
    (("erp.read, call", "crm.read, call"), ("erp.read, call",), set()),
    (("res:erp/*, read",), ("res:erp/file:///data/*, read",), {"resources"}),
    (("res:erp/file:///data/a, read",), ("res:erp/file:///data/b, read",), {"resources"}),
    (("prompt:erp/one, get",), ("prompt:erp/one, get", "prompt:erp/two, get"), {"prompts"}),
    (("prompt:erp/*, get",), ("prompt:erp/one, get",), {"prompts"}),
    (("prompt:crm/*, get",), ("prompt:crm/one, get",), set()),
    (("res:erp/*, read", "res:erp/file:///data/a, read"), ("res:erp/*, read",), set()),
]


@pytest.mark.parametrize(("before", "after", "kinds"), CASES)
def test_a_caller_is_told_of_the_lists_that_changed_for_it_and_of_no_other(
    before: tuple[str, ...], after: tuple[str, ...], kinds: set[str]
) -> None:
    assert changed(policy(*before), policy(*after)) == kinds


def test_a_folder_of_policy_that_changes_is_told_on_a_stream_of_the_real_gateway(tmp_path: Path) -> None:
    body = modern_body("subscriptions/listen", "l", notifications={"toolsListChanged": True, "promptsListChanged": True})
    with reference_server() as url:
        gateway = Granting(tmp_path, {"ref": {"url": url}}, {"ref": tools_of(url)}).start()
        try:
            headers = modern_headers("subscriptions/listen") | {"authorization": f"Bearer {gateway.keeper()()}"}
            where = f"{gateway.url}/mcp/ref"
            with httpx.stream("POST", where, json=body, headers=headers, trust_env=False, timeout=60) as answer:
                lines = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
                assert next(lines)["method"] == "notifications/subscriptions/acknowledged"
                grants = tmp_path / "policies" / "grants" / "all.csv"
                kept = [line for line in grants.read_text().splitlines() if "prompt:" not in line]
                grants.write_text("\n".join(kept) + "\n")
                assert next(lines)["method"] == "notifications/prompts/list_changed"
        finally:
            gateway.stop()
