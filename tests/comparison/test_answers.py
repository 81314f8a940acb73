"""What follows from scores: estimates, differences, ranks, crossings, and the words for them."""

from typing import Any

import numpy as np
import pytest

from bertsmith.comparison.answers import answer

SEEDS = range(5)


def record_of(
    means: dict[str, float], tasks: dict[str, str] | None = None, noise: float = 0.01, **kinds: str
) -> dict[str, Any]:
    """Make up a record: scores about the mean of each arm, with 2 seeds of fine-tuning for each of pre-training."""
    rng = np.random.default_rng(0)
    tasks = tasks or {"docs": "accuracy"}
    arms, scores = [], []
    for name, mean in means.items():
        kind = kinds.get(name, "none" if name == "none" else "objective")
        runs = []
        for seed in [None] if kind == "checkpoint" else SEEDS:
            offset = rng.normal(0, noise)
            is_trained = kind == "objective"
            runs.append(
                {
                    **{"seed": seed, "status": "done", "error": None, "warnings": [], "parameters": 1000},
                    "share_of_budget": 1.004 if is_trained else None,
                }
            )
            for task in tasks:
                for tuning in (0, 1):
                    for share in (0.5, 1.0) if is_trained else (1.0,):
                        scores.append(
                            {
                                **{"arm": name, "pretrain_seed": seed, "finetune_seed": tuning, "task": task},
                                **{"share": share, "score": mean + offset + 0.001 * tuning},
                                **{axis: 1e6 * share * is_trained for axis in ("tokens", "flops", "seconds")},
                            }
                        )
        arms.append({"name": name, "kind": kind, "runs": runs})
    return {
        "budget": {"tokens": 1e6},
        "corpus": {"name": "wiki"},
        "arms": arms,
        "tasks": [{"name": name, "metric": metric} for name, metric in tasks.items()],
        "scores": scores,
    }


def of(found: dict[str, Any], arm: str, task: str = "docs") -> dict[str, Any]:
    (one,) = (one for one in found["estimates"] if one["arm"] == arm and one["task"] == task)
    return dict(one)


def test_a_clear_winner() -> None:
    found = answer(record_of({"mlm": 0.5, "span": 0.7, "ssp": 0.6, "none": 0.3}))
    assert found["sentence"].startswith("span is the best of 3 objectives on wiki at 1 M tokens: ")
    assert "points ahead of ssp; without pre-training it is" in found["sentence"]
    assert [of(found, arm)["rank"] for arm in ("span", "ssp", "mlm", "none")] == [1, 2, 3, 4]
    assert all(one["rank_low"] == one["rank"] == one["rank_high"] for one in found["estimates"])
    assert len(found["differences"]) == 6
    assert all(one["p"] <= one["p_holm"] < 0.05 for one in found["differences"])
    first = found["differences"][0]
    assert (first["first"], first["second"]) == ("mlm", "span")
    assert first["difference"] == pytest.approx(-0.2, abs=0.03)
    assert first["words"].startswith("span is ") and "points ahead of mlm on docs" in first["words"]
    assert any("Every run used its budget of 1 M tokens to within 0.40%" in text for text in found["words"])


def test_no_pre_training_that_is_better_is_said_to_be() -> None:
    sentence = answer(record_of({"mlm": 0.5, "span": 0.4, "none": 0.7}))["sentence"]
    assert sentence.endswith(", which is better.")


def test_arms_that_differ_by_the_same_with_every_seed_are_not_told_apart() -> None:
    found = answer(record_of({"mlm": 0.5, "span": 0.525, "old": 0.6}, noise=0, old="checkpoint"))
    for one in found["differences"]:
        assert one["low"] is None or one["high"] > one["low"]
    first = next(one for one in found["differences"] if (one["first"], one["second"]) == ("mlm", "span"))
    assert (first["p"], first["p_holm"]) == (None, None)
    assert first["words"] == (
        "span is 2.50 points ahead of mlm on docs, by the same with every seed, so that nothing says what is chance."
    )
    assert found["sentence"].startswith("span and mlm cannot be told apart")


