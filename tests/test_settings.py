from pathlib import Path
from typing import Literal

import pytest

from bertsmith.errors import InputError
from bertsmith.run_settings import RunSettings
from bertsmith.settings import describe, load, merge, parse_overrides, settings, to_dict, validate
from bertsmith.training.budget import BudgetSettings


@settings
class Inner:
    """Inner."""

    rate: float = 0.1
    """How fast."""
    mode: Literal["fast", "slow"] = "fast"
    """Which way."""

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate is {self.rate}; expected more than 0")


@settings
class Outer:
    """Outer."""

    inner: Inner
    budget: BudgetSettings
    count: int = 3
    """How many."""
    names: tuple[str, ...] = ()
    label: str | None = None


GOOD = {"inner": {"rate": 0.5}, "budget": {"steps": 5}}


def test_values_come_through() -> None:
    made = validate(Outer, {**GOOD, "names": ["a", "b"]}, "here")
    assert made.inner == Inner(rate=0.5)
    assert made.names == ("a", "b")
    assert validate(Outer, to_dict(made), "again") == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cuont": 4}, "x.yaml: unknown key `cuont`; did you mean 'count'?"),
        ({"inner": {"rat": 1.0}}, "x.yaml: unknown key `inner.rat`; did you mean 'rate'?"),
        ({"inner": {"zzz": 1.0}}, "x.yaml: unknown key `inner.zzz`; there are: mode, rate"),
        ({"count": 2.5}, "x.yaml: `count`: input should be a valid integer, found 2.5"),
        ({"count": "4"}, "x.yaml: `count`: input should be a valid integer, found '4'"),
        ({"inner": {"rate": -1.0}}, "x.yaml: `inner`: rate is -1.0; expected more than 0"),
        ({"inner": {"mode": "quick"}}, "x.yaml: `inner.mode`: input should be 'fast' or 'slow', found 'quick'"),
        ({"inner": 3}, "x.yaml: `inner`: expected a section with keys, found 3"),
        ({"inner": None}, "x.yaml: `inner`: expected a section with keys, found None"),
        ({"budget": {}}, "x.yaml: `budget`: give exactly one of steps, tokens, flops, seconds; found 0: none"),
        ({"budget": {"steps": 0}}, "x.yaml: `budget`: steps is 0.0; expected a finite number above 0"),
        ({"budget": {"steps": 1.5}}, "x.yaml: `budget`: steps is 1.5; expected a whole number"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        validate(Outer, {**GOOD, **change}, "x.yaml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match="`budget` is missing"):
        validate(Outer, {"inner": {}}, "x.yaml")


def test_overrides() -> None:
    words = ["--inner.rate", "1e-4", "--count=-7", "--names", "[a, b]", "--flag", "--some-key.deep-er", "on top"]
    assert parse_overrides(words, Outer) == {
        "inner": {"rate": 1e-4}, "count": -7, "names": ["a", "b"], "flag": True, "some_key": {"deep_er": "on top"},
    }  # fmt: skip
    with pytest.raises(InputError, match="unexpected 'stray'"):
        parse_overrides(["stray"], Outer)


@pytest.mark.parametrize("value", ["false", "null", "[a, b]"])
def test_what_is_no_section_has_no_keys_inside_in_either_order(value: str) -> None:
    words = ["--inner.rate", "2.0"]
    for both in ([*words, "--inner", value], ["--inner", value, *words]):
        with pytest.raises(InputError, match=r"--inner .* leaves no place for --inner.rate"):
            parse_overrides(both, Outer)
    assert parse_overrides([*words, "--inner"], Outer) == {"inner": {"rate": 2.0}}
    assert parse_overrides(["--inner", "{mode: slow}", *words], Outer) == {"inner": {"mode": "slow", "rate": 2.0}}


def test_last_names_are_completed_where_they_are_clear() -> None:
    words = ["--rate", "2.0", "--count", "3", "--inner.mode", "slow", "--steps", "4", "--typo", "1"]
    assert parse_overrides(words, Outer, short_names=True) == {
        "inner": {"rate": 2.0, "mode": "slow"},
        "count": 3,
        "budget": {"steps": 4},
        "typo": 1,
    }


def test_two_budgets_on_one_command_line_contradict() -> None:
    values = parse_overrides(["--budget.steps", "3", "--budget.tokens", "5"], Outer)
    with pytest.raises(InputError, match="give exactly one"):
        validate(Outer, {**GOOD, **values}, "command line")


def test_text_stays_as_it_is_typed() -> None:
    for word in ("yes", "007", "#1 String", "a: b", "2001-01-01"):
        assert parse_overrides(["--label", word], Outer) == {"label": word}
    assert parse_overrides(["--label", "null"], Outer) == {"label": None}


def test_a_budget_replaces_a_budget() -> None:
    assert merge({"budget": {"steps": 5}, "a": {"b": 1}}, {"budget": {"tokens": 9}, "a": {"c": 2}}) == {
        "budget": {"tokens": 9},
        "a": {"b": 1, "c": 2},
    }


def test_run_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("inner: {rate: 1e-4}\nbudget: {tokens: 1e9}\n")
    made = load(Outer, path, ["--count", "8"])
    assert (made.inner.rate, made.budget.tokens, made.count) == (1e-4, 1e9, 8)

    with pytest.raises(InputError, match="no such file"):
        load(Outer, tmp_path / "other.yaml")
    path.write_text("inner: {rate: [1\n")
    with pytest.raises(InputError, match="run.yaml, line 2, column 1: not valid YAML: .*correct it"):
        load(Outer, path)
    path.write_text("count: 1\ncount: 2")
    with pytest.raises(InputError, match="'count' stands there twice"):
        load(Outer, path)
    path.write_text("just text")
    with pytest.raises(InputError, match="expected keys with values, .* found text"):
        load(Outer, path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="line 1: byte 0xFF is not UTF-8"):
        load(Outer, path)


def test_every_key_is_described() -> None:
    rows = {key: (kind, default, meaning) for key, kind, default, meaning in describe(Outer)}
    assert rows["inner.rate"] == ("number", "0.1", "How fast.")
    assert rows["inner.mode"] == ("fast|slow", '"fast"', "Which way.")
    assert rows["budget.steps"][0] == "number|null"
    assert rows["count"] == ("integer", "3", "How many.")


def test_a_union_is_told_apart_by_name() -> None:
    run = {"data": {"corpus": "c"}, "encoder": {"preset": "tiny"}, "training": {"budget": {"steps": 1}}, "output": "o"}
    for objective, message in (
        ({"name": "sssp"}, "`objective.name`: there is no 'sssp'; did you mean 'ssp'"),
        ({}, "`objective.name` is missing"),
        ({"name": "ssp", "splt": "half"}, "unknown key `objective.splt`; did you mean 'split'"),
        ({"name": "nsp", "negatives": "same_document"}, "unknown key `objective.negatives`; there are: labels"),
        ({"name": "ssp", "split": "third"}, "`objective.split`: input should be 'half', 'gaussian' or 'uniform'"),
        ({"name": "ssp", "mask_prob": 2.0}, "`objective`: mask_prob is 2.0"),
    ):
        with pytest.raises(InputError, match=message):
            validate(RunSettings, {**run, "objective": objective}, "run.yaml")
    described = {(key, meaning) for key, _, _, meaning in describe(RunSettings) if key.startswith("objective.")}
    # Of most objectives it has another default than of one.
    (several,) = (meaning for key, meaning in described if key == "objective.mask_token_share" and "mlm" in meaning)
    assert several.endswith(") Share of the chosen tokens that become [MASK].")
    assert any(key == "objective.negatives" and meaning.startswith("(ssp) ") for key, meaning in described)
