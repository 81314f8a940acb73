"""From text over span masking to a fine-tuned model, through the doors of a user."""

import json
from pathlib import Path

import pytest
from finetuning_helpers import MakeRun, sentences

from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.export import export_checkpoint
from bertsmith.finetuning.run import finetune
from bertsmith.pretraining import pretrain
from bertsmith.run_settings import load_run


@pytest.mark.slow
@pytest.mark.parametrize("with_head", [False, True])
def test_an_exported_span_model_answers_questions_and_classifies(
    make_run: MakeRun, encoder_folder: Path, tmp_path: Path, with_head: bool
) -> None:
    texts = [text for text, _ in sentences(400, 3)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts), encoding="utf-8")
    tokenizer = TokenizerSettings(from_pretrained=str(encoder_folder))
    build([str(tmp_path / "text.txt")], tmp_path / "corpus", BuildSettings(tokenizer=tokenizer), workers=1)
    run = {
        "data": {"corpus": str(tmp_path / "corpus"), "row_length": 64},
        "encoder": {"preset": "tiny"},
        "objective": {"name": "span"},
        "training": {"budget": {"steps": 5}, "tokens_per_step": 512},
        "output": str(tmp_path / "span"),
    }
    (tmp_path / "span.yaml").write_text(json.dumps(run))
    pretrain(load_run(tmp_path / "span.yaml"))
    model = export_checkpoint(tmp_path / "span", tmp_path / "model", with_head=with_head)
    assert (model / "head.safetensors").exists() == with_head
    answers = finetune(make_run("squad", model=str(model), output=str(tmp_path / "squad")))
    assert 0 <= answers["metrics"]["validation"]["f1"]["mean"] <= 1
    classes = finetune(make_run("texts", model=str(model), output=str(tmp_path / "texts"), pooling="max"))
    assert classes["metrics"]["validation"]["accuracy"]["n"] == 1