def test_scores_of_models_on_the_way_alone_are_no_answer() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7})
    record["scores"] = [one for one in record["scores"] if one["share"] < 1]
    assert answer(record)["sentence"].startswith("No objective could be judged")


def test_what_cannot_be_told_apart() -> None:
    found = answer(record_of({"mlm": 0.500, "span": 0.501, "none": 0.499}, noise=0.02))
    assert "cannot be told apart on wiki at 1 M tokens with 5 seeds" in found["sentence"]
    assert found["sentence"].endswith("which cannot be told from it.")
    assert all((one["rank_low"], one["rank_high"]) == (1, 3) for one in found["estimates"])
    first = found["differences"][0]
    assert first["low"] < 0 < first["high"] and first["p_holm"] > 0.05
    assert first["seeds_for_half"] > 5
    wanted = (
        f"mlm and span cannot be told apart on docs with 5 seeds: differences under {100 * first['detectable']:.2f}"
    )
    assert first["words"].startswith(wanted)
    assert first["words"].endswith(f"{first['seeds_for_half']} seeds would show {50 * first['detectable']:.2f} points.")


def test_a_leader_with_a_rival() -> None:
    found = answer(record_of({"mlm": 0.70, "span": 0.699, "ssp": 0.5}))
    assert "ahead of ssp, but cannot be told from" in found["sentence"]
    assert [(of(found, arm)["rank_low"], of(found, arm)["rank_high"]) for arm in ("mlm", "ssp")] == [(1, 2), (3, 3)]


def test_the_average_of_tasks_leaves_errors_out_and_errors_are_better_when_small() -> None:
    tasks = {"docs": "accuracy", "sts": "pearson", "values": "mean_squared_error"}
    found = answer(record_of({"mlm": 0.5, "span": 0.7}, tasks))
    assert {one["task"] for one in found["estimates"]} == {"docs", "sts", "values", "average"}
    assert of(found, "span", "average")["mean"] == pytest.approx(0.7, abs=0.02)
    assert [of(found, "span", task)["rank"] for task in ("average", "values")] == [1, 2]
    assert of(found, "mlm", "values")["rank_high"] == 1
    assert "on average of 2 tasks" in found["sentence"]
    on_values = next(one for one in found["differences"] if one["task"] == "values")
    assert on_values["words"].startswith("mlm is 0.2") and "ahead of span on values" in on_values["words"]


def test_a_checkpoint_has_no_seeds_of_pre_training() -> None:
    found = answer(record_of({"mlm": 0.5, "span": 0.7, "old": 0.6}, old="checkpoint"))
    assert of(found, "old")["num_seeds"] == 1
    against = next(one for one in found["differences"] if (one["first"], one["second"]) == ("span", "old"))
    assert against["p_holm"] < 0.05
    assert against["detectable"] is None
    assert "span is the best of 2 objectives" in found["sentence"]
    assert f"; the existing model old reaches {100 * of(found, 'old')['mean']:.2f}." in found["sentence"]


def test_one_seed_of_pre_training_is_not_told_from_a_checkpoint() -> None:
    record = record_of({"mlm": 0.5, "old": 0.6}, old="checkpoint")
    record["scores"] = [one for one in record["scores"] if one["pretrain_seed"] in (None, 0)]
    (against,) = answer(record)["differences"]
    assert [against[name] for name in ("low", "high", "p", "p_holm", "num_seeds")] == [None] * 4 + [1]
    assert against["words"].endswith("ahead of mlm on docs, with one seed, which cannot tell what is chance.")


def zero_shot_record() -> dict[str, Any]:
    """Make up a record of a task that is fine-tuned with two seeds, and one that is not."""
    record = record_of(
        {"mlm": 0.5, "span": 0.7, "old": 0.6}, {"docs": "accuracy", "pairs": "pearson"}, old="checkpoint"
    )
    record["scores"] = [
        one | {"finetune_seed": None if one["task"] == "pairs" else one["finetune_seed"]}
        for one in record["scores"]
        if one["task"] == "docs" or one["finetune_seed"] == 0
    ]
    return record


