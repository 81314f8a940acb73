import numpy as np
import numpy.typing as npt
import pytest
from transformers import BertTokenizer

from bertsmith.encoder import EncoderSettings, new_config
from bertsmith.masking import Vocabulary, choose_tokens, choose_words, corrupt, num_predicted
from bertsmith.objectives.mlm import MLMSettings
from bertsmith.randomness import RowGenerator

SIZE, SPECIALS = 1000, 5


@pytest.fixture
def vocabulary() -> Vocabulary:
    special = np.arange(SIZE) < SPECIALS
    return Vocabulary(
        pad_id=0, cls_id=2, sep_id=3, mask_id=4, special=special, continues=None, ordinary_ids=np.flatnonzero(~special)
    )


def generator(num_rows: int, epoch: int = 0) -> RowGenerator:
    return RowGenerator(11, [epoch] * num_rows, list(range(num_rows)))


def test_a_vocabulary_with_a_gap() -> None:
    # A vocab.txt with a line twice: the token has the id of the last one, and no token that of the first.
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "a", "c"]
    tokenizer = BertTokenizer({word: place for place, word in enumerate(words)})
    vocabulary = Vocabulary.of(tokenizer)
    assert vocabulary.special.tolist() == [True] * 5 + [False] * 4
    assert vocabulary.ordinary_ids.tolist() == [6, 7, 8]
    assert new_config(EncoderSettings(preset="tiny"), tokenizer, 16).vocab_size == 9


def test_num_predicted_is_exact() -> None:
    lengths = np.asarray([0, 1, 2, 3, 10, 126, 510])
    assert num_predicted(lengths, 0.15).tolist() == [0, 1, 1, 1, 2, 19, 76]


def test_exactly_the_wanted_number_of_maskable_tokens() -> None:
    rng = np.random.default_rng(0)
    maskable = rng.random((64, 50)) < 0.7
    counts = num_predicted(maskable.sum(1), 0.3)
    rows, columns = choose_tokens(maskable, counts, generator(64))
    assert maskable[rows, columns].all()
    assert np.bincount(rows, minlength=64).tolist() == counts.tolist()
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == len(rows)


def test_every_position_is_equally_likely() -> None:
    maskable = np.ones((4000, 20), dtype=bool)
    _, columns = choose_tokens(maskable, np.full(4000, 3), generator(4000))
    counts = np.bincount(columns, minlength=20)
    assert ((counts - 600) ** 2 / 600).sum() < 43.8


def test_nothing_to_choose() -> None:
    maskable = np.zeros((2, 4), dtype=bool)
    rows, columns = choose_tokens(maskable, np.zeros(2, np.int64), generator(2))
    assert rows.size == columns.size == 0


def test_choice_of_a_row_does_not_depend_on_its_company() -> None:
    maskable = np.ones((1, 30), dtype=bool)
    padded = np.zeros((3, 44), dtype=bool)
    padded[1, :30] = padded[2, :44] = True
    _, alone = choose_tokens(maskable, np.asarray([6]), RowGenerator(1, [4], [9]))
    rows, columns = choose_tokens(padded, np.asarray([0, 6, 11]), RowGenerator(1, [0, 4, 4], [8, 9, 10]))
    assert columns[rows == 1].tolist() == alone.tolist()


def test_80_10_10(vocabulary: Vocabulary) -> None:
    num_rows, length = 1000, 128
    tokens = np.random.default_rng(0).integers(SPECIALS, SIZE, (num_rows, length))
    random = generator(num_rows)
    counts = np.full(num_rows, 110)
    rows, columns = choose_tokens(np.ones(tokens.shape, bool), counts, random)
    corrupted = corrupt(tokens, rows, columns, columns, vocabulary, random, (0.8, 0.1))
    before, after = tokens[rows, columns], corrupted[rows, columns]

    masked, kept = (after == vocabulary.mask_id).mean(), (after == before).mean()
    assert len(before) == 110_000
    assert abs(masked - 0.8) < 0.01
    # A random token is the old one once in 995 times.
    assert abs(kept - (0.1 + 0.1 / 995)) < 0.01
    assert abs(1 - masked - kept - 0.1) < 0.01
    swapped = after[(after != before) & (after != vocabulary.mask_id)]
    assert swapped.min() >= SPECIALS
    counts_of_tokens = np.bincount(swapped, minlength=SIZE)[SPECIALS:]
    assert counts_of_tokens.min() >= 0
    assert ((counts_of_tokens - counts_of_tokens.mean()) ** 2 / counts_of_tokens.mean()).sum() < 1140  # 994 d. f.

    untouched = np.ones(tokens.shape, bool)
    untouched[rows, columns] = False
    np.testing.assert_array_equal(tokens[untouched], corrupted[untouched])


def words_reference(maskable: npt.NDArray[np.bool_], continues: npt.NDArray[np.bool_]) -> list[list[int]]:
    """The words of one row as lists of positions, by the definition."""
    words: list[list[int]] = []
    for position in np.flatnonzero(maskable).tolist():
        if continues[position] and words and words[-1][-1] == position - 1:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def test_words_are_chosen_whole_and_exactly() -> None:
    rng = np.random.default_rng(1)
    maskable = rng.random((300, 60)) < 0.95
    continues = rng.random((300, 60)) < 0.4
    counts = num_predicted(maskable.sum(1), 0.15)
    rows, columns, cut = choose_words(maskable, continues, counts, generator(300))
    assert np.bincount(rows, minlength=300).tolist() == counts.tolist()

    torn = 0
    for row in range(300):
        chosen = set(columns[rows == row].tolist())
        for word in words_reference(maskable[row], continues[row]):
            inside = chosen & set(word)
            torn += 0 < len(inside) < len(word)
    assert torn == cut
    assert cut < 3


def test_a_row_of_one_long_word_is_cut_and_counted() -> None:
    maskable = np.ones((1, 10), dtype=bool)
    continues = np.ones((1, 10), dtype=bool)
    rows, columns, cut = choose_words(maskable, continues, np.asarray([2]), generator(1))
    assert columns.tolist() == [0, 1]
    assert cut == 1


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.85, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 0.3)])
def test_loss_without_context_is_that_of_bayes(shares: tuple[float, float]) -> None:
    settings = MLMSettings(mask_token_share=shares[0], random_token_share=shares[1])
    size, masked, kept = 7, shares[0], 1 - sum(shares)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(size))
    # Column 7 is [MASK]: how likely each pair of original token and what stands there is.
    joint = np.zeros((size, size + 1))
    for token, probability in enumerate(probabilities):
        joint[token] = probability * np.append(np.full(size, shares[1] / size), masked)
        joint[token, token] += probability * kept
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.nansum(joint * np.log(joint / joint.sum(axis=0)))
    assert settings.loss_without_context(probabilities, probabilities) == pytest.approx(expected)
    other = np.random.default_rng(1).dirichlet(np.ones(size))
    assert settings.loss_without_context(other, probabilities) > expected
