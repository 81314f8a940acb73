"""Extractive question answering: windows over long contexts, and the answers that logits give.

As in BERT (arXiv 1810.04805 §4.2 and §4.3): the question and a window of the context make a row; S_i and E_i are the
logits of token i to begin and to end the answer; the answer is the span i <= j of the context with the highest
S_i + E_j; "no answer" scores S_0 + E_0, at [CLS].

As in the authors' code: a span may begin at a token only in the window that gives that token the most context; of
several windows the lowest S_0 + E_0 counts. Differs from it: all spans are compared, not those among the 20 best starts
and 20 best ends; the answer is cut out of the context by character offsets, not put together from tokens.

Shapes: n tokens of a window, m of them of the context.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from bertsmith.errors import DivergedRun, InputError
from bertsmith.tasks.examples import Answers, Example, Predictions
from bertsmith.tasks.metrics import answer_f1

MAX_QUESTION_TOKENS = 64
N_BEST = 20
_BATCH_TEXTS = 256


class Window(NamedTuple):
    """A row: special tokens, the question, special tokens, some of the context, special tokens; without padding."""

    example: int
    """Which example it is of."""
    token_ids: npt.NDArray[np.int32]
    """(n,) token ids; the first is that of [CLS]."""
    token_types: npt.NDArray[np.int8]
    """(n,) token types."""
    targets: tuple[int, int] | None
    """Positions of the first and last token of the (first) right answer, in 0..n-1; (0, 0), which is [CLS], where the
    window does not hold the whole of it; None if not labelled."""
    context_start: int
    """Position of the first token of the context in the row."""
    first: int
    """Its index among all tokens of the context."""
    offsets: npt.NDArray[np.int32]
    """(m, 2) characters of the context, begin and end, that the m tokens of the context stand for, without white space
    around them; a token of nothing else has an empty range."""


class Windows(NamedTuple):
    """What :func:`make_windows` makes."""

    windows: list[Window]
    """In the order of the examples, at least one of each."""
    num_truncated_questions: int
    """How many questions were longer than 64 tokens, and cut."""


class _Frame(NamedTuple):
    """The special tokens before, between and after two texts: ids and types of each, and the types of the texts."""

    before: tuple[list[int], list[int]]
    between: tuple[list[int], list[int]]
    after: tuple[list[int], list[int]]
    question_type: int
    context_type: int

    @property
    def num_tokens(self) -> int:
        return len(self.before[0]) + len(self.between[0]) + len(self.after[0])


class _Context(NamedTuple):
    token_ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]


def make_windows(
    examples: Sequence[Example], tokenizer: Any, max_length: int, stride: int, *, labelled: bool
) -> Windows:
    """Lay windows over the contexts of questions, so that together they cover each context.

    Args:
        examples: Questions with their contexts.
        tokenizer: A fast tokenizer of transformers.
        max_length: Most tokens of a window, question and special tokens included.
        stride: How many tokens of the context a window starts after the one before it. This is BERT's ``doc_stride``;
            what transformers' tokenizers call ``stride`` is the overlap.
        labelled: Whether targets are wanted; all examples need answers then.

    Raises:
        InputError: The tokenizer is not a fast one or puts nothing before the question, or the windows would leave out
            some of the context, or have no place for any of it.
    """
    frame = _read_frame(tokenizer)
    questions = [np.array(encoding.ids, np.int32) for encoding in _encode(tokenizer, [e.text for e in examples])]
    num_truncated = sum(len(question) > MAX_QUESTION_TOKENS for question in questions)
    questions = [question[:MAX_QUESTION_TOKENS] for question in questions]

    longest = max(map(len, questions), default=0)
    room = max_length - frame.num_tokens - longest
    if not 1 <= stride <= room:
        remedy = (
            f"set document_stride from 1 to {room}, or a larger max_length" if room > 0 else "set a larger max_length"
        )
        raise InputError(
            f"document_stride is {stride} and max_length {max_length}, which with {frame.num_tokens} special tokens "
            f"and a question of {longest} leaves room for {max(room, 0)} tokens of context; {remedy}"
        )

    contexts = _encode_contexts(examples, tokenizer)
    windows: list[Window] = []
    for index, (example, question) in enumerate(zip(examples, questions, strict=True)):
        context = contexts[example.text_pair or ""]
        answer = _answer_tokens(example, context.offsets) if labelled else None
        room = max_length - frame.num_tokens - len(question)
        for first in range(0, max(len(context.token_ids) - room, 0) + stride, stride):
            part = context.token_ids[first : first + room]
            token_ids, token_types = _join(frame, question, part)
            context_start = len(frame.before[0]) + len(question) + len(frame.between[0])
            targets = _targets(answer, first, len(part), context_start) if labelled else None
            offsets = context.offsets[first : first + room]
            windows.append(Window(index, token_ids, token_types, targets, context_start, first, offsets))
    return Windows(windows, num_truncated)


def _read_frame(tokenizer: Any) -> _Frame:
    """Find out what a tokenizer puts around two texts."""
    if not tokenizer.is_fast:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path}: is not a fast one, and only those tell where in the context a token "
            f"stands; convert it to a tokenizer.json"
        )
    encoding = tokenizer("a", "b").encodings[0]
    ids, types, sides = encoding.ids, encoding.type_ids, encoding.sequence_ids
    if tokenizer.cls_token_id is None or ids[0] != tokenizer.cls_token_id:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path}: puts no classification token before a question, which stands for "
            f'"no answer"; take one of an encoder such as BERT'
        )
    question, context = sides.index(0), sides.index(1)
    between, after = question + sides.count(0), context + sides.count(1)
    return _Frame(
        before=(ids[:question], types[:question]),
        between=(ids[between:context], types[between:context]),
        after=(ids[after:], types[after:]),
        question_type=types[question],
        context_type=types[context],
    )


def _encode(tokenizer: Any, texts: Sequence[str]) -> Iterator[Any]:
    """Yield the ``tokenizers.Encoding`` of each text, without special tokens; few at a time, for they are large."""
    for start in range(0, len(texts), _BATCH_TEXTS):
        batch = list(texts[start : start + _BATCH_TEXTS])
        yield from tokenizer(batch, add_special_tokens=False, truncation=False, padding=False, verbose=False).encodings


def _encode_contexts(examples: Sequence[Example], tokenizer: Any) -> dict[str, _Context]:
    """Tokenise each context once, however many questions it has."""
    texts = list(dict.fromkeys(example.text_pair or "" for example in examples))
    contexts = {}
    for text, encoding in zip(texts, _encode(tokenizer, texts), strict=True):
        offsets = [_strip(text, start, end) for start, end in encoding.offsets]
        contexts[text] = _Context(np.array(encoding.ids, np.int32), np.array(offsets, np.int32).reshape(-1, 2))
    return contexts


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """Leave white space out of a range; tokens of byte-level BPE hold the space before them."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def _answer_tokens(example: Example, offsets: npt.NDArray[np.int32]) -> tuple[int, int] | None:
    """Return the first and last token that share a character with the first right answer; None if there is none."""
    assert isinstance(example.label, Answers)
    if not example.label.texts:
        return None
    start = example.label.starts[0]
    end = start + len(example.label.texts[0])
    begins, ends = offsets.T
    found = np.flatnonzero((begins < ends) & (begins < end) & (ends > start))
    return (int(found[0]), int(found[-1])) if len(found) else None