def test_what_is_scored_without_training_counts_as_much_as_what_is_fine_tuned() -> None:
    found = answer(zero_shot_record())
    assert {one["task"] for one in found["estimates"]} == {"docs", "pairs", "average"}
    for arm, num_seeds in (("mlm", 5), ("span", 5), ("old", 1)):
        assert of(found, arm, "pairs")["num_seeds"] == of(found, arm, "average")["num_seeds"] == num_seeds
        docs, pairs, average = (of(found, arm, task)["mean"] for task in ("docs", "pairs", "average"))
        assert average == pytest.approx((docs + pairs) / 2)
    # A checkpoint has one such score, and no interval of it.
    assert of(found, "old", "pairs")["low"] is None
    against = next(one for one in found["differences"] if (one["first"], one["task"]) == ("mlm", "pairs"))
    assert against["num_seeds"] == 5 and against["p"] is not None


def test_existing_models_that_are_scored_without_training_have_no_seed() -> None:
    record = record_of({"old": 0.5, "older": 0.3}, {"pairs": "pearson"}, old="checkpoint", older="checkpoint")
    record["tasks"][0]["zero_shot"] = True
    record["scores"] = [one | {"finetune_seed": None} for one in record["scores"] if one["finetune_seed"] == 0]
    (words,) = (one["words"] for one in answer(record)["differences"])
    assert words.startswith("old is ") and words.endswith("ahead of older on pairs.")


def test_arms_that_are_equal_are_not_said_to_differ() -> None:
    record = record_of({"mlm": 0.5, "span": 0.5}, noise=0.0)
    record["scores"] = [one for one in record["scores"] if one["pretrain_seed"] == 0]
    (same,) = answer(record)["differences"]
    assert same["words"] == "mlm and span are equal on docs, with one seed, which cannot tell what is chance."


def test_further_pre_training_is_said_to_be_that() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7, "none": 0.3})
    assert "; without pre-training it is" in answer(record)["sentence"]
    record["encoder"] = {"from_pretrained": "out/model"}
    assert "; without further pre-training it is" in answer(record)["sentence"]


def test_an_existing_model_that_is_better_is_said_to_be() -> None:
    sentence = answer(record_of({"mlm": 0.5, "span": 0.6, "none": 0.3, "old": 0.8}, old="checkpoint"))["sentence"]
    assert "; without pre-training it is" in sentence
    assert "; the existing model old reaches" in sentence and sentence.endswith(", which is better.")


def test_a_missing_run_leaves_the_others() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7})
    record["scores"] = [one for one in record["scores"] if (one["arm"], one["pretrain_seed"]) != ("mlm", 2)]
    record["arms"][0]["runs"][2] |= {"status": "failed", "error": "no memory"}
    found = answer(record)
    assert (of(found, "mlm")["num_seeds"], of(found, "span")["num_seeds"]) == (4, 5)
    assert found["differences"][0]["num_seeds"] == 4
    assert "mlm, seed 2 failed and is left out: no memory" in found["words"]


def test_what_a_run_reached_before_it_failed_counts_and_is_said_to() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7}, {"easy": "accuracy", "hard": "accuracy"})
    record["scores"] = [
        one for one in record["scores"] if (one["arm"], one["pretrain_seed"], one["task"]) != ("mlm", 2, "hard")
    ]
    record["arms"][0]["runs"][2] |= {"status": "failed", "error": "no memory"}
    found = answer(record)
    assert [of(found, "mlm", task)["num_seeds"] for task in ("easy", "hard", "average")] == [5, 4, 4]
    said = "mlm, seed 2 failed and is left out but for the scores that it had reached: no memory"
    assert said in found["words"]


def test_a_run_with_half_of_its_fine_tunings_does_not_count() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7})
    record["scores"] = [
        one for one in record["scores"] if (one["arm"], one["pretrain_seed"], one["finetune_seed"]) != ("mlm", 2, 1)
    ]
    assert of(answer(record), "mlm")["num_seeds"] == 4


