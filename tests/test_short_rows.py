"""Runs that begin with short rows: which rows they train on, that they go on exactly, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib.figure import Figure

from bertsmith.batching import Batching, TrainingStream
from bertsmith.encoder import Architecture, EncoderSettings
from bertsmith.errors import InputError
from bertsmith.pretraining import assemble, pretrain
from bertsmith.rows import TextRows
from bertsmith.short_rows import ShortRows, ShortRowsFirst
from bertsmith.show import show
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


def test_a_run_that_goes_on_in_more_parts_keeps_its_order(sentences: Any) -> None:
    short = ShortRows(TextRows(sentences, 8), rows_per_step=160, num_steps=2)
    begun = TrainingStream(TextRows(sentences, 32), 40, 2, 3)
    divided = TrainingStream(begun.rows, 40, 2, 3, "bucketed", 2, begun.least_rows)
    whole, halves = ShortRowsFirst(short, begun, 3, "bucketed", 1), ShortRowsFirst(short, divided, 3, "bucketed", 2)
    for step in range(4):
        assert sum(numbers(halves, range(2 * step, 2 * step + 2)), []) == numbers(whole, range(step, step + 1))[0]


@pytest.mark.slow
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
    assert "in rows of 32 tokens, after a beginning in rows of 12." in card


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
        ({"training": {"budget": {"steps": NUM_SHORT}}}, "short rows are 4 steps, and the whole budget is 4; raise it"),
        ({"training": {"budget": {"tokens": 1500}}}, r"rows are 1.\d+ k tokens, and the whole budget is 1.5 k"),
        ({"training": {"budget": {"flops": 1e8}}}, r"rows are .* flops, and the whole budget is 100 M;"),
        ({"objective": {"name": "ssp"}}, "short_rows is for objectives that train on running text, "),
        ({"objective": {"name": "nsp"}}, "give the other arms `training: \\{short_rows: null\\}`"),
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


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize("short", [SHORT, None])
def test_the_plot_marks_where_full_rows_begin(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, short: dict[str, Any] | None
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    run = make_run(objective={"name": "span"}, training={"short_rows": short})
    pretrain(run)
    (figure,) = figures
    lines = [[line for line in axes.lines if line.get_label() == "full rows begin"] for axes in figure.axes]
    assert [len(found) for found in lines] == ([1, 0] if short else [0, 0])  # the lengths of spans have no tokens
    if short:
        at_step = {row["step"]: row["tokens"] for row in read_metrics(Path(run.output))}
        assert lines[0][0].get_xdata()[0] == pytest.approx(at_step[NUM_SHORT], rel=0.02)


@pytest.mark.pictures
def test_a_run_whose_time_ends_before_says_so(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    summary = pretrain(make_run(training={"short_rows": {**SHORT, "tokens": 1e9}, "budget": {"seconds": 0.01}}))
    assert not [line for line in figures[0].axes[0].lines if line.get_label() == "full rows begin"]
    assert "no row had the full length" in summary["warnings"][-1]


def test_rows_of_which_all_are_short_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(
        InputError, match=r"no document is longer than its rows of 5000 tokens, so that full rows would"
    ):
        pretrain(
            make_run(
                data={"row_length": 5001},
                training={"short_rows": {"row_length": 5000, "tokens": 10}},
                encoder={"config": {"max_position_embeddings": 5001}},
            )
        )


def test_show_begins_with_them_too(make_run: MakeRun) -> None:
    legend, *lines = show(make_run(training={"short_rows": SHORT}), 5)
    words = [len(line.plain.split()) for line in lines]
    assert len(words) == 5 and max(words) <= 12
    with pytest.raises(InputError, match="short_rows is for objectives that train on running text"):
        list(show(make_run(training={"short_rows": SHORT}, objective={"name": "ssp"})))


@pytest.mark.parametrize("num_steps", [2, 4, 9])
def test_epochs_are_counted_by_the_rows_of_both(make_run: MakeRun, corpus: Any, num_steps: int) -> None:
    # The smallest step has 8 rows, so that steps of full rows have more tokens than those of short ones.
    training = {"short_rows": {"row_length": 12, "tokens": 400}, "tokens_per_step": 100}
    parts = assemble(make_run(training=training))
    assert parts.short.num_steps == 4 and parts.rows_per_step == 8
    short, full = TextRows(corpus, 12, parts.rows.documents), TextRows(corpus, 32, parts.rows.documents)
    seen = min(num_steps, 4) * 8 / len(short) + max(0, num_steps - 4) * 8 / len(full)
    assert parts.epochs(num_steps) == pytest.approx(seen)


@pytest.mark.slow
@pytest.mark.parametrize("is_short", [False, True])
def test_they_are_advised_where_they_would_help(make_run: MakeRun, is_short: bool) -> None:
    summary = pretrain(make_run(training={"short_rows": SHORT if is_short else None}))
    assert "hardly anything from context" in summary["warnings"][0]
    assert ("training.short_rows" in summary["warnings"][0]) != is_short


@pytest.mark.parametrize(
    ("architecture", "objective", "ways"),
    [
        ("modernbert", "mlm", "training.short_rows"),
        (
            "bert",
            "ssp",
            "encoder.positions: sinusoidal with a larger encoder.initializer_range or encoder.architecture",
        ),
        ("electra", "electra", "training.short_rows or encoder.positions: sinusoidal with a larger"),
    ],
)
def test_no_way_is_advised_that_a_model_cannot_go(
    make_run: MakeRun, architecture: Architecture, objective: str, ways: str
) -> None:
    run = make_run(objective={"name": objective}, training={"budget": {"steps": 1}})
    run = replace(run, encoder=EncoderSettings(preset="tiny", architecture=architecture))
    (warning,) = [line for line in pretrain(run)["warnings"] if "hardly anything from context" in line]
    assert f"may learn sooner with {ways}" in warning
    assert ("modernbert" in warning) == (objective == "ssp")
