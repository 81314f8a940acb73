"""The masks and the relabelling of self-supervised attention, against plain references."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare
from test_ssa import CLS, MASK, SEP, SPECIAL, resolved

from bertsmith.finetuning import relabelling
from bertsmith.finetuning.quarters import MOST_DRAWS, draw_masks, quarters
from bertsmith.finetuning.relabelling import Labels, number_rows, relabel
from bertsmith.finetuning.rows import Row

Array = npt.NDArray[Any]


def test_quarters_of_pairs_do_not_cross_texts() -> None:
    is_text = np.array([[0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0], [0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]], dtype=bool)
    begin, end = quarters(is_text)
    assert begin[0].tolist() == [0, 1, 2, 2, 4, 5, 5, 0, 8, 9, 10, 0, 0]
    assert end[0].tolist() == [0, 2, 4, 4, 5, 7, 7, 0, 9, 10, 11, 0, 0]
    assert begin[1].tolist() == [0, 1, 0, 3, 3, 5, 5, 7, 7, 9, 9, 9, 0]


def by_the_rule(n: int, p: float, r: float, rng: np.random.Generator) -> list[bool]:
    """Mask a text of n tokens, as METHODS says it."""
    hidden = [False] * n
    bounds = [k * n // 4 for k in range(5)]
    for token in np.flatnonzero(rng.random(n) < p):
        k = max(k for k in range(4) if bounds[k] <= token)
        place = bounds[k] + int(rng.random() * (bounds[k + 1] - bounds[k]))
        u = rng.random()
        for step in range(3 if u > r else 2 if u > 2 * r - 1 else 1):
            if place - step >= bounds[k]:
                hidden[place - step] = True
    return hidden


def test_masks_follow_the_rule_of_quarters() -> None:
    num, lengths, p, r = 20_000, (19, 6), 0.1, 0.7
    row = [False, *[True] * lengths[0], False, *[True] * lengths[1], False]
    is_text = np.tile(np.array(row), (num, 1))
    hidden = draw_masks(
        is_text, aug_threshold=p, rm_threshold=r, seed=0, epoch=1, rows=range(num), draws=np.zeros(num, np.int64)
    )
    assert not hidden[~is_text].any()
    # So says docs/ssa.md.
    assert hidden.mean(0).max() < 0.2
    rng = np.random.default_rng(0)
    for start, n in ((1, lengths[0]), (lengths[0] + 2, lengths[1])):
        expected = np.array([by_the_rule(n, p, r, rng) for _ in range(num)])
        found = hidden[:, start : start + n]
        for _ in range(2):
            shares = expected.mean(0)
            # Five standard errors of a difference of two shares, of which none is known to be exactly 0.
            tolerance = 5 * np.sqrt(2 * np.maximum(shares * (1 - shares), 1 / num) / num)
            assert (np.abs(found.mean(0) - shares) <= tolerance).all()
            for both in (found, expected):
                both.sort(axis=1)


@pytest.mark.slow
def test_lengths_and_places_of_masks_follow_their_laws() -> None:
    """In quarters of ten tokens with so few masks that one seldom meets another."""
    num, n, p, r = 100_000, 40, 0.0025, 0.7
    is_text = np.ones((num, n), dtype=bool)
    hidden = draw_masks(
        is_text, aug_threshold=p, rm_threshold=r, seed=0, epoch=1, rows=range(num), draws=np.zeros(num, np.int64)
    )
    share = 1 - (1 - p) ** n
    assert hidden.any(1).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / num))
    hidden = hidden[hidden.any(1)]
    first, last, lengths = hidden.argmax(1), n - 1 - hidden[:, ::-1].argmax(1), hidden.sum(1)
    # Of one mask: where in its quarter it ends, and what of its 1, 2 or 3 tokens is inside.
    law = np.tile([0.4, 0.3, 0.3], (10, 1)) / 10
    law[0], law[1] = [0.1, 0, 0], [0.04, 0.06, 0]
    is_one = (last - first + 1 == lengths) & (lengths <= 3)
    is_one &= law[last % 10, np.minimum(lengths, 3) - 1] > 0
    assert is_one.mean() > 0.95
    last, lengths = last[is_one], lengths[is_one]
    counts = np.zeros((10, 3))
    np.add.at(counts, (last % 10, lengths - 1), 1)
    for found, expected in (
        (counts[law > 0], law[law > 0]),
        (counts.sum(1), law.sum(1)),
        (counts.sum(0), law.sum(0)),
        (np.bincount(last // 10), np.full(4, 0.25)),
    ):
        assert chisquare(found, expected * len(last)).pvalue > 1e-3


def test_a_mask_is_a_function_of_seed_epoch_row_and_draw() -> None:
    is_text = np.ones((6, 40), dtype=bool)

    def draw(seed: int, epoch: int, rows: list[int], draws: list[int]) -> Array:
        return draw_masks(
            is_text[: len(rows)], aug_threshold=0.2, rm_threshold=0.7, seed=seed, epoch=epoch, rows=rows, draws=draws
        )

    whole = draw(0, 1, [5, 6, 7, 8], [0, 0, 1, 2])
    assert (draw(0, 1, [7, 5], [1, 0]) == whole[[2, 0]]).all()
    for other in (draw(1, 1, [5], [0]), draw(0, 2, [5], [0]), draw(0, 1, [6], [0]), draw(0, 1, [5], [1])):
        assert (other[0] != whole[0]).any()


def labels_of(
    rows: list[Row], say: Any, epoch: int = 1, seed: int = 0, is_class: bool = True, **settings: Any
) -> Labels:
    ssa = resolved(**settings)
    return relabel(rows, say, ssa, is_class=is_class, special=SPECIAL, mask_id=MASK, seed=seed, epoch=epoch)


def many_rows(num: int = 300) -> list[Row]:
    """Rows whose class is the parity of their first token, and the more hidden the more often wrong."""
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(num):
        tokens = rng.integers(4, 60, rng.integers(3, 30)).tolist()
        rows.append(Row([CLS, *tokens, SEP], [0] * (len(tokens) + 2), tokens[0] % 2))
    return rows


def parity(rows: list[Row]) -> Array:
    return np.array([row.tokens[1] % 2 for row in rows], dtype=float)


def test_only_what_leaves_a_right_prediction_as_it_is_gets_labels() -> None:
    # A third of the labels is wrong, and a masked first token (3) turns even into odd.
    rows = [row._replace(target=1 - row.target) if k % 3 == 0 else row for k, row in enumerate(many_rows())]  # type: ignore[operator]
    found = labels_of(rows, parity, epoch=3, aug_threshold=0.3)
    starts = [row.start for row in number_rows(rows)]
    kept = 0
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        assert start is not None
        hidden = found.unimportant[start : start + len(row.tokens)]
        assert not hidden[0] and not hidden[-1]
        if hidden.any():
            kept += 1
            assert number % 3 and not (hidden[1] and row.target == 0)
    assert found.wanted == 180 and kept <= found.kept <= 180
    assert found.right == pytest.approx(2 / 3, abs=0.08) and 0.5 < found.agreement < 1
    assert len(found.ran) <= 2.1 * 180


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.2), (2, 0.4), (4, 0.8), (5, 0.8), (50, 0.8)])
def test_the_share_grows_and_stays_below_one(epoch: int, share: float) -> None:
    rows = many_rows()
    found = labels_of(rows, lambda some: np.array([row.target for row in some], dtype=float), epoch)
    # A model that is always right needs no second try: a pass over S and one over S'.
    assert found.wanted == found.kept == found.read == round(share * len(rows))
    assert len(found.ran) == found.kept + found.drawn and found.agreement == found.right == 1


def test_forms_without_a_mask_are_kept_and_count_for_nothing() -> None:
    # Texts of 3 tokens, most of which get no mask, and a model that no masked form leaves as it is.
    rows = [Row([CLS, 7 + number, 5, 6, SEP], [0] * 5, number) for number in range(40)]
    ran = []

    def say(some: list[Row]) -> Array:
        ran.extend(some)
        return np.array([-1 if MASK in row.tokens else row.target for row in some], dtype=float)

    found = labels_of(rows, say, epoch=4)
    assert sum(MASK in row.tokens for row in ran) == found.drawn and len(ran) == len(found.ran)
    assert 0 < found.drawn < found.kept and found.agreement == 0 and not found.unimportant.any()
    # Where no token gets a mask, each row is relabelled for one pass.
    found = labels_of(rows, say, epoch=4, aug_threshold=1e-9)
    assert (found.kept, found.drawn, len(found.ran)) == (32, 0, 32) and np.isnan(found.agreement)


def test_relabelling_is_a_function_of_seed_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sizes = many_rows(), []

    def draw(is_text: Array, **others: Any) -> Array:
        sizes.append(len(is_text))
        return draw_masks(is_text, **others)

    first = labels_of(rows, parity)
    # Masks are drawn in blocks, of whatever size.
    monkeypatch.setattr(relabelling, "_ROWS_PER_BLOCK", 7)
    monkeypatch.setattr(relabelling, "draw_masks", draw)
    again = labels_of(rows, parity)
    assert max(sizes) == 7 and sum(sizes) >= 60
    assert first.unimportant.tolist() == again.unimportant.tolist() and first[1:] == again[1:]
    for other in (labels_of(rows, parity, seed=1), labels_of(rows, parity, epoch=2)):
        assert (other.unimportant != first.unimportant).any()


def test_right_rows_are_masked_anew_before_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[bool, int]] = []

    def say(some: list[Row]) -> Array:
        """Right, and of odd rows only as long as nothing is masked."""
        events.extend((MASK in row.tokens, int(row.target)) for row in some)  # type: ignore[arg-type]
        return np.array([-1 if MASK in row.tokens and row.target % 2 else row.target for row in some])  # type: ignore[operator]

    rows = [row._replace(target=number) for number, row in enumerate(many_rows(200))]
    found = labels_of(rows, say, aug_threshold=0.9)
    # Of the 84 that may be run 40 are read, 40 masked, and 4 of those that failed are masked again.
    num_failed = sum(is_masked and number % 2 for is_masked, number in events[:80])
    assert (found.wanted, found.read, found.drawn, found.kept) == (40, 40, 44, 40 - num_failed) and num_failed > 4
    events.clear()
    monkeypatch.setattr(relabelling, "_PASSES", 100.0)
    assert (
        labels_of([row._replace(target=2 * number + 1) for number, row in enumerate(rows)], say, aug_threshold=0.9).kept
        == 0
    )
    # Each block of rows is masked so often in vain before the next is read.
    kinds = [is_masked for is_masked, _ in events]
    assert kinds == [*([False] * 40 + [True] * 40 * MOST_DRAWS)] * 5
    masked = [number for is_masked, number in events if is_masked]
    assert {masked.count(number) for number in masked} == {MOST_DRAWS}


def test_right_rows_are_masked_anew_when_no_others_are_left() -> None:
    forms: dict[int, list[tuple[int, ...]]] = {}

    def say(some: list[Row]) -> Array:
        """Right, and of masked ones only the second time."""
        found = []
        for row in some:
            seen = forms.setdefault(int(row.target), [])  # type: ignore[arg-type]
            if MASK in row.tokens:
                seen.append(tuple(row.tokens))
            found.append(-1 if len(seen) == 1 else row.target)
        return np.array(found, dtype=float)

    # The class of each row tells it from the others.
    rows = [row._replace(target=number) for number, row in enumerate(many_rows(40))]
    found = labels_of(rows, say, epoch=4, aug_threshold=0.9)
    # Of the 67 that may be run, 32 are read, and 32 masked in vain.
    assert (found.wanted, found.drawn, found.kept, len(found.ran)) == (32, 35, 3, 67)
    assert [len(set(seen)) for seen in forms.values() if len(seen) > 1] == [2, 2, 2]


def test_with_adversarial_labels_it_ends() -> None:
    found = labels_of(many_rows(), lambda some: 1.0 - parity(some), epoch=4)
    assert (found.kept, found.drawn, found.right) == (0, 0, 0.0) and np.isnan(found.agreement)
    assert not found.unimportant.any() and len(found.ran) <= 2.1 * 240


@pytest.mark.parametrize(("label", "moved", "share_right", "agreement"), [
    (0.29, 0.29, 1.0, 1.0), (-0.29, -0.29, 1.0, 1.0), (0.31, 0.0, 0.0, None), (0.0, 0.31, 1.0, 0.0),
])  # fmt: skip
def test_values_may_differ_by_three_tenths(
    label: float, moved: float, share_right: float, agreement: float | None
) -> None:
    rows = [row._replace(target=label) for row in many_rows()]

    def say(some: list[Row]) -> Array:
        return np.array([moved if MASK in row.tokens else 0.0 for row in some])

    found = labels_of(rows, say, is_class=False, epoch=1, aug_threshold=1.0)
    assert found.right == share_right and found.kept == (60 if agreement == 1.0 else 0)
    assert np.isnan(found.agreement) if agreement is None else found.agreement == agreement