def test_an_average_is_of_all_tasks() -> None:
    record = record_of({"mlm": 0.5, "span": 0.5, "ssp": 0.5}, {"easy": "accuracy", "hard": "accuracy"})
    for one in record["scores"]:
        one["score"] += 0.3 * (one["task"] == "easy")
    record["scores"] = [one for one in record["scores"] if (one["arm"], one["task"]) != ("span", "hard")]
    found = answer(record)
    assert {one["arm"] for one in found["estimates"] if one["task"] == "average"} == {"mlm", "ssp"}
    assert of(found, "span", "easy")["num_seeds"] == 5


def test_curves_that_meet_before_they_cross() -> None:
    record = record_of({"mlm": 0.5, "span": 0.5}, noise=0.0)
    shares = {0.25: (0.5, 0.4), 0.5: (0.5, 0.5), 0.75: (0.5, 0.5), 1.0: (0.5, 0.7)}
    finals = [one for one in record["scores"] if one["share"] == 1]
    record["scores"] = [
        {
            **{**one, "share": share, "score": scores[one["arm"] == "span"]},
            **{axis: 1e6 * share for axis in ("tokens", "flops", "seconds")},
        }
        for one in finals
        for share, scores in shares.items()
    ]
    assert [one["at"] for one in answer(record)["crossings"]] == [pytest.approx(500_000)] * 3


def test_curves_cross_where_their_means_do() -> None:
    record = record_of({"mlm": 0.5, "span": 0.5}, noise=0.0)
    for one in record["scores"]:
        one["score"] = {("mlm", 0.5): 0.4, ("mlm", 1.0): 0.5, ("span", 0.5): 0.35, ("span", 1.0): 0.65}[
            one["arm"], one["share"]
        ]
    crossings = answer(record)["crossings"]
    # 0.4 + 0.1 x = 0.35 + 0.3 x at x = 1/4 of the way from 0.5 M to 1 M.
    assert [(one["axis"], one["at"]) for one in crossings] == [
        (axis, pytest.approx(625_000)) for axis in ("tokens", "flops", "seconds")
    ]


def test_curves_of_an_average_have_all_tasks_at_every_share() -> None:
    record = record_of({"mlm": 0.6, "ssp": 0.5}, {"easy": "accuracy", "hard": "accuracy"}, noise=0.0)
    for one in record["scores"]:
        one["score"] += 0.3 * (one["task"] == "easy")
    # The hard task was never done with the whole budget: what is left there is the easy one, which is no average.
    record["scores"] = [
        one for one in record["scores"] if (one["arm"], one["task"], one["share"]) != ("ssp", "hard", 1)
    ]
    assert answer(record)["crossings"] == []


@pytest.mark.parametrize(("seconds", "said"), [(90, "1:30 minutes"), (3600, "1:00:00 hours")])
def test_a_budget_of_seconds_is_said_in_its_unit(seconds: float, said: str) -> None:
    record = record_of({"mlm": 0.5, "span": 0.7})
    record["budget"] = {"seconds": seconds}
    assert f"on wiki at {said}: " in answer(record)["sentence"]


def test_unequal_budgets_are_said() -> None:
    record = record_of({"mlm": 0.5, "span": 0.7})
    record["arms"][1]["runs"][3]["share_of_budget"] = 1.012
    words = answer(record)["words"]
    assert any(text.startswith("warning: the budgets are not equal: span, seed 3, used 101.2%") for text in words)


def test_what_runs_of_an_arm_warn_of_is_said_once() -> None:
    record = record_of({"mlm": 0.5, "electra": 0.3})
    for run, area in zip(record["arms"][1]["runs"], (0.57, 0.6, 0.58), strict=False):
        run["warnings"] = [f"the discriminator hardly tells (AUC {area}): train longer", "the pairs are not learned"]
    said = [text for text in answer(record)["words"] if text.startswith("electra: the ")]
    assert said == [
        "electra: the discriminator hardly tells (AUC 0.57): train longer.",
        "electra: the pairs are not learned.",
    ]
