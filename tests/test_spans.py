import numpy as np
import numpy.typing as npt
import pytest

from bertsmith.masking import num_predicted
from bertsmith.randomness import RowGenerator
from bertsmith.spans import Law, Spans, choose_spans, draw_lengths, geometric, harmonic

Bools = npt.NDArray[np.bool_]
PAPER = geometric(0.2, 10)


def rows_of_text(num_rows: int, length: int, continuing: float, seed: int) -> tuple[Bools, Bools]:
    """[CLS] text [SEP], in which a share of the tokens continue a word."""
    maskable = np.ones((num_rows, length), dtype=bool)
    maskable[:, [0, -1]] = False
    return maskable, np.random.default_rng(seed).random(maskable.shape) < continuing


def choose(maskable: Bools, continues: Bools, law: Law = PAPER, epoch: int = 0) -> tuple[Spans, npt.NDArray[np.int64]]:
    counts = num_predicted(maskable.sum(1), 0.15)
    random = RowGenerator(7, [epoch] * len(maskable), list(range(len(maskable))))
    return choose_spans(maskable, continues, counts, law, random), counts


def first_of_spans(spans: Spans) -> Bools:
    return np.asarray(spans.columns == spans.starts)


@pytest.mark.parametrize(
    ("law", "length", "continuing"),
    [
        (PAPER, 128, 0.25),
        pytest.param(PAPER, 512, 0.3, marks=pytest.mark.slow),
        pytest.param(PAPER, 128, 0.0, marks=pytest.mark.slow),
        pytest.param(PAPER, 512, 0.0, marks=pytest.mark.slow),
        pytest.param(harmonic(10), 128, 0.25, marks=pytest.mark.slow),
        pytest.param(harmonic(10), 512, 0.3, marks=pytest.mark.slow),
    ],
)
def test_lengths_follow_their_law_over_100_000_spans(law: Law, length: int, continuing: float) -> None:
    histogram = np.zeros(10)
    epoch = num_cut = 0
    while histogram.sum() < 100_000:
        maskable, continues = rows_of_text(1500, length, continuing, epoch)
        spans, counts = choose(maskable, continues, law, epoch)
        assert np.bincount(spans.rows, minlength=1500).tolist() == counts.tolist()
        is_whole = first_of_spans(spans) & (spans.num_words <= 10)
        histogram += np.bincount(spans.num_words[is_whole], minlength=11)[1:]
        num_cut += spans.num_cut
        epoch += 1
    shares = histogram / histogram.sum()
    lengths = np.arange(1, 11)
    assert np.abs(shares - law).max() < 0.01
    assert abs((shares * lengths).sum() - (np.asarray(law) * lengths).sum()) < 0.05
    assert num_cut < 0.002 * histogram.sum()


def test_the_laws_of_the_paper_and_of_the_korean_implementation() -> None:
    assert sum(length * share for length, share in enumerate(PAPER, start=1)) == pytest.approx(3.797, abs=5e-4)
    assert PAPER[1] / PAPER[0] == pytest.approx(0.8)
    assert harmonic(10)[9] / harmonic(10)[0] == pytest.approx(0.1)
    assert sum(harmonic(10)) == pytest.approx(1)


@pytest.mark.parametrize("length", [16, 40, 128, 512])
@pytest.mark.parametrize("continuing", [0.0, 0.25, 0.6])
def test_spans_are_whole_words_apart_from_each_other(length: int, continuing: float) -> None:
    maskable, continues = rows_of_text(300, length, continuing, length)
    spans, counts = choose(maskable, continues)
    assert np.bincount(spans.rows, minlength=300).tolist() == counts.tolist()
    torn = 0
    for row in range(300):
        here = spans.rows == row
        assert (np.diff(spans.columns[here]) > 0).all()
        bounds = sorted(set(zip(spans.starts[here].tolist(), spans.ends[here].tolist(), strict=True)))
        assert sum(end - start for start, end in bounds) == counts[row]
        for (_, end), (start, _) in zip(bounds, bounds[1:], strict=False):
            # A token is between them, so both see their boundaries.
            assert end < start
        chosen = set(spans.columns[here].tolist())
        for start, end in bounds:
            assert 1 <= start < end <= length - 1
            assert {start - 1, end}.isdisjoint(chosen)
            assert start == 1 or not continues[row, start]
        torn += any(end < length - 1 and continues[row, end] for _, end in bounds)
        words = {start: 1 + int((~continues[row, start + 1 : end]).sum()) for start, end in bounds}
        assert [words[start] for start in spans.starts[here].tolist()] == spans.num_words[here].tolist()
    assert torn <= spans.num_cut
    assert spans.num_cut < (15 if length >= 128 else 150)


