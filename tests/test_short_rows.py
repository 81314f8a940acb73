"""Runs that begin with short rows: which rows they train on, that they go on exactly, and what is refused."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from bertsmith.batching import Batching, TrainingStream
from bertsmith.errors import InputError
from bertsmith.pretraining import pretrain
from bertsmith.rows import TextRows
from bertsmith.short_rows import ShortRows, ShortRowsFirst
from bertsmith.training.monitors import read_metrics
from test_pretraining import MakeRun, assert_same_bytes, crash_at, new_run

SHORT = {"row_length": 12, "tokens": 2100.0}
NUM_SHORT = 4
"""Steps of 44 rows of 12 tokens, most of them whole."""


@pytest.fixture
def make_run(corpus_folder: Path, tmp_path: Path) -> MakeRun:
    return lambda **changes: new_run(corpus_folder, changes.pop("output", tmp_path / "run"), **changes)


def numbers(stream: Any, items: range) -> list[list[tuple[int, int]]]:
    return [[(row.number, row.epoch) for row in stream[item]] for item in items]


@pytest.mark.parametrize("batching", get_args(Batching))
@pytest.mark.parametrize("num_parts", [1, 3])
def test_full_rows_follow_the_short_ones_from_their_beginning(corpus: Any, batching: Batching, num_parts: int) -> None:
    short = ShortRows(TextRows(corpus, 8), rows_per_step=64, num_steps=5)
    full = TrainingStream(TextRows(corpus, 32), 16, 6, 3, batching, num_parts)
    stream = ShortRowsFirst(short, full, 3, batching, num_parts)
    assert len(stream) == 11 * num_parts
    alone = TrainingStream(short.rows, 64, 5, 3, batching, num_parts)
    middle = 5 * num_parts
    assert numbers(stream, range(middle)) == numbers(alone, range(middle))
    assert numbers(stream, range(middle, len(stream))) == numbers(full, range(6 * num_parts))
    for step in range(11):
        items = range(step * num_parts, (step + 1) * num_parts)
        lengths = [len(row.tokens) + 2 for item in items for row in stream[item]]
        assert sorted(lengths) == sorted(stream.lengths_of_step(step).tolist())
        assert max(lengths) <= 8 if step < 5 else 8 < max(lengths) <= 32
    with pytest.raises(IndexError):
        stream[len(stream)]


def test_a_run_that_goes_on_in_more_parts_keeps_its_order(corpus: Any) -> None:
    short = ShortRows(TextRows(corpus, 8), rows_per_step=160, num_steps=2)

    def in_parts(num_parts: int, least: int | None) -> ShortRowsFirst:
        full = TrainingStream(TextRows(corpus, 32), 40, 2, 3, "bucketed", num_parts, least)
        return ShortRowsFirst(short, full, 3, "bucketed", num_parts)

    begun = in_parts(1, None)
    divided = in_parts(2, begun.least_rows)
    for step in range(4):
        assert sum(numbers(divided, range(2 * step, 2 * step + 2)), []) == numbers(begun, range(step, step + 1))[0]


def test_the_first_steps_are_those_of_a_run_of_short_rows(make_run: MakeRun, tmp_path: Path) -> None:
    budget = {"training": {"budget": {"tokens": 6000}, "log_every": 1e-3}}
    with_short = make_run(**budget | {"training": budget["training"] | {"short_rows": SHORT}})
    summary = pretrain(with_short)
    pretrain(make_run(output=tmp_path / "all", data={"row_length": 12}, **budget))
    pretrain(make_run(output=tmp_path / "none", **budget))
    rows, all_short, none = (
        [row for row in read_metrics(folder) if "loss" in row]
        for folder in (tmp_path / "run", tmp_path / "all", tmp_path / "none")
    )
    timed = ("seconds", "tokens_per_second")

    def figures(row: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in row.items() if name not in timed}

    assert [figures(row) for row in rows[:NUM_SHORT]] == [figures(row) for row in all_short[:NUM_SHORT]]
    assert figures(rows[NUM_SHORT]) != figures(all_short[NUM_SHORT])
    used = [row["tokens"] for row in rows]
    used_by_none = [row["tokens"] for row in none]
    assert (np.diff(used)[NUM_SHORT - 1 :] == np.diff([0.0, *used_by_none])[: len(used) - NUM_SHORT]).all()
    assert 6000 <= summary["tokens"] == used[-1] < 6600
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "in rows of 32 tokens, the first 2,100 tokens in rows of 12." in card


@pytest.mark.slow
@pytest.mark.parametrize("step", [NUM_SHORT - 1, NUM_SHORT, NUM_SHORT + 3])
def test_a_killed_run_goes_on_byte_for_byte(
    make_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    changes = {"training": {"short_rows": SHORT, "checkpoint_every": 1 / 12}}
    whole = make_run(output=tmp_path / "whole", **changes)
    pretrain(whole)
    stopped = make_run(**changes)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        crash_at(patch, step)
        pretrain(stopped)
    assert pretrain(stopped)["steps"] == 12
    assert_same_bytes(whole, stopped)


def test_their_number_cannot_change_once_begun(make_run: MakeRun) -> None:
    pretrain(make_run(training={"short_rows": SHORT}))
    for other in ({**SHORT, "tokens": 3000.0}, None):
        with pytest.raises(InputError, match=r"training\.short_rows\.\w+ was"):
            pretrain(make_run(training={"short_rows": other, "budget": {"steps": 13}}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"budget": {"steps": NUM_SHORT}}}, "2100, which are 4 steps, and nothing of the budget of 4"),
        ({"training": {"budget": {"tokens": 1500}}}, r"e\+03 tokens, and nothing of the budget of 1.5e\+03"),
        ({"training": {"budget": {"flops": 1e8}}}, r"which are .*e\+08 flops, and nothing of the budget of 1e\+08 is"),
        ({"objective": {"name": "ssp"}}, "short_rows is for objectives that train on running text, "),
        ({"objective": {"name": "nsp"}}, "set it to null for others"),
    ],
)  # fmt: skip
def test_what_cannot_begin_with_short_rows(make_run: MakeRun, changes: dict[str, Any], message: str) -> None:
    training = {"short_rows": SHORT, **changes.get("training", {})}
    run = make_run(**{**changes, "training": training})
    with pytest.raises(InputError, match=message):
        pretrain(run)
    assert not Path(run.output).exists()


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ({"row_length": 32, "tokens": 100}, "row_length is 32; expected less than data.row_length, which is 32"),
        ({"row_length": 2, "tokens": 100}, "row_length is 2; expected at least 3"),
        ({"tokens": 0}, "tokens is 0.0; expected a finite number above 0"),
        ({}, "`training.short_rows.tokens` is missing"),
    ],
)  # fmt: skip
def test_what_are_no_short_rows(make_run: MakeRun, short: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_run(training={"short_rows": short})


def test_a_run_whose_time_ends_before_says_so(make_run: MakeRun) -> None:
    summary = pretrain(make_run(training={"short_rows": {**SHORT, "tokens": 1e9}, "budget": {"seconds": 0.01}}))
    assert "no row had the full length" in summary["warnings"][-1]
