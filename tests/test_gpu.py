"""What makes a GPU fast must change no loss; what a CPU can show of it, and on a GPU the rest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import linear
from transformers import AutoModelForMaskedLM

from bertsmith.batching import Batching, TrainingStream
from bertsmith.corpus import Corpus
from bertsmith.encoder import EncoderSettings, build_encoder
from bertsmith.errors import InputError
from bertsmith.gpu import (
    align_vocabulary,
    aligned_linear,
    expected_seconds,
    in_smaller_parts,
    keep_norms_half,
    speed_up,
)
from bertsmith.objectives import MLM, OBJECTIVES, Objective
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import RunSettings
from bertsmith.settings import merge, to_dict, validate
from bertsmith.training.budget import BudgetSettings
from bertsmith.training.monitors import read_metrics

SETTINGS: dict[str, dict[str, Any]] = {
    "mlm": {},
    "nsp": {},
    "ssp": {},
    "span": {},
    "electra": {"generator_size": 0.5},
    "cert": {"views": "crop", "queue_size": 64, "projection": 16, "mlm_weight": 0.5},
}


@pytest.fixture(params=SETTINGS)
def objective_and_batch(request: pytest.FixtureRequest, corpus: Corpus) -> tuple[Objective, dict[str, Any]]:
    """A new objective, and a micro-batch of 16 of its rows, bucketed."""
    return make(request.param, corpus)


def make(name: str, corpus: Corpus, batching: Batching = "bucketed") -> tuple[Objective, dict[str, Any]]:
    kind = OBJECTIVES[name]
    settings = kind.Config(**SETTINGS[name])
    torch.manual_seed(0)
    architecture: Any = "electra" if name == "electra" else "bert"
    encoder_settings = EncoderSettings(preset="tiny", architecture=architecture)
    encoder = build_encoder(encoder_settings, corpus.tokenizer, 32, kind.encoder_class(to_dict(settings)))
    objective = kind.build(encoder, settings, corpus.tokenizer)
    if batching == "packed":
        objective.pack()
    # The same rows, however they are laid out.
    stream = TrainingStream(kind.make_rows(settings, corpus, 32), 16, 4, seed=0)
    return objective, objective.collate([stream[0]])


@pytest.mark.slow
def test_no_objective_asks_the_device_for_a_value(
    objective_and_batch: tuple[Objective, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value on the host makes it wait for the device: fake tensors have none, and say where one is asked for."""
    objective, batch = objective_and_batch
    for module in ("base", "span"):  # what stands there for a device that is no CPU
        monkeypatch.setattr(f"bertsmith.objectives.{module}.guesses", lambda logits: logits.detach().argmax(-1))
    num_items = {name: torch.as_tensor(float(items)) for name, items in objective.count_items(batch).items()}
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {name: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
        objective.count_items(fake)
        output = objective(**fake, num_items=num_items)
        output.loss.backward()
        with pytest.raises(DataDependentOutputException):
            output.loss.item()


@pytest.mark.parametrize("num_tokens", [61, 64, 101])
@pytest.mark.parametrize("bias", [True, False])
def test_an_aligned_vocabulary_has_the_same_logits_and_gradients(num_tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    decoder, states = torch.nn.Linear(8, num_tokens, bias), torch.randn(5, 8, requires_grad=True)
    weights = torch.randn(5, num_tokens)
    leaves = [states, *decoder.parameters()]
    found = [
        [logits.detach(), *torch.autograd.grad((logits * weights).sum(), leaves)]
        for logits in (linear(states, decoder.weight, decoder.bias), aligned_linear(decoder, states))
    ]
    for plain, aligned in zip(*found, strict=True):
        torch.testing.assert_close(aligned, plain)


def test_an_aligned_model_keeps_its_weights_and_ties(corpus: Corpus, tmp_path: Path) -> None:
    encoder = build_encoder(EncoderSettings(preset="tiny"), corpus.tokenizer, 32)
    encoder.resize_token_embeddings(509)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    align_vocabulary(encoder)
    encoder.save_pretrained(tmp_path)
    opened = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert opened.config.vocab_size == 509
    assert all(torch.equal(value, before[name]) for name, value in opened.state_dict().items())
    assert encoder.get_output_embeddings().weight is encoder.get_input_embeddings().weight
    assert torch.equal(encoder(torch.arange(9)[None]).logits, opened(torch.arange(9)[None]).logits)


def test_norms_return_half_precision_under_autocast_only(corpus: Corpus) -> None:
    encoder = build_encoder(EncoderSettings(preset="tiny"), corpus.tokenizer, 32)
    ids = torch.arange(20)[None]
    exact = encoder.base_model(ids).last_hidden_state
    keep_norms_half(encoder)
    assert torch.equal(encoder.base_model(ids).last_hidden_state, exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder.base_model(ids).last_hidden_state
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.1)


def test_how_long_a_run_should_take() -> None:
    step = {"tokens": 1e4, "flops": 1e13}
    assert expected_seconds(BudgetSettings(seconds=7), **step) == 7
    assert expected_seconds(BudgetSettings(steps=30), **step) == pytest.approx(3)
    assert expected_seconds(BudgetSettings(tokens=1e6), **step) == pytest.approx(10)
    assert expected_seconds(BudgetSettings(flops=1e15), **step) == pytest.approx(10)


def test_a_cpu_compiles_only_when_told(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, _ = make("mlm", corpus)
    compiled: list[object] = []
    monkeypatch.setattr(Objective, "compile_layers", lambda self: compiled.append(self))
    if not torch.cuda.is_available():
        assert speed_up(objective, half=True, wanted="auto", seconds=1e6) is None
    assert speed_up(objective, half=True, wanted=False, seconds=1e6) is None
    assert not compiled
    assert "first steps" in (speed_up(objective, half=True, wanted=True, seconds=1) or "")
    assert compiled == [objective]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_layers_have_the_same_loss_and_gradients(corpus: Corpus) -> None:
    objective, batch = make("mlm", corpus)
    found = []
    for is_compiled in (False, True):
        if is_compiled:
            objective.compile_layers()
        objective.zero_grad()
        loss = objective(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in objective.parameters())])
    for plain, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-6, rtol=1e-4)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def run_settings(corpus_folder: Path, output: Path, **changes: Any) -> RunSettings:
    values = {
        "data": {"corpus": str(corpus_folder), "row_length": 32, "validation": 0.1},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "mlm"},
        "training": {"budget": {"steps": 6}, "tokens_per_step": 512, "precision": "fp32"},
        "evaluation": {"every": 0.5, "rows": 32},
        "output": str(output),
    }
    return validate(RunSettings, merge(values, changes), "test")


