"""The encoder of a fine-tuned model, without what fine-tuning has put on it."""

from pathlib import Path

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging

from bertsmith.files import new_folder
from bertsmith.finetuning.models import open_encoder, open_tokenizer, save_model
from bertsmith.markdown import code

_POOLER_SEED = 0


def open_bare(model: str) -> PreTrainedModel:
    """Open an encoder, with a pooler where its architecture has one.

    A pooler that the model lacks is new, but always the same; without it whatever opens the encoder next would make a
    random one at every opening, and warn of it. The last hidden states do not depend on it.

    Raises:
        InputError: It cannot be opened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_POOLER_SEED)
        encoder = open_encoder(model)
        if "pooler" not in encoder._modules or encoder.pooler is not None:
            return encoder
        # A fine-tuned model that pools by itself has dropped it.
        bare: PreTrainedModel = AutoModel.from_config(encoder.config, dtype=torch.float32)
    bare.load_state_dict({**bare.state_dict(), **encoder.state_dict()})
    return bare


def export_encoder(origin: str | Path, out: str | Path) -> Path:
    """Write the encoder of a model folder as a plain transformers model, which AutoModel opens.

    Args:
        origin: The folder of a model, such as one that was fine-tuned with ssa.
        out: The folder to write; it must not exist.

    Returns:
        The folder written.

    Raises:
        InputError: The model cannot be opened, or ``out`` exists or cannot be written.
    """
    with new_folder(Path(out), "--out") as folder:
        logging.disable_progress_bar()
        tokenizer, encoder = open_tokenizer(str(origin)), open_bare(str(origin))
        save_model(encoder, tokenizer, folder, _CARD.format(origin=code(str(origin))))
    return Path(out)


_CARD = """---
library_name: transformers
pipeline_tag: feature-extraction
tags: [bertsmith]
---
# The encoder of a fine-tuned model

The encoder of {origin} alone, without the layers that predict, written by `bertsmith export`.

```python
from transformers import AutoModel
encoder = AutoModel.from_pretrained("path/to/this/folder")
```
"""
