"""Show a training batch as text: which tokens are masked, replaced, kept, and what a pair is made of."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.text import Text
from transformers import AutoModelForPreTraining

from bertsmith.batching import TrainingStream, rows_per_step
from bertsmith.corpus import Corpus
from bertsmith.detection import Verdict
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.errors import InputError
from bertsmith.masking import Bools
from bertsmith.objectives import OBJECTIVES
from bertsmith.objectives.electra import Electra, ElectraSettings
from bertsmith.pairs import KINDS, NO_LABEL, PairRow
from bertsmith.pretrained import GENERATOR
from bertsmith.rows import Ints, split_documents
from bertsmith.run_settings import RunSettings
from bertsmith.short_rows import make_short_rows
from bertsmith.views import ViewRow

JUDGED = Text.assemble(
    "then what the discriminator made of the generator's samples: ",
    ("found", "bold green"), ": !{sample<original}, with ! where it takes a token for a replaced one · ",
    ("missed", "bold red"), ": {sample<original} · ", ("falsely suspected", "bold yellow"), ": !original",
)  # fmt: skip

LEGEND = Text.assemble(
    ("masked", "bold red"), ": [original] is hidden · ", ("replaced", "bold yellow"), ": {shown<original} · ",
    ("kept", "bold green"), ": (original) must be predicted all the same",
)  # fmt: skip


def show(run: RunSettings, num_rows: int = 4) -> Iterator[Text]:
    """Yield a legend, and the first rows of a run's training as text; colours and brackets say the same.

    Of an ELECTRA that has been trained, each row comes a second time: with the generator's samples, as the
    discriminator sees it.

    Args:
        run: A pre-training run.
        num_rows: How many rows.
    """
    if run.objective.name != "cert":
        yield LEGEND
    corpus = Corpus(run.data.corpus)
    tokenizer = corpus.tokenizer
    if num_rows < 1:
        raise InputError(f"--rows is {num_rows}; expected at least 1")
    kind = OBJECTIVES[run.objective.name]
    stream = _first_steps(run, corpus, num_rows)
    collate = kind.make_collate(run.objective, tokenizer, run.training.seed)
    steps = (stream[step] for step in range(num_rows))
    taken = list(islice(chain.from_iterable(steps), num_rows))
    if isinstance(taken[0], ViewRow):
        yield from (_views(row, tokenizer) for row in taken)
        return
    batch = collate(taken)
    model = Path(run.output) / "model"
    verdict = _judge(model, run, batch, tokenizer) if kind is Electra and model.is_dir() else None
    if verdict is not None:
        yield JUDGED

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
        if verdict is not None:
            line.append("\n\n")
            num_real = int(verdict.real[place].sum())
            seen, logits = (x[place, :num_real].numpy() for x in (verdict.corrupted, verdict.logits))
            line.append_text(_judged(tokenizer, seen, logits, originals[place], continues))
        yield line


def _first_steps(run: RunSettings, corpus: Corpus, num_steps: int) -> TrainingStream[Any]:
    """Make what the run's training begins with: short rows, if it has any."""
    seed, tokens_per_step = run.training.seed, run.training.tokens_per_step
    training, _ = split_documents(corpus, run.data.validation)
    rows = OBJECTIVES[run.objective.name].make_rows(run.objective, corpus, run.data.row_length, training, seed)
    if run.training.short_rows is not None:
        rows = make_short_rows(run.training.short_rows, rows, tokens_per_step).rows
    return TrainingStream(rows, rows_per_step(rows, tokens_per_step), num_steps, seed)


def _views(row: ViewRow, tokenizer: Any) -> Text:
    """Write the two views of a sentence below each other."""
    first, second = (tokenizer.decode(tokens.tolist()) for tokens in (row.first, row.second))
    return Text.assemble((f"row {row.number}\n", "cyan"), f"{first}\n{second}")


def _judge(model: Path, run: RunSettings, batch: dict[str, Any], tokenizer: Any) -> Verdict:
    """Let the model of a run judge a batch."""
    encoder = EncoderSettings(from_pretrained=str(model))
    discriminator = build_encoder(encoder, tokenizer, run.data.row_length, AutoModelForPreTraining)
    assert isinstance(run.objective, ElectraSettings)
    own = replace(run.objective, generator=str(model / GENERATOR))
    objective = Electra.build(discriminator, own, tokenizer).eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "positions")}
    with torch.no_grad():
        logits_MV = objective.generate(**inputs)
        verdict: Verdict = objective.detect(
            **inputs, targets=batch["targets"], draws=batch["draws"], logits_MV=logits_MV
        )
    return verdict


def _judged(
    tokenizer: Any, shown: Ints, logits: npt.NDArray[np.float32], originals: Ints, continues: Bools | None
) -> Text:
    """Write a row with the generator's samples, marked by whether the discriminator finds them."""
    line = Text()
    for place, (token, original) in enumerate(zip(shown.tolist(), originals.tolist(), strict=False)):
        if place and (continues is None or not continues[original]):
            line.append(" ")
        suspicion = "!" if logits[place] > 0 else ""
        if token != original:
            text = f"{suspicion}{{{_word(tokenizer, token)}<{_word(tokenizer, original)}}}"
            line.append(text, "bold green" if suspicion else "bold red")
        else:
            line.append(suspicion + _word(tokenizer, token), "bold yellow" if suspicion else "")
    return line


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


def _piece(tokenizer: Any, token: int, original: int, is_chosen: bool, mask_id: int) -> Text:
    if not is_chosen:
        return Text(_word(tokenizer, token))
    if token == mask_id:
        return Text(f"[{_word(tokenizer, original)}]", "bold red")
    if token != original:
        return Text(f"{{{_word(tokenizer, token)}<{_word(tokenizer, original)}}}", "bold yellow")
    return Text(f"({_word(tokenizer, original)})", "bold green")


def _word(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token])).removeprefix("##").strip() or "▁"
