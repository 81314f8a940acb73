"""Show a training batch as text: which tokens are masked, replaced, kept."""

from collections.abc import Iterator

import numpy as np
from rich.text import Text

from bertsmith.corpus import Corpus
from bertsmith.errors import InputError
from bertsmith.objectives import OBJECTIVES
from bertsmith.rows import TextRows, TrainingStream, split_documents
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
    rows = TextRows(corpus, run.data.row_length, split_documents(corpus, run.data.validation)[0])
    rows_per_step = rows.rows_per_step(run.training.tokens_per_step)
    stream = TrainingStream(rows, rows_per_step, -(-num_rows // rows_per_step), run.training.seed)
    collate = OBJECTIVES[run.objective.name].make_collate(run.objective, tokenizer, run.training.seed)
    batch = collate(stream.__getitems__(range(num_rows)))

    shown, positions, targets = (batch[name].numpy() for name in ("input_ids", "positions", "targets"))  # type: ignore[union-attr]
    originals = shown.copy()
    originals.ravel()[positions] = targets
    chosen = np.zeros(shown.shape, dtype=bool)
    chosen.ravel()[positions] = True
    continues = collate.vocabulary.continues
    for place in range(num_rows):
        line = Text()
        for token, original, is_chosen in zip(
            shown[place].tolist(), originals[place].tolist(), chosen[place].tolist(), strict=True
        ):
            if token == collate.vocabulary.pad_id:
                break
            if len(line) and (continues is None or not continues[original]):
                line.append(" ")
            line.append_text(_piece(tokenizer, token, original, is_chosen, collate.vocabulary.mask_id))
        yield line


def _piece(tokenizer: object, token: int, original: int, is_chosen: bool, mask_id: int) -> Text:
    def word(number: int) -> str:
        return str(tokenizer.decode([number])).removeprefix("##").strip()  # type: ignore[attr-defined]

    if not is_chosen:
        return Text(word(token))
    if token == mask_id:
        return Text(f"[{word(original)}]", "bold red")
    if token != original:
        return Text(f"{{{word(token)}<{word(original)}}}", "bold yellow")
    return Text(f"({word(original)})", "bold green")