def _targets(answer: tuple[int, int] | None, first: int, m: int, context_start: int) -> tuple[int, int]:
    """Return the answer's positions in the row of a window over ``m`` tokens; (0, 0) if it is not whole in there."""
    if answer is None or answer[0] < first or answer[1] >= first + m:
        return 0, 0
    return answer[0] - first + context_start, answer[1] - first + context_start


def _join(
    frame: _Frame, question: npt.NDArray[np.int32], context: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int8]]:
    ids = np.concatenate([frame.before[0], question, frame.between[0], context, frame.after[0]])
    question_types, context_types = [frame.question_type] * len(question), [frame.context_type] * len(context)
    types = np.concatenate([frame.before[1], question_types, frame.between[1], context_types, frame.after[1]])
    return ids.astype(np.int32), types.astype(np.int8)


class _Spans(NamedTuple):
    """The best spans of one example."""

    text: str
    """Text of the best; empty where there is no span at all."""
    scores: npt.NDArray[np.float64]
    """(<= 20,) scores of the best, from the highest."""
    null: float
    """Score of "no answer"."""


def best_answers(
    examples: Sequence[Example],
    windows: Windows,
    logits: Sequence[npt.NDArray[np.float32]],
    *,
    max_answer_length: int = 30,
    null_answers: bool,
    null_threshold: float = 0.0,
) -> Predictions:
    """Read the answers out of logits.

    Args:
        examples: The examples of which ``windows`` were made.
        windows: Their windows.
        logits: For each window (n, 2): the logits of its tokens to begin, and to end, the answer.
        max_answer_length: Most tokens of an answer.
        null_answers: Whether a question may have no answer in its context.
        null_threshold: "No answer" is given where it scores more than this above the best span.

    Returns:
        The answers, and the probability of each: the softmax over the 20 best spans and, with ``null_answers``, "no
        answer".

    Raises:
        DivergedRun: Logits are not finite.
    """
    answers, probabilities = [], []
    for spans in _best_spans(examples, windows, logits, max_answer_length):
        no_span = len(spans.scores) == 0
        is_null = no_span or (null_answers and spans.null - spans.scores[0] > null_threshold)
        scores = np.append(spans.scores, spans.null) if null_answers or no_span else spans.scores
        odds = np.exp(scores - scores.max())
        answers.append("" if is_null else spans.text)
        probabilities.append(odds[-1 if is_null else 0] / odds.sum())
    return Predictions(np.array(probabilities), tuple(answers))


