"""What a model with self-supervised attention looks at, beside what a plain one does, as coloured text.

Of the one it is the learned importance g of each token (see :mod:`bertsmith.ssa`); of the other, which learns no such
thing, what masking a token costs: by how much the probability of the prediction falls, or the value moves.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jinja2 import Environment
from rich.text import Text
from scipy.special import softmax
from transformers import PreTrainedModel
from transformers.utils import logging

from bertsmith.corpus.tokenizer import continues_word
from bertsmith.errors import InputError
from bertsmith.files import write_text
from bertsmith.finetuning.evaluate import EvaluationSettings, as_trained, match_labels
from bertsmith.finetuning.material import Split, read_split
from bertsmith.finetuning.models import longest_input, open_finetuned, open_tokenizer, takes_types
from bertsmith.finetuning.objective import TaskObjective, predict
from bertsmith.finetuning.rows import Collator, Row
from bertsmith.ssa import SsaForSequenceClassification, special_ids
from bertsmith.tasks import load_task
from bertsmith.tasks.examples import TaskData
from bertsmith.training.arguments import use_bf16

Floats = npt.NDArray[np.float64]


_NO_CHARACTER = "\ufffd"
"""What bytes are decoded to that are no character by themselves."""


class Piece(NamedTuple):
    """A token."""

    text: str
    space: str
    """What is between it and the one before."""
    value: float | None
    """What is known of it; None of special tokens."""
    strength: float
    """Of its colour, from 0 to 1."""
    is_left_out: bool
    """Whether the classifier does not attend to it."""


class Line(NamedTuple):
    """An example as one model sees it."""

    of: str
    """Which model, and what the colours mean."""
    prediction: str
    is_right: bool | None
    pieces: list[Piece]


class Shown(NamedTuple):
    """An example."""

    id: str
    label: str
    lines: list[Line]


def show_importance(
    model: str, evaluation: EvaluationSettings, num_rows: int, against: str | None = None
) -> tuple[str, list[Shown]]:
    """Look at the first examples of a task.

    Args:
        model: Folder of a model that was trained with ssa.
        evaluation: The task, and how it is read.
        num_rows: How many examples.
        against: Another model fine-tuned for this task, such as a plain one; None for the effect of masks on the first.

    Returns:
        What is shown, in a line, and the examples.

    Raises:
        InputError: Model and task cannot be read, or do not fit each other.
    """
    logging.disable_progress_bar()
    if num_rows < 1:
        raise InputError(f"--rows is {num_rows}; expected at least 1")
    task = load_task(evaluation.task, need_train=False)
    if task.type == "question_answering":
        raise InputError(f"{task.name}: is question answering, which ssa is not for; give another task")
    name, examples = next(iter(task.splits().items()))
    task = _only(task, name, num_rows)
    learned = _Reader(model, task, name, evaluation)
    if not isinstance(learned.model, SsaForSequenceClassification):
        raise InputError(f"{model}: was not trained with ssa; give it as --against, and one that was as the model")
    other = learned if against is None else _Reader(against, task, name, evaluation)
    lines = [learned.importance(), other.effects()]
    labels = [_label(task, example.label) for example in task.splits()[name]]
    shown = [
        Shown(example.id, label, [of[place] for of in lines])
        for place, (example, label) in enumerate(zip(task.splits()[name], labels, strict=True))
    ]
    return f"{task.name}, {name}, {len(shown)} of {len(examples):,} examples", shown


def _only(task: TaskData, name: str, num: int) -> TaskData:
    """Leave of a task the first examples of one split."""
    some = task.splits()[name][:num]
    return replace(task, train=[], validation={name: some}, test={})


def _label(task: TaskData, label: Any) -> str:
    return "unknown" if label is None else task.labels[label] if task.labels else f"{label:g}"


class _Reader:
    """A model, and the examples as it reads them."""

    def __init__(self, origin: str, task: TaskData, name: str, evaluation: EvaluationSettings) -> None:
        self._origin, self._task = origin, task
        self._tokenizer = open_tokenizer(origin)
        self.model: PreTrainedModel = open_finetuned(origin, task.type)
        self._labels, self._columns = task.labels, list(range(len(task.labels)))
        if task.labels:
            matched, self._columns = match_labels(self.model, origin, task)
            self._labels = matched.labels
        elif self.model.config.num_labels != 1:
            raise InputError(f"{origin}: predicts {self.model.config.num_labels} classes, and {task.name} has values")
        longest = longest_input(self.model.config, self._tokenizer)
        collate = Collator(self._tokenizer.pad_token_id, takes_types(self.model), 1, longest)
        self._objective = TaskObjective(self.model, task.type, collate)
        self._objective.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._bf16 = use_bf16(evaluation.precision)
        reading, _ = as_trained(origin, self.model, self._tokenizer, task.type, evaluation)
        self._split: Split = read_split(name, task.splits()[name], reading)
        if self._tokenizer.mask_token_id is None:
            raise InputError(f"{origin}: its tokenizer has no [MASK], by which tokens are hidden; give another model")
        self._special = special_ids(self._tokenizer)
        try:
            self._continues: npt.NDArray[np.bool_] | None = continues_word(self._tokenizer)
        except InputError:
            # A vocabulary that does not tell.
            self._continues = None

    @torch.no_grad()
    def importance(self) -> list[Line]:
        """Colour by the learned importance."""
        found = []
        said = self._run(self._split.rows)
        config = self.model.config
        # Where nothing is attended to nothing is left out.
        threshold = config.attention_threshold if config.attends else 0.0
        # A head begins with biases of exactly 0; without its loss and without attention it stays so.
        what = (
            "learned importance" if self.model.importance.bias.any() else "learned importance (none: it is untrained)"
        )
        for row, scores in zip(self._split.rows, said, strict=True):
            batch = self._objective.collate([row])
            types = batch["token_type_ids"]
            outputs = self.model(
                batch["input_ids"].to(self.model.device),
                token_type_ids=None if types is None else types.to(self.model.device),
            )
            values = outputs.importance_logits[0].softmax(-1)[:, 1].double().cpu().numpy()
            is_text = outputs.is_text[0].cpu().numpy()
            low, high = (float(of(values[is_text])) if is_text.any() else 0.0 for of in (np.min, np.max))
            strengths = (values - low) / max(high - low, 1e-9)
            title = f"{what}, {low:.2f} to {high:.2f}"
            found.append(self._line(title, row, scores, values, strengths, is_text, values < threshold))
        return found

    def effects(self) -> list[Line]:
        """Colour by what masking a token costs."""
        found = []
        said = self._run(self._split.rows)
        for row, scores in zip(self._split.rows, said, strict=True):
            is_text = ~np.isin(row.tokens, self._special)
            places = np.flatnonzero(is_text)
            forms = []
            for place in places:
                tokens = list(row.tokens)
                tokens[place] = self._tokenizer.mask_token_id
                forms.append(row._replace(tokens=tokens))
            values = np.zeros(len(row.tokens))
            if forms:
                changed = self._run(forms)
                values[places] = self._cost(scores, changed)
            strengths = np.clip(values, 0, None) / max(values.max(), 1e-9)
            title = f"cost of masking a token, at most {values.max():.2f}"
            found.append(self._line(title, row, scores, values, strengths, is_text, np.zeros_like(is_text)))
        return found

    def _run(self, rows: Sequence[Row]) -> Floats:
        logits, _ = predict(self._objective, rows, bf16=self._bf16)
        values = np.asarray(logits, dtype=np.float64)
        return softmax(values, axis=-1)[:, self._columns] if self._labels else values

    def _cost(self, scores: Any, changed: Floats) -> Floats:
        if self._task.labels:
            best = int(np.argmax(scores))
            return np.asarray(scores[best] - changed[:, best])
        moved: Floats = np.abs(changed - scores)
        return moved

    def _line(
        self,
        title: str,
        row: Row,
        scores: Any,
        values: Floats,
        strengths: Floats,
        is_text: npt.NDArray[np.bool_],
        is_left_out: npt.NDArray[np.bool_],
    ) -> Line:
        is_right = None
        if self._task.labels:
            best = int(np.argmax(scores))
            prediction = f"{self._labels[best]} ({scores[best]:.0%})"
            is_right = None if row.target == -100 else self._labels[best] == self._task.labels[int(row.target)]  # type: ignore[arg-type]
        else:
            prediction = f"{scores:.2f}"
        pieces = []
        texts = _texts(self._tokenizer, row.tokens, is_text)
        for place, (token, text) in enumerate(zip(row.tokens, texts, strict=True)):
            is_inside = self._continues is not None and is_text[place - 1] and self._continues[token]
            space = "" if is_inside or not place else " "
            value = float(values[place]) if is_text[place] else None
            strength = float(strengths[place]) if is_text[place] else 0.0
            pieces.append(Piece(text, space, value, strength, bool(is_left_out[place])))
        return Line(f"{self._origin}: {title}", prediction, is_right, pieces)


def _texts(tokenizer: Any, tokens: Sequence[int], is_text: npt.NDArray[np.bool_]) -> list[str]:
    """Write the tokens one by one; a character of several stands at the first, and a dot for each of the others."""
    texts: list[str] = []
    while len(texts) < len(tokens):
        first = len(texts)
        # A character has at most four bytes; what is none by then is written as it is.
        for num in (1, 2, 3, 4, 1):
            part = list(tokens[first : first + num])
            text = str(tokenizer.decode(part))
            if _NO_CHARACTER not in text and is_text[first : first + num].all():
                break
        texts += [text.removeprefix("##").strip() or "▁", *["·"] * (len(part) - 1)]
    return texts


_HEAT = (31, 78, 121)


def to_terminal(title: str, shown: Sequence[Shown]) -> Text:
    """Write examples for a terminal: the stronger the colour, the more a token counts; (left out) of the attention."""
    text = Text(f"{title}; the stronger the colour, the more a token counts, (left out) of the attention\n")
    for one in shown:
        text.append(f"\n{one.id}, label {one.label}\n", "bold")
        for line in one.lines:
            mark = {None: "", True: " ✓", False: " ✗"}[line.is_right]
            text.append(f"  {line.of}; predicts {line.prediction}{mark}\n  ", "cyan")
            for piece in line.pieces:
                text.append(piece.space)
                word = f"({piece.text})" if piece.is_left_out and piece.value is not None else piece.text
                text.append(word, _style(piece))
            text.append("\n")
    return text


def _style(piece: Piece) -> str:
    if piece.value is None:
        return "dim"
    red, green, blue = (round(255 - piece.strength * (255 - part)) for part in _HEAT)
    return f"{'white' if piece.strength > 0.5 else 'black'} on rgb({red},{green},{blue})"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 15px/1.9 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.2em; } h2 { font-size: 1em; margin: 1.6em 0 0; }
p { margin: .3em 0; } .of { color: #667; font-size: .85em; }
.special { color: #aaa; font-size: .85em; } .out { text-decoration: line-through; }
.right { color: #2a7d3f; } .wrong { color: #c0504d; }
span[title] { border-radius: 3px; padding: 1px 2px; }
</style>
<h1>{{ title }}</h1>
<p>The stronger the colour, the more a token counts; a token that is struck out is left out of the attention. The figure
of each is shown under the pointer.</p>
{% for one in shown %}
<h2>{{ one.id }}, label {{ one.label }}</h2>
{% for line in one.lines %}
<p class="of">{{ line.of }}; predicts <span class="{{ marks[line.is_right] }}">{{ line.prediction }}</span></p>
<p>{% for piece in line.pieces %}{{ piece.space }}{% if piece.value is none -%}
<span class="special">{{ piece.text }}</span>
{%- else -%}
<span{% if piece.is_left_out %} class="out"{% endif %} title="{{ '%.3f'|format(piece.value) }}" style="
{{- 'background: rgba(31, 78, 121, %.2f)'|format(piece.strength) }}
{%- if piece.strength > 0.5 %}; color: #fff{% endif %}">{{ piece.text }}</span>
{%- endif %}{% endfor %}</p>
{% endfor %}{% endfor %}
</html>
"""


def write_html(path: Path, title: str, shown: Sequence[Shown]) -> None:
    """Write examples as a page that needs no other file.

    Raises:
        InputError: It cannot be written.
    """
    page = Environment(autoescape=True).from_string(_PAGE)
    text = page.render(title=title, shown=shown, marks={None: "", True: "right", False: "wrong"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror}); give another") from None
