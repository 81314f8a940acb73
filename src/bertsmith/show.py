"""Show a training batch as text: which tokens are masked, replaced, kept, and what a pair is made of."""

from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
from rich.text import Text

from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.objectives import OBJECTIVES
from bertsmith.pairs import KINDS, NO_LABEL, PairRow
from bertsmith.rows import split_documents
from bertsmith.run_settings import RunSettings

LEGEND = Text.assemble(
    ("masked", "bold red"), ": [original] is hidden · ", ("replaced", "bold yellow"), ": {shown<original} · ",
    ("kept", "bold green"), ": (original) must be predicted all the same",
)  # fmt: skip


def show(run: RunSettings, num_rows: int = 4) -> Iterator[Text]:
    """Yield the first rows of a run's training as text; colours and brackets say the same.

    Args:
        run: A pre-training run.
        num_rows: How many rows.
    """
    corpus = Corpus(run.data.corpus)
    tokenizer = corpus.tokenizer
    if num_rows < 1:
        raise InputError(f"--rows is {num_rows}; expected at least 1")
    kind, seed = OBJECTIVES[run.objective.name], run.training.seed
    training, _ = split_documents(corpus, run.data.validation)
    rows = kind.make_rows(run.objective, corpus, run.data.row_length, training, seed)
    rows_of_step = rows_per_step(rows, run.training.tokens_per_step)
    stream = TrainingStream(rows, rows_of_step, num_rows, seed)
    collate = kind.make_collate(run.objective, tokenizer, seed)
    steps = (stream[step] for step in range(num_rows))
    taken = list(islice(chain.from_iterable(steps), num_rows))
    batch = collate(taken)

    shown, positions, targets = (batch[name].numpy() for name in ("input_ids", "positions", "targets"))
    originals = shown.copy()
    originals.ravel()[positions] = targets
    chosen = np.zeros(shown.shape, dtype=bool)
    chosen.ravel()[positions] = True
    continues = collate.vocabulary.continues
    for place in range(num_rows):
        row = taken[place]
        line = _origin(row, corpus) if isinstance(row, PairRow) else Text()
        begins = True
        for token, original, is_chosen in zip(
            shown[place].tolist(), originals[place].tolist(), chosen[place].tolist(), strict=True
        ):
            if token == collate.vocabulary.pad_id:
                break
            if not begins and (continues is None or not continues[original]):
                line.append(" ")
            begins = False
            line.append_text(_piece(tokenizer, token, original, is_chosen, collate.vocabulary.mask_id))
        yield line


_LABELS = {1: "1, the two belong together", 0: "0, they do not", NO_LABEL: "none"}


def _origin(row: PairRow, corpus: Corpus) -> Text:
    """Say where the two segments of a pair are from, and what its label is."""
    text = f"label {_LABELS[row.label]} · {KINDS[row.kind].replace('_', ' ')} · {_place(row.sentence, corpus)}"
    if row.negative >= 0:
        text += f" with {_place(row.negative, corpus)}"
    return Text(f"{text}\n", "cyan")


def _place(sentence: int, corpus: Corpus) -> str:
    document = corpus.document_of(sentence)
    return f"document {document} sentence {sentence - corpus.document_sentences(document).start}"


def _piece(tokenizer: object, token: int, original: int, is_chosen: bool, mask_id: int) -> Text:
    def word(number: int) -> str:
        return str(tokenizer.decode([number])).removeprefix("##").strip() or "▁"  # type: ignore[attr-defined]

    if not is_chosen:
        return Text(word(token))
    if token == mask_id:
        return Text(f"[{word(original)}]", "bold red")
    if token != original:
        return Text(f"{{{word(token)}<{word(original)}}}", "bold yellow")
    return Text(f"({word(original)})", "bold green")
