"""What history keeps of a step beside its columns, as JSON and back: the same in the state store and in the ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

from policies.workflows.story import State, Step, Value


def begun(step: Step) -> str:
    """What is known of a step when it is reserved."""
    said: dict[str, object] = {
        "held": sorted(step.held),
        "marks": dict(step.marks),
        "sums": {name: str(each) for name, each in step.sums.items()},
    }
    said |= {"labels": list(step.labels)} if step.labels else {}
    return _dumps(said | ({"joins": list(step.joins)} if step.joins else {}))


def results(of: Mapping[str, Value]) -> str:
    """What is known of its result."""
    return _dumps({name: {"n": str(value)} if isinstance(value, Decimal) else value for name, value in of.items()})


def task(mark: str) -> str:
    """What is known of a step whose call became a task, in place of a result."""
    return _dumps({"task": mark})


def settled(steps: Iterable[Step]) -> str:
    """What is known of the results of steps that another call's answer settles; "" where nothing is."""
    found = {step.id: json.loads(results(step.results)) for step in steps if step.results}
    return _dumps(found) if found else ""


def read_begun(text: str) -> Mapping[str, Any]:
    """Fields of a `Step`.  ValueError for what no step says."""
    said = _object(text)
    return {
        "held": frozenset(_texts(said.get("held", []))),
        "marks": MappingProxyType({str(name): _text(mark) for name, mark in said.get("marks", {}).items()}),
        "sums": MappingProxyType({str(name): _number(each) for name, each in said.get("sums", {}).items()}),
        "labels": tuple(_texts(said.get("labels", []))),
        "joins": tuple(_texts(said.get("joins", []))),
    }


def read_results(text: str) -> Mapping[str, Value]:
    """The results.  ValueError for what is none."""
    return MappingProxyType({str(name): _value(value) for name, value in _object(text).items()})


def read_ended(state: State, text: str) -> Mapping[str, Any]:
    """Fields of a `Step` that ended so: of one that is open its task, otherwise its results.  ValueError for what is neither."""
    if not text:
        return {}
    if state is State.OPEN:
        return {"task": _text(_object(text).get("task", ""))}
    return {"results": read_results(text)}


def read_settled(text: str) -> Mapping[str, Mapping[str, Value]]:
    """Results by the step's id.  ValueError for what is none."""
    return {name: read_results(_dumps(said)) for name, said in _object(text).items()}


def _value(value: Any) -> Value:
    if isinstance(value, dict) and value.keys() == {"n"}:
        return _number(value["n"])
    if not isinstance(value, str | bool):
        raise ValueError("a result is a text, a number, or true or false")
    return value


def _object(text: str) -> dict[str, Any]:
    said = json.loads(text)
    if not isinstance(said, dict):
        raise ValueError("what is kept of a step is an object")
    return said


def _dumps(said: Mapping[str, object]) -> str:
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise ValueError("a list of texts is needed")
    return [_text(each) for each in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    return value


def _number(value: Any) -> Decimal:
    try:
        number = Decimal(_text(value))
    except InvalidOperation:
        raise ValueError("a number is needed") from None
    if not number.is_finite():
        raise ValueError("a number is needed")
    return number
