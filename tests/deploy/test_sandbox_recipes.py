"""deploy/: whoever runs code that nobody trusts is given nothing but what that takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
Spec = dict[str, Any]


def compose() -> Spec:
    """Both files, as `docker compose -f … -f …` puts them together, as far as it matters here."""
    whole, more = (YAML(typ="safe").load((DEPLOY / name).read_text()) for name in ("compose.yaml", "compose.sandbox.yaml"))
    whole["services"]["gateway"]["volumes"] += more["services"]["gateway"].pop("volumes")
    assert more["services"].pop("gateway") == {}
    whole["services"] |= more["services"]
    whole["volumes"] |= more["volumes"]
    return whole


def documents(name: str) -> list[Spec]:
    return list(YAML(typ="safe").load_all((DEPLOY / "kubernetes" / name).read_text()))


def too_much_in_compose(spec: Spec) -> list[str]:
    runner = spec["services"]["sandbox-runner"]
    found = []
    if runner.get("network_mode") != "none" or runner.get("networks") or runner.get("ports"):
        found.append("a network")
    if runner.get("secrets") or runner.get("environment") or runner.get("env_file") or runner.get("configs"):
        found.append("what may be a secret")
    if runner.get("volumes") != ["runner:/run/bailiwick"]:
        found.append("a volume beside the socket's")
    if not runner.get("read_only") or runner.get("cap_drop") != ["ALL"] or runner.get("cap_add") or runner.get("privileged"):
        found.append("rights")
    if "no-new-privileges:true" not in runner.get("security_opt", ()) or len(runner["security_opt"]) != 1:
        found.append("new privileges")
    if runner.get("pid") or runner.get("ipc") or runner.get("userns_mode") or runner.get("devices"):
        found.append("the host's")
    if str(runner.get("user", "0")).split(":")[0] in ("0", "root", "10001"):
        found.append("a user that is root's or the gateway's")
    if not runner.get("mem_limit") or runner.get("memswap_limit") != runner["mem_limit"] or not runner.get("pids_limit"):
        found.append("no limit")
    if "--allow-uid" not in runner["command"] or runner["command"][runner["command"].index("--allow-uid") + 1] != "10001":
        found.append("anybody at the socket")
    return found


COMPOSE_MISTAKES: list[Callable[[Spec], Any]] = [
    lambda runner: runner.update(network_mode="bridge"),
    lambda runner: runner.update(networks=["edge"]),
    lambda runner: runner.update(secrets=["erp-token"]),
    lambda runner: runner.update(environment={"TOKEN": "x"}),
    lambda runner: runner["volumes"].append("data:/var/lib/bailiwick"),
    lambda runner: runner["volumes"].append("/var/run/docker.sock:/var/run/docker.sock"),
    lambda runner: runner.update(read_only=False),
    lambda runner: runner.update(cap_add=["SYS_ADMIN"]),
    lambda runner: runner.update(privileged=True),
    lambda runner: runner["security_opt"].append("seccomp:unconfined"),
    lambda runner: runner.update(user="10001:10001"),
    lambda runner: runner.update(pid="host"),
    lambda runner: runner.pop("mem_limit"),
    lambda runner: runner.update(memswap_limit="6g"),
    lambda runner: runner.update(pids_limit=0),
]


def test_the_runner_of_the_compose_file_has_no_network_no_secret_and_no_right() -> None:
    assert too_much_in_compose(compose()) == []
    gateway = compose()["services"]["gateway"]
    assert "runner:/run/bailiwick:ro" in gateway["volumes"]


@pytest.mark.parametrize("mistake", COMPOSE_MISTAKES)
def test_the_check_finds_whatever_a_mistake_in_the_compose_file_gives(mistake: Callable[[Spec], Any]) -> None:
    spec = copy.deepcopy(compose())
    mistake(spec["services"]["sandbox-runner"])
    assert too_much_in_compose(spec) != []


def too_much_in_pod(pod: Spec, container: Spec, secrets: set[str]) -> list[str]:
    found = []
    if pod.get("automountServiceAccountToken") is not False or pod.get("serviceAccountName"):
        found.append("a token of the cluster")
    if any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")):
        found.append("the host's, or the other container's, processes or network")
    context = pod.get("securityContext", {}) | container.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser") in (None, 0, 10001):
        found.append("a user that is root's or the gateway's")
    if (
        context.get("allowPrivilegeEscalation") is not False
        or context.get("privileged")
        or not context.get("readOnlyRootFilesystem")
    ):
        found.append("rights")
    if context.get("capabilities") != {"drop": ["ALL"]} or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("capabilities or system calls")
    if not container.get("resources", {}).get("limits", {}).get("memory"):
        found.append("no limit of memory")
    if container.get("env") or container.get("envFrom"):
        found.append("what may be a secret")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        if volume["name"] in mounted and "emptyDir" not in volume and volume.get("secret", {}).get("secretName") not in secrets:
            found.append(f"the volume {volume['name']}")
        if volume["name"] in mounted and volume.get("emptyDir") is not None and not volume["emptyDir"].get("sizeLimit"):
            found.append(f"no limit of {volume['name']}")
    return found


def runner_in(spec: Spec, name: str) -> tuple[Spec, Spec]:
    pod = spec["spec"]["template"]["spec"]
    return pod, next(each for each in pod["containers"] if each["name"] == name)


def test_the_runners_own_pod_has_nothing_but_its_own_certificate() -> None:
    deployment, service, policy = documents("sandbox-runner.yaml")
    pod, runner = runner_in(deployment, "runner")
    assert too_much_in_pod(pod, runner, {"sandbox-runner-tls"}) == []
    assert len(pod["containers"]) == 1
    assert "--allow-name=bailiwick-gateway" in runner["args"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels
    rules = policy["spec"]
    assert rules["podSelector"]["matchLabels"] == labels
    assert (set(rules["policyTypes"]), rules["egress"]) == ({"Ingress", "Egress"}, [])
    (ingress,) = rules["ingress"]
    assert ingress["from"] == [{"podSelector": {"matchLabels": {"app": "bailiwick-gateway"}}}]
    assert [port["port"] for port in ingress["ports"]] == [7443]


def test_the_side_car_has_nothing_but_the_socket_and_its_scratch() -> None:
    (deployment,) = documents("sandbox-sidecar.yaml")
    pod, runner = runner_in(deployment, "sandbox-runner")
    assert too_much_in_pod(pod, runner, set()) == []
    _, gateway = runner_in(deployment, "gateway")
    shared = {mount["name"] for mount in runner["volumeMounts"]} & {mount["name"] for mount in gateway["volumeMounts"]}
    assert shared == {"runner"}
    assert gateway["securityContext"]["runAsUser"] == 10001
    assert "--allow-uid=10001" in runner["args"]


POD_MISTAKES: list[Callable[[Spec, Spec], Any]] = [
    lambda pod, _: pod.pop("automountServiceAccountToken"),
    lambda pod, _: pod.update(serviceAccountName="admin"),
    lambda pod, _: pod.update(hostNetwork=True),
    lambda pod, _: pod.update(hostPID=True),
    lambda pod, _: pod.update(shareProcessNamespace=True),
    lambda pod, _: pod["securityContext"].update(seccompProfile={"type": "Unconfined"}),
    lambda _, runner: runner["securityContext"].update(runAsUser=10001),
    lambda _, runner: runner["securityContext"].update(privileged=True),
    lambda _, runner: runner["securityContext"].update(readOnlyRootFilesystem=False),
    lambda _, runner: runner["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    lambda _, runner: runner["resources"]["limits"].pop("memory"),
    lambda _, runner: runner.update(env=[{"name": "TOKEN", "value": "x"}]),
    lambda _, runner: runner["volumeMounts"].append({"name": "data", "mountPath": "/data"}),
    lambda _, runner: runner["volumeMounts"].append({"name": "config", "mountPath": "/etc/bailiwick"}),
]


@pytest.mark.parametrize("mistake", POD_MISTAKES)
def test_the_check_finds_whatever_a_mistake_in_a_pod_gives(mistake: Callable[[Spec, Spec], Any]) -> None:
    (deployment,) = documents("sandbox-sidecar.yaml")
    pod, runner = runner_in(deployment, "sandbox-runner")
    mistake(pod, runner)
    assert too_much_in_pod(pod, runner, set()) != []


@pytest.mark.parametrize(("place", "user"), [("compose", "10002"), ("sandbox-sidecar.yaml", "10002")])
def test_the_settings_that_a_recipe_names_are_settings(place: str, user: str) -> None:
    from gateway.settings import Settings

    text = (DEPLOY / ("compose.sandbox.yaml" if place == "compose" else f"kubernetes/{place}")).read_text()
    line = next(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#   sandbox: {"))
    settings = Settings.model_validate(YAML(typ="safe").load(line))
    assert settings.sandbox.runner is not None
    assert str(settings.sandbox.runner.uid) == user


def test_the_settings_of_the_pod_of_its_own_are_settings() -> None:
    from gateway.settings import Settings

    lines = (DEPLOY / "kubernetes/sandbox-runner.yaml").read_text().splitlines()
    start = lines.index("#   sandbox:")
    block = "\n".join(line.removeprefix("#") for line in lines[start : start + 6])
    settings = Settings.model_validate(YAML(typ="safe").load(block))
    assert settings.sandbox.runner is not None
    assert settings.sandbox.runner.tls is not None
    assert (settings.sandbox.runner.tls.host, settings.sandbox.runner.tls.port) == ("sandbox-runner", 7443)
