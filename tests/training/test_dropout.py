import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from transformers import BertConfig, BertModel

from bertsmith.training.dropout import Dropout, use_fast_dropout


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_values_are_dropped_at_the_rate_each_on_its_own_and_the_others_scaled(rate: float) -> None:
    torch.manual_seed(0)
    draws = torch.stack([Dropout(rate)(torch.ones(3, 7)) for _ in range(5_000)])
    kept = draws != 0
    torch.testing.assert_close(draws[kept], torch.full((int(kept.sum()),), 1 / (1 - rate)), rtol=2e-4, atol=0)
    dropped = (~kept).sum(0).flatten().numpy()
    # Each of 21 places, so that all four values of a draw are seen; then places next to each other, and four apart.
    assert min(stats.binomtest(int(k), 5_000, rate).pvalue for k in dropped) > 1e-4
    flat = kept.flatten(1).numpy().astype(float)
    correlations = np.corrcoef(flat.T)[~np.eye(21, dtype=bool)]
    assert np.abs(correlations).max() < 5 / np.sqrt(5_000)


def test_gradients_pass_where_values_stay() -> None:
    input = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    output = Dropout(0.25)(input)
    output.sum().backward()
    assert input.grad is not None
    torch.testing.assert_close(input.grad, torch.where(output == 0, 0, 4 / 3).double(), rtol=1e-4, atol=0)


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    dropout, input = Dropout(0.3), torch.randn(2, 9, dtype=torch.bfloat16)
    outputs = []
    for _ in range(2):
        torch.manual_seed(4)
        outputs.append(dropout(input))
    assert torch.equal(*outputs) and outputs[0].dtype == input.dtype and not torch.equal(dropout(input), outputs[0])
    assert torch.equal(dropout.eval()(input), input)
    assert torch.equal(Dropout(0.0)(input), input) and not Dropout(1.0)(input).any()
    assert Dropout(0.5)(torch.empty(0, 3)).shape == (0, 3)


def test_every_dropout_of_a_model_is_replaced_and_its_weights_are_untouched() -> None:
    sizes = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(**sizes, intermediate_size=8, hidden_dropout_prob=0.2)).eval()
    before, names = model.state_dict(), list(model.state_dict())
    use_fast_dropout(model)
    kinds = [(type(module), module.p, module.training) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert {kind for kind in kinds if kind[1] == 0.2} == {(Dropout, 0.2, False)}
    assert all(kind is Dropout for kind, _, _ in kinds) and len(kinds) >= 5
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model.state_dict(), before, atol=0, rtol=0)
