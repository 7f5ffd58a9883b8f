"""deploy/compose.yaml: what can go round the gateway is not governed, so nothing can."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

COMPOSE = Path(__file__).resolve().parents[2] / "deploy" / "compose.yaml"


def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(COMPOSE.read_text())


def ways_round(spec: dict[str, Any]) -> list[str]:
    """Every way in which an agent or a tool could reach something that is not the gateway, or be reached by it."""
    services = spec["services"]
    role = {name: service.get("labels", {}).get("bailiwick.role") for name, service in services.items()}
    found = [f"{name} has no role" for name in services if role[name] not in {"gateway", "agent", "tool"}]
    for name, service in services.items():
        if role[name] == "gateway":
            continue
        if service.get("network_mode") or not service.get("networks"):
            found.append(f"{name} is on a default or host network")
        for network in service.get("networks", ()):
            if spec["networks"].get(network, {}).get("internal") is not True:
                found.append(f"{name} has a way out by {network}")
            others = [other for other in services if other != name and network in services[other].get("networks", ())]
            found += [f"{name} reaches {other} by {network}" for other in others if role[other] != "gateway"]
        found += [f"{name} publishes a port" for _ in service.get("ports", ())]
        found += [f"{name} mounts the engine's socket" for v in service.get("volumes", ()) if "docker.sock" in str(v)]
        if role[name] == "agent" and service.get("secrets"):
            found.append(f"{name} is given a secret of a tool")
    return found


def test_agents_and_tools_reach_the_gateway_and_nothing_else() -> None:
    assert ways_round(compose()) == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda spec: spec["services"]["erp-integration"]["networks"].append("tool-erp"),
        lambda spec: spec["services"]["erp-integration"]["networks"].append("edge"),
        lambda spec: spec["networks"]["tool-erp"].update(internal=False),
        lambda spec: spec["services"]["erp-integration"].pop("networks"),
        lambda spec: spec["services"]["erp"].update(ports=["9001:9001"]),
        lambda spec: spec["services"]["erp-integration"].update(secrets=["erp-token"]),
        lambda spec: spec["services"]["erp-integration"].update(network_mode="host"),
    ],
)
def test_the_check_finds_every_way_round_that_a_mistake_opens(mistake: Any) -> None:
    spec = copy.deepcopy(compose())
    mistake(spec)
    assert ways_round(spec) != []


def test_the_gateway_runs_read_only_without_capabilities() -> None:
    gateway = compose()["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in gateway["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])
    assert [v for v in gateway["volumes"] if not v.endswith(":ro")] == ["data:/var/lib/bailiwick"]
