import pytest

from bertsmith.training.budget import Budget, BudgetSettings, learning_rate_factor


def test_share_and_end() -> None:
    budget = Budget(BudgetSettings(tokens=1000.0))
    budget.spend(tokens=400, flops=1e6, seconds=2.5)
    assert budget.share == pytest.approx(0.4)
    assert not budget.spent
    budget.spend(tokens=700, flops=1e6, seconds=2.5)
    assert budget.spent
    assert budget.share == 1.0
    assert budget.used == {"steps": 2, "tokens": 1100, "flops": 2e6, "seconds": 5.0}


@pytest.mark.parametrize(("limit", "bound"), [({"steps": 7}, 7), ({"tokens": 100.0}, 4), ({"flops": 1000.0}, 2)])
def test_no_run_can_take_more_steps(limit: dict[str, float], bound: int) -> None:
    assert Budget(BudgetSettings(**limit)).bound_on_steps(least_tokens=30, least_flops=500) == bound  # type: ignore[arg-type]


def test_schedules() -> None:
    linear = [learning_rate_factor(share, 0.1, "linear") for share in (0, 0.05, 0.1, 0.55, 1)]
    assert linear == pytest.approx([0, 0.5, 1, 0.5, 0])
    cosine = [learning_rate_factor(share, 0.1, "cosine") for share in (0.1, 0.55, 1)]
    assert cosine == pytest.approx([1, 0.5, 0])
    assert learning_rate_factor(0.9, 0.1, "constant") == 1
    assert learning_rate_factor(0, 0, "linear") == 1


def test_the_clock_leaves_pauses_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = Budget(BudgetSettings(seconds=60.0))
    budget.start_clock()
    now = 103.0
    assert budget.lap() == 3
    now = 150.0
    budget.start_clock()
    now = 152.0
    assert budget.lap() == 2
    # What was before the pause counts.
    now = 153.0
    budget.stop_clock()
    now = 190.0
    budget.start_clock()
    budget.stop_clock()
    now = 200.0
    budget.start_clock()
    now = 204.0
    assert budget.lap() == 5
