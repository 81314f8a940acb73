"""TensorBoard finds in its file what was logged."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bertsmith.training.board import Board


def test_tensorboard_reads_the_rows_and_hides_what_a_killed_run_logged_after_its_checkpoint(tmp_path: Path) -> None:
    for resumed_step, steps, loss in ((0, range(1, 6), 3.0), (3, range(4, 8), 2.0)):
        board = Board(tmp_path / "board", resumed_step)
        for step in steps:
            board.add({"step": step, "loss": loss, "tokens": 10.0 * step})
        board.close()
    found = EventAccumulator(str(tmp_path / "board")).Reload()
    assert found.Tags()["scalars"] == ["loss", "tokens"]
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (1, 3),
        (2, 3),
        (3, 3),
        *((n, 2) for n in range(4, 8)),
    ]
    assert [event.value for event in found.Scalars("tokens")] == [10 * step for step in range(1, 8)]