def best_null_threshold(
    examples: Sequence[Example],
    windows: Windows,
    logits: Sequence[npt.NDArray[np.float32]],
    *,
    max_answer_length: int = 30,
) -> float:
    """Return the ``null_threshold`` of :func:`best_answers` that gives the highest F1 on labelled examples.

    The official evaluation calls the F1 at this threshold "best F1". It is chosen in sight of the right answers, so it
    flatters; a threshold for a test set is chosen on the validation set.
    """
    every = list(_best_spans(examples, windows, logits, max_answer_length))
    leads = np.array([spans.null - spans.scores[0] if len(spans.scores) else np.inf for spans in every])
    gains = []
    for example, spans in zip(examples, every, strict=True):
        assert isinstance(example.label, Answers)
        gains.append(answer_f1(spans.text, example.label.texts) - answer_f1("", example.label.texts))
    # What answering all questions up to each lead gains over answering none; those of equal lead are answered together.
    thresholds, groups = np.unique(leads, return_inverse=True)
    totals = np.cumsum(np.bincount(groups, weights=gains))
    best = int(totals.argmax())
    return float(thresholds[best] if totals[best] > 0 else thresholds[0] - 1)


def _best_spans(
    examples: Sequence[Example],
    windows: Windows,
    logits: Sequence[npt.NDArray[np.float32]],
    max_answer_length: int,
) -> Iterator[_Spans]:
    """Yield the best spans of each example."""
    for index, group in groupby(zip(windows.windows, logits, strict=True), key=lambda pair: pair[0].example):
        own, own_logits = zip(*group, strict=True)
        best, place, scores, null = -np.inf, (0, 0), [], np.inf
        for window, values, is_widest in zip(own, own_logits, _widest(own), strict=True):
            if not np.isfinite(values).all():
                raise DivergedRun("the model gives logits that are not finite; train with a lower learning rate")
            spans = _score_spans(window, values.astype(np.float64), is_widest, max_answer_length)
            null = min(null, float(values[0].sum()))
            scores.append(np.sort(spans, axis=None)[-N_BEST:].copy())
            if spans.size and spans.max() > best:
                best = spans.max()
                start, length = np.unravel_index(spans.argmax(), spans.shape)
                place = (int(window.offsets[start, 0]), int(window.offsets[start + length, 1]))
        merged = np.sort(np.concatenate(scores))[::-1][:N_BEST]
        yield _Spans((examples[index].text_pair or "")[slice(*place)], merged[merged > -np.inf], null)


def _widest(windows: Sequence[Window]) -> list[npt.NDArray[np.bool_]]:
    """Say for each window (m,) which of its tokens have more context in it than in the others."""
    num_tokens = max(window.first + len(window.offsets) for window in windows)
    most, widest = np.full(num_tokens, -np.inf), np.zeros(num_tokens, np.int64)
    for k, window in enumerate(windows):
        m = len(window.offsets)
        own = slice(window.first, window.first + m)
        context = np.minimum(np.arange(m), np.arange(m)[::-1]) + 0.01 * m
        widest[own] = np.where(context > most[own], k, widest[own])
        most[own] = np.maximum(context, most[own])
    return [widest[window.first : window.first + len(window.offsets)] == k for k, window in enumerate(windows)]


def _score_spans(
    window: Window, logits: npt.NDArray[np.float64], is_widest: npt.NDArray[np.bool_], max_answer_length: int
) -> npt.NDArray[np.float64]:
    """Return (m, max_answer_length): in row i, column j the score of the span from token i of the context to i + j."""
    m = len(window.offsets)
    starts, ends = logits[window.context_start : window.context_start + m].T
    has_text = window.offsets[:, 0] < window.offsets[:, 1]
    starts = np.where(has_text & is_widest, starts, -np.inf)
    ends = np.pad(np.where(has_text, ends, -np.inf), (0, max_answer_length), constant_values=-np.inf)
    scores: npt.NDArray[np.float64] = starts[:, None] + sliding_window_view(ends, max_answer_length)[:m]
    return scores