def small_memory(monkeypatch: pytest.MonkeyPatch, num_rows: int, step: int = 0) -> list[int]:
    """Let memory be enough for so many rows at once from a step on; returns the list of what was asked for."""
    forward: Callable[..., Any] = MLM.forward
    asked: list[int] = []

    def bounded(self: MLM, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(len(input_ids))
        if self.training and len(asked) > step and len(input_ids) > num_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(MLM, "forward", bounded)
    return asked


@pytest.mark.slow
def test_too_little_memory_divides_the_steps_and_goes_on(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = pretrain(run_settings(corpus_folder, tmp_path / "whole"))
    asked = small_memory(monkeypatch, num_rows=6)
    divided = pretrain(run_settings(corpus_folder, tmp_path / "divided"))
    first, second, *others = (rows for rows in asked if rows > 1)
    assert first > 12 and 6 < second <= 8 and max(others[:4]) <= 4
    assert "going on with 4 micro-batches a step" in capfd.readouterr().err
    assert divided["tokens"] == whole["tokens"]
    assert divided["loss"] == pytest.approx(whole["loss"], abs=1e-5)
    assert [row["step"] for row in read_metrics(tmp_path / "divided") if "loss" in row] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_memory_that_runs_out_later_costs_what_follows_the_last_checkpoint(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"training": {"checkpoint_every": 0.5, "budget": {"steps": 6}}, "data": {"validation": 0}}
    whole = pretrain(run_settings(corpus_folder, tmp_path / "whole", **changes))
    asked = small_memory(monkeypatch, num_rows=8, step=4)
    divided = pretrain(run_settings(corpus_folder, tmp_path / "divided", **changes))
    # Four steps, the fifth in vain, and three from the checkpoint of the third, in two parts each.
    assert len(asked) == 5 + 6
    assert min(asked[:5]) > 8 >= max(asked[5:])
    assert divided["loss"] == pytest.approx(whole["loss"], abs=1e-5)


def test_memory_for_not_even_one_row(corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, num_rows=0)
    with pytest.raises(InputError, match=r"not enough memory on the GPU.*lower training.tokens_per_step"):
        pretrain(run_settings(corpus_folder, tmp_path / "run"))


def test_one_of_several_ranks_says_how_to_divide(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InputError, match="rank 1: not enough memory.*gradient_accumulation to 2"):
        in_smaller_parts(run_settings(corpus_folder, tmp_path / "run"))


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SETTINGS)
def test_training_does_not_wait_for_the_gpu(name: str, corpus: Corpus) -> None:
    objective, batch = make(name, corpus, "packed")
    objective.cuda()
    speed_up(objective, half=True, wanted=False, seconds=0)
    batch = send_to_device(batch, "cuda")
    for is_strict in (False, True):
        torch.cuda.set_sync_debug_mode("error" if is_strict else "default")
        try:
            zero = torch.zeros((), device="cuda")
            num_items = {
                part: (zero + items).float().clamp(min=1e-6) for part, items in objective.count_items(batch).items()
            }
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = objective(**batch, num_items=num_items).loss
            loss.backward()
            objective.after_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert loss.isfinite()


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", SETTINGS)
def test_compiled_and_packed_on_a_gpu_equals_plain_fp32(name: str, corpus: Corpus) -> None:
    objective, batch = make(name, corpus)
    torch.manual_seed(0)
    expected = objective.eval()(**batch).loss.item()
    packed, batch = make(name, corpus, "packed")
    packed.load_state_dict(objective.state_dict())
    packed.cuda().eval()
    speed_up(packed, half=True, wanted=True, seconds=0)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = packed(**send_to_device(batch, "cuda")).loss.item()
    assert found == pytest.approx(expected, rel=0.005)


@pytest.mark.gpu
@pytest.mark.filterwarnings("default")
def test_a_run_on_a_gpu_learns_what_one_on_a_cpu_does(corpus_folder: Path, tmp_path: Path) -> None:
    losses = {}
    for compiled in (False, True):
        changes = {"training": {"precision": "bf16", "compile": compiled, "budget": {"steps": 30}}}
        pretrain(run_settings(corpus_folder, tmp_path / str(compiled), **changes))
        rows = read_metrics(tmp_path / str(compiled))
        losses[compiled] = np.asarray([row["loss"] for row in rows if "loss" in row])
        assert json.loads((tmp_path / str(compiled) / "summary.json").read_text())["density"] > 0.9
    assert np.abs(losses[True] - losses[False]).max() < 0.02
