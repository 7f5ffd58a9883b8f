"""The shipped bundle denies whatever it does not name, and it names nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies import engine as engine_module
from policies.bundle import load, load_texts
from policies.engine import Engine
from policies.model import AccessRequest
from policies.testing import check_for_activation, read_tests

FOLDER = Path(engine_module.__file__).with_name("default")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load(FOLDER))


@pytest.mark.parametrize("action", ["call", "send", "read", "list"])
@pytest.mark.parametrize("resource", ["sandbox.run_python", "sandbox", "a2a:helper", "erp.read", "*"])
@pytest.mark.parametrize("arguments", [{"code": "1", "network": False, "memory_mb": 64}, {}, None])
@pytest.mark.parametrize("actors", [(), ("agent:researcher",)])
def test_nothing_is_allowed_and_nothing_is_shown(
    engine: Engine, action: str, resource: str, arguments: dict[str, object] | None, actors: tuple[str, ...]
) -> None:
    request = AccessRequest("user:dev/ada", actors, "default", action, resource, 0, frozenset({"engineering"}), arguments)
    decision = engine.decide(request)
    assert not decision.allowed
    assert not decision.visible


def test_it_takes_the_indexed_path(engine: Engine) -> None:
    assert engine.path == "indexed"


def test_its_examples_work_once_the_comment_marks_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "grants").mkdir()
    for path in FOLDER.rglob("*.*"):
        text = path.read_text()
        if path.suffix == ".csv":
            lines = text.splitlines()
            text = "\n".join(
                line[2:] if line[:4] in ("# p,", "# g,") and "who," not in line and "member," not in line else line
                for line in lines
            )
        elif path.parent.name == "tests":
            text = re.sub(r"^  # (ada:|- )", r"  \1", text, flags=re.MULTILINE)
        (tmp_path / path.relative_to(FOLDER)).parent.mkdir(exist_ok=True)
        (tmp_path / path.relative_to(FOLDER)).write_text(text)
    engine = Engine(load(tmp_path))
    assert len(read_tests(engine.bundle).cases) == 3
    assert check_for_activation(engine.bundle, engine) == []
    call = {"code": "1", "network": False, "memory_mb": 64}
    request = AccessRequest(
        "user:dev/ada", ("agent:researcher",), "default", "call", "sandbox.run_python", 0, frozenset({"engineering"}), call
    )
    decision = engine.decide(request)
    assert decision.allowed
    assert [duty.name for duty in decision.obligations] == ["sandbox-strict", "full-audit"]


def test_it_goes_live_as_it_is_and_not_with_a_grant_that_no_row_speaks_of() -> None:
    texts = dict(load(FOLDER).texts)
    bundle = load_texts(texts)
    assert check_for_activation(bundle, Engine(bundle)) == []
    grant = "p, idp:engineering, default, sandbox.run_python, call, allow, no-network, -, ENG-1\n"
    granting = load_texts(texts | {"grants/people.csv": grant})
    assert [found.code for found in check_for_activation(granting, Engine(granting))] == ["no-proven-denial"]
    everybody = load_texts(texts | {"grants/people.csv": grant.replace("idp:engineering", "*")})
    assert {found.code for found in check_for_activation(everybody, Engine(everybody))} == {"test-failed", "invariant-broken"}


def test_it_and_the_example_share_one_model() -> None:
    example = FOLDER.parents[1] / "examples" / "procurement" / "policies" / "model.conf"
    assert example.read_text() == (FOLDER / "model.conf").read_text()
