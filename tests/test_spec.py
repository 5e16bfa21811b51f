"""Nouns: every mistake at once, with what was given and what is allowed; overrides by dotted path."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt

from dlde.errors import SpecError, nearest
from dlde.method import Descent
from dlde.spec import Spec, digest_of, override, parse_assignments, read_yaml


class Inner(Spec):
    width: PositiveInt = 3
    rates: tuple[float, ...] = (1.0,)


class Outer(Spec):
    inner: Inner = Inner()
    title: str
    flag: bool = False


def mistakes(raw: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        Outer.parse(raw, source="a.yaml")
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("a.yaml: ")
    return list(caught.value.mistakes)


def test_all_mistakes_are_reported_at_once() -> None:
    found = mistakes({"inner": {"widht": 4, "width": -1}, "flag": "yes", "tilte": 1})
    assert found == [
        "inner.width: input should be greater than 0, got -1",
        "inner.widht: unknown key; did you mean 'width'?, got 4",
        "title: field required",
        "flag: input should be a valid boolean, got 'yes'",
        "tilte: unknown key; did you mean 'title'?, got 1",
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"title": "a", "inner": {"width": "4"}}, "inner.width: input should be a valid integer, got '4'"),
        ({"title": "a", "inner": {"width": True}}, "inner.width: input should be a valid integer, got True"),
        (
            {"title": "a", "inner": {"rates": [float("nan")]}},
            "inner.rates.0: input should be a finite number, got nan",
        ),
        ({"title": "a", "inner": {"rates": 1.0}}, "inner.rates: input should be a valid tuple, got 1.0"),
        ([], "Input should be a valid dictionary or instance of Outer, got ()"),
    ],
)
def test_wrong_type_or_range_says_what_was_given(raw: Any, message: str) -> None:
    assert mistakes(raw) == [message]


class Plain(Spec):
    kind: Literal["plain"] = "plain"
    depth: int = 1


class Wide(Spec):
    kind: Literal["wide"] = "wide"
    depth: int = 2


class Author(Spec):
    inner: Inner = Inner(width=7, rates=(0.5,))
    either: Annotated[Plain | Wide, Field(discriminator="kind")] = Plain(depth=5)


def test_fields_not_given_are_those_of_the_default_in_place() -> None:
    assert Author.parse({"inner": {"width": 8}}, source="x").inner == Inner(width=8, rates=(0.5,))
    assert Author.parse({"either": {}}, source="x").either == Plain(depth=5)
    assert Author.parse({"either": {"kind": "plain"}}, source="x").either == Plain(depth=5)
    assert Author.parse({"either": {"kind": "wide"}}, source="x").either == Wide(depth=2)


def test_nouns_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer(title="a").title = "b"  # type: ignore[misc]


def test_dump_and_parse_are_inverse() -> None:
    noun = Outer(title="a", inner=Inner(rates=(1.0, 1e-300)))
    assert Outer.parse(noun.dump(), source="x") == noun


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [1.5]}) == digest_of({"b": [1.5], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_nearest_names_what_looks_alike_or_all() -> None:
    assert nearest("fnoo", ["fno", "fcn"]) == "did you mean 'fno'?"
    assert nearest("zzz", ["fno", "fcn"]) == "known: fcn, fno"
    assert nearest("zzz", []) == "none is known"


def test_assignments_are_yaml() -> None:
    text = ["a.b=1e-3", "c=[1, x]", "d=", "e={name: fno, width: 2}", "f='1'"]
    assert parse_assignments(text) == {
        "a.b": 1e-3, "c": [1, "x"], "d": None, "e": {"name": "fno", "width": 2}, "f": "1"
    }  # fmt: skip


@pytest.mark.parametrize("text", ["a", "=1", "a..b=1", "a.=1", "a b=1", "a=[1"])
def test_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"--set "):
        parse_assignments([text])


def test_new_name_replaces_the_whole_mapping_whatever_the_order() -> None:
    raw = {"method": {"name": "fno", "modes": 16}, "seed": 1}
    for overrides in (
        {"method.width": 8, "method.name": "fcn"},
        {"method.name": "fcn", "method.width": 8},
    ):
        assert override(raw, overrides) == {"method": {"name": "fcn", "width": 8}, "seed": 1}
    assert override(raw, {"method.name": "fno"}) == raw


def test_override_below_a_plain_value_is_refused() -> None:
    with pytest.raises(SpecError, match=r"seed is 1, which has no fields to set"):
        override({"seed": 1}, {"seed.a": 2})


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.dictionaries(paths, st.integers(), max_size=4))
def test_override_sets_each_path_and_leaves_its_input(overrides: dict[str, int]) -> None:
    free = {  # a path below another one contradicts it
        path: value for path, value in overrides.items()
        if not any(path.startswith(other + ".") or other.startswith(path + ".") for other in overrides)
    }  # fmt: skip
    raw = {"z": {"kept": [1, {"x": 2}]}}
    result = override(raw, free)
    assert raw == {"z": {"kept": [1, {"x": 2}]}}
    assert result["z"] == raw["z"]
    for path, value in free.items():
        place: Any = result
        for part in path.split("."):
            place = place[part]
        assert place == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_yaml(path)


def test_yaml_reads_exponents_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1e-3\nb: 2E5\nc: 1.5e+2\nd: e3")
    assert read_yaml(path) == {"a": 1e-3, "b": 2e5, "c": 150.0, "d": "e3"}


def test_rates_of_a_descent() -> None:
    cosine = Descent(steps=100, schedule="cosine", warmup=0.1)
    assert cosine.factor(0) == pytest.approx(1 / 11)
    assert cosine.factor(10) == pytest.approx(1)
    assert cosine.factor(55) == pytest.approx(0.5)
    assert cosine.factor(99) < 1e-3
    halving = Descent(steps=100, schedule="halving", halve_every=30)
    assert [halving.factor(step) for step in (0, 29, 30, 60)] == [1, 1, 0.5, 0.25]
