"""What is made quickly is a frozen dataclass like any other."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, dataclass, field, replace

import pytest

from gateway import model
from gateway.frozen import quickly_made


@quickly_made
@dataclass(frozen=True, slots=True)
class Point:
    x: int
    y: int = 2
    secret: str = field(default="s", repr=False)


def test_it_is_made_by_position_by_name_and_with_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1, 3).y, Point(x=1, secret="t").secret) == (1, 2, 3, "t")
    assert type(Point(1)) is Point


def test_it_cannot_be_changed() -> None:
    point = Point(1)
    with pytest.raises(FrozenInstanceError):
        point.x = 2  # type: ignore[misc]  # that it is refused is the test
    with pytest.raises(FrozenInstanceError):
        del point.x
    with pytest.raises((AttributeError, TypeError)):
        point.z = 2  # type: ignore[attr-defined]  # likewise


def test_it_compares_hashes_and_shows_as_a_dataclass_does() -> None:
    assert Point(1) == Point(1, 2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert Point(1) != Point(2)
    assert repr(Point(1)) == "Point(x=1, y=2)"


def test_replacing_a_field_makes_a_new_one() -> None:
    assert replace(Point(1), y=5) == Point(1, 5)


def test_copies_and_pickles_are_equal() -> None:
    assert copy.copy(Point(1)) == copy.deepcopy(Point(1)) == pickle.loads(pickle.dumps(Point(1))) == Point(1)


def test_missing_and_surplus_arguments_are_errors() -> None:
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]  # that it is refused is the test
    with pytest.raises(TypeError):
        Point(1, 2, "s", 4)  # type: ignore[call-arg]  # likewise
    with pytest.raises(TypeError):
        Point(1, z=1)  # type: ignore[call-arg]  # likewise


def test_what_it_could_not_stand_for_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Checked:
        x: int

        def __post_init__(self) -> None:
            """Would never run."""

    @dataclass(slots=True)
    class Open:
        x: int

    @dataclass(frozen=True, slots=True)
    class Made:
        x: list[int] = field(default_factory=list)

    for other in (Checked, Open, Made, int):
        with pytest.raises(TypeError):
            quickly_made(other)


def test_what_travels_the_road_is_frozen() -> None:
    trace = model.Trace("a" * 32, "b" * 16)
    with pytest.raises(FrozenInstanceError):
        trace.parent = "c" * 16  # type: ignore[misc]  # that it is refused is the test
    with pytest.raises(TypeError, match=r"gateway\.record alone"):
        model.Intent(None, 0)  # type: ignore[arg-type]  # the seal is what is asked for
