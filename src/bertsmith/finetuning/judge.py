"""Scoring after the epochs: which is the best, and when there is no hope of a better one."""

from collections.abc import Mapping
from typing import Any

from bertsmith.finetuning.material import Material, Split, to_predictions
from bertsmith.finetuning.objective import TaskObjective, predict
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.tasks.examples import Predictions
from bertsmith.tasks.metrics import is_better
from bertsmith.tasks.question_answering import best_null_threshold
from bertsmith.training.trainer import ObjectiveTrainer


class Judge:
    """Scores the model after every epoch, and knows the best.

    Attributes:
        facts: What a checkpoint must keep: hashes of data and model, ``best_step`` and its ``best`` score, and
            ``epochs_since`` it.
        material: The task.
        trainer: Whose steps are judged; set before training begins.
    """

    trainer: ObjectiveTrainer

    def __init__(self, run: FinetuningSettings, material: Material, objective: TaskObjective, bf16: bool) -> None:
        self.facts: dict[str, Any] = {**material.facts, "best_step": None, "best": None, "epochs_since": 0}
        self._patience = run.training.early_stopping
        self.material = material
        self._objective = objective
        self._bf16 = bf16
        self._of_best: dict[str, tuple[Predictions, dict[str, float]]] = {}

    @property
    def is_patience_over(self) -> bool:
        """Whether the last epochs were no better than the best for as long as the run waits."""
        return self._patience is not None and self.facts["epochs_since"] >= self._patience

    @property
    def best(self) -> str:
        """The best score in words."""
        return f"{self.material.task.metrics[0]} {self.facts['best']:.4f}"

    def figures(self) -> dict[str, float]:
        """Score all validation sets; figures of those behind the first carry their names."""
        return self._figures_of({split.name: self.score(split) for split in self.material.validation})

    def _figures_of(self, scored: Mapping[str, tuple[Predictions, dict[str, float]]]) -> dict[str, float]:
        figures: dict[str, float] = {}
        for split in self.material.validation:
            _, scores = scored[split.name]
            is_first = split is self.material.validation[0]
            figures |= scores if is_first else {f"{split.name}_{name}": value for name, value in scores.items()}
        return figures

    def __call__(self) -> dict[str, float]:
        """Score all validation sets after an epoch, and note whether it is the best."""
        scored = {split.name: self.score(split) for split in self.material.validation}
        figures = self._figures_of(scored)
        metric = self.material.task.metrics[0]
        if self.facts["best"] is None or is_better(metric, figures[metric], self.facts["best"]):
            self.facts |= {"best_step": self.trainer.state.global_step, "best": figures[metric], "epochs_since": 0}
            self._of_best = scored
        else:
            self.facts["epochs_since"] += 1
            self.trainer.control.should_training_stop |= self.is_patience_over
        return figures

    def score_best(self, split: Split) -> tuple[Predictions, dict[str, float]]:
        """Score a validation set with the best model, which is loaded again; after a resume that is done anew."""
        return self._of_best.get(split.name) or self.score(split)

    def score(self, split: Split, null_threshold: float = 0.0) -> tuple[Predictions, dict[str, float]]:
        """Predict a split, and score it if it is labelled: loss first, then the metrics of the task."""
        material = self.material
        logits, loss = predict(self._objective, split.rows, bf16=self._bf16)
        predictions = to_predictions(split, logits, material.reading, material.null_answers, null_threshold)
        if not split.is_labelled:
            return predictions, {}
        assert loss is not None
        return predictions, {"loss": loss, **material.score(split, predictions)}

    def best_null_threshold(self) -> float:
        """Find by how much "no answer" should score above the best span: what gives the best F1 in validation."""
        split, reading = self.material.validation[0], self.material.reading
        logits, _ = predict(self._objective, split.rows, bf16=self._bf16)
        assert split.windows is not None
        length = reading.max_answer_length
        return best_null_threshold(split.examples, split.windows, logits, max_answer_length=length)
