"""The operations that a budget counts are those that torch counts, but for what is no matrix product."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.objectives import OBJECTIVES
from bertsmith.settings import to_dict, validate

ROW_LENGTH = 64
SIZES = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "architecture"),
    [
        ({"name": "mlm"}, "bert"),
        ({"name": "mlm"}, "modernbert"),
        ({"name": "mlm", "unit": "word", "mask_prob": 0.4}, "roberta"),
        ({"name": "nsp"}, "bert"),
        ({"name": "ssp", "negatives": "same_document"}, "bert"),
        ({"name": "span", "sbo": False}, "bert"),
        ({"name": "span"}, "bert"),
        ({"name": "electra"}, "electra"),
        ({"name": "electra", "sampling": "gumbel_softmax", "generator_size": 0.5}, "electra"),
        ({"name": "cert", "views": "dropout", "negatives": "in_batch"}, "bert"),
        ({"name": "cert", "views": "crop", "queue_size": 64}, "bert"),
    ],
)
def test_counted_operations_are_those_of_torch(corpus: Corpus, objective: dict[str, Any], architecture: Any) -> None:
    kind = OBJECTIVES[objective["name"]]
    given = validate(kind.Config, objective, "test")
    config = {**SIZES, "hidden_dropout_prob": 0.1} if objective.get("views") == "dropout" else SIZES
    torch.manual_seed(0)
    encoder = build_encoder(
        EncoderSettings(preset="tiny", architecture=architecture, config=dict(config)),
        corpus.tokenizer,
        ROW_LENGTH,
        kind.encoder_class(to_dict(given)),
    )
    # Fused attention is counted otherwise, with what its backward pass computes anew.
    encoder.set_attn_implementation("eager")
    model = kind.build(encoder, given, corpus.tokenizer)
    for other in model.companions().values():
        other.set_attn_implementation("eager")
    rows = kind.make_rows(given, corpus, ROW_LENGTH)
    # Rows of one length, so that no padding is computed.
    indices = np.arange(rows.num_rows(0))
    lengths = rows.lengths(indices, np.zeros_like(indices))
    common = np.bincount(lengths).argmax()
    chosen = indices[lengths == common][:16]
    batch = model.collate(rows.take(chosen, np.zeros_like(chosen)))
    with FlopCounterMode(display=False) as counter:
        model(**batch)["loss"].backward()
    assert model.flops(np.full(len(chosen), common)) == pytest.approx(counter.get_total_flops(), rel=0.03)
