"""The model card of a fine-tuned model."""

from collections.abc import Mapping

from bertsmith.finetuning.material import Material
from bertsmith.finetuning.settings import FinetuningSettings


def model_card(
    run: FinetuningSettings, material: Material, seed: int, scores: Mapping[str, Mapping[str, float]]
) -> str:
    """Write the text of the model card."""
    task = material.task
    lines = "\n".join(
        f"| {split} | {name} | {value:.4f} |" for split, figures in scores.items() for name, value in figures.items()
    )
    if task.type == "question_answering":
        tag, code = (
            "question-answering",
            """from transformers import AutoModelForQuestionAnswering
model = AutoModelForQuestionAnswering.from_pretrained("path/to/this/folder")""",
        )
    else:
        tag, code = (
            "text-classification",
            """from transformers import pipeline
model = pipeline("text-classification", "path/to/this/folder")""",
        )
    if run.pooling != "cls":
        code = f"import bertsmith.finetuning.models  # knows this architecture\n{code}"
    origin = f"the architecture of `{run.model}` with new weights" if run.from_scratch else f"`{run.model}`"
    return f"""---
library_name: transformers
pipeline_tag: {tag}
tags: [bertsmith]
---
# {task.name}, fine-tuned with bertsmith

{origin[0].upper()}{origin[1:]}, fine-tuned for {task.type.replace("_", " ")} on `{task.name}`, seed {seed}, best epoch.

```python
{code}
```

| split | measure | |
|---|---|---|
{lines}

The epoch was chosen on the first validation split, so its figures are slightly too good. The whole run is described by
`run.yaml` in the folder above.
"""