def test_spans_start_anywhere() -> None:
    histogram = np.zeros(128)
    for epoch in range(20):
        maskable, continues = rows_of_text(1000, 128, 0.25, epoch)
        spans, _ = choose(maskable, continues, epoch=epoch)
        histogram += np.bincount(spans.columns[first_of_spans(spans)], minlength=128)
    # At both ends spans have less room: they cannot begin before the text, nor end behind it.
    inner = histogram[15:105]
    assert np.abs(inner / inner.mean() - 1).max() < 0.15
    assert histogram[1] > 0.8 * inner.mean()
    assert histogram[126] > 0


def test_spans_of_a_row_do_not_depend_on_its_company() -> None:
    maskable, continues = rows_of_text(3, 90, 0.3, 0)
    maskable[0, 40:] = maskable[2, 60:] = False
    together, counts = choose(maskable, continues)
    for row in range(3):
        length = 40 if row == 0 else 60 if row == 2 else 90
        random = RowGenerator(7, [0], [row])
        alone = choose_spans(maskable[[row], :length], continues[[row], :length], counts[[row]], PAPER, random)
        here = together.rows == row
        for name in ("columns", "starts", "ends", "num_words"):
            assert getattr(together, name)[here].tolist() == getattr(alone, name).tolist()


def test_a_token_that_is_not_maskable_stays_within_its_span() -> None:
    maskable, continues = rows_of_text(200, 60, 0.0, 0)
    maskable[:, 5:55:7] = False
    spans, counts = choose(maskable, continues)
    assert maskable[spans.rows, spans.columns].all()
    assert np.bincount(spans.rows, minlength=200).tolist() == counts.tolist()
    assert (spans.ends - spans.starts > spans.num_words - 1).all()


@pytest.mark.parametrize(
    ("continuing", "num_predicted"),
    [([0, 1, 1, 1, 1, 1], 2), ([0], 1), ([0, 0], 1), ([0, 1] * 10, 7), ([0, 1, 1] * 4, 5), ([0, 1, 1, 1, 0], 2)],
)
def test_where_no_whole_words_fit_a_span_is_cut_and_counted(continuing: list[int], num_predicted: int) -> None:
    maskable = np.asarray([[False, *(True for _ in continuing), False]])
    continues = np.asarray([[False, *map(bool, continuing), False]])
    spans = choose_spans(maskable, continues, np.asarray([num_predicted]), PAPER, RowGenerator(0, [0], [0]))
    assert spans.columns.size == len(set(spans.columns.tolist())) == num_predicted
    sizes = np.diff([*np.flatnonzero(np.asarray(continuing) == 0), len(continuing)])
    can_be_exact = num_predicted in sizes if num_predicted < 5 else False
    assert spans.num_cut == (not can_be_exact)


def test_nothing_to_choose() -> None:
    maskable = np.zeros((2, 4), dtype=bool)
    spans, _ = choose(maskable, maskable)
    assert spans.rows.size == spans.num_words.size == spans.num_cut == 0


@pytest.mark.parametrize("total", [1, 2, 3, 7, 12, 60])
def test_drawn_lengths_add_up(total: int) -> None:
    totals = np.asarray([total, 0, total, 5] * 50)
    lengths = draw_lengths(totals, PAPER, RowGenerator(0, [0] * 200, list(range(200))))
    assert lengths.sum(1).tolist() == totals.tolist()
    assert lengths.max() <= min(10, max(total, 5))
