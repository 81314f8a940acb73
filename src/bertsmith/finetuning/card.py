"""The model card of a fine-tuned model."""

from collections.abc import Mapping

from bertsmith.finetuning.material import Material
from bertsmith.finetuning.settings import FinetuningSettings
from bertsmith.markdown import code, plain

_CHOSEN = {
    "best": "The epoch was chosen on the first validation split, so its figures are slightly too good. ",
    "last": "",
}


def model_card(
    run: FinetuningSettings, material: Material, seed: int, scores: Mapping[str, Mapping[str, float]]
) -> str:
    """Write the text of the model card."""
    task = material.task
    lines = "\n".join(
        f"| {plain(split)} | {plain(name)} | {value:.4f} |"
        for split, figures in scores.items()
        for name, value in figures.items()
    )
    if task.type == "question_answering":
        tag, usage = (
            "question-answering",
            """from transformers import AutoModelForQuestionAnswering
model = AutoModelForQuestionAnswering.from_pretrained("path/to/this/folder")""",
        )
    else:
        tag, usage = (
            "text-classification",
            """from transformers import pipeline
model = pipeline("text-classification", "path/to/this/folder")""",
        )
    if run.ssa is not None or run.pooling != "cls":
        usage = f"import bertsmith.finetuning.models  # knows this architecture\n{usage}"
    origin = f"the architecture of {code(run.model)} with new weights" if run.from_scratch else code(run.model)
    attention = "" if run.ssa is None else " with self-supervised attention (arXiv 2004.03808)"
    return f"""---
library_name: transformers
pipeline_tag: {tag}
tags: [bertsmith]
---
# {plain(task.name)}, fine-tuned with bertsmith

{origin[0].upper()}{origin[1:]}, fine-tuned for {task.type.replace("_", " ")} on {code(task.name)}{attention},
seed {seed}, {run.training.selection} epoch.

```python
{usage}
```

| split | measure | |
|---|---|---|
{lines}

{_CHOSEN[run.training.selection]}The whole run is described by `run.yaml` in the folder above.
"""
