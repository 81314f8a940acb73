"""Checkpoints of BERTs that do not name their architecture, as SpanBERT's are published."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from bertsmith.corpus import Corpus
from bertsmith.corpus.build import BuildSettings, build
from bertsmith.corpus.tokenizer import TokenizerSettings
from bertsmith.encoder import EncoderSettings, build_encoder, hidden_states
from bertsmith.errors import InputError
from bertsmith.finetuning.models import build_model, open_tokenizer
from bertsmith.objectives import Span
from bertsmith.objectives.span import SpanSettings
from bertsmith.pretrained import load_any, open_pretrained
from bertsmith.rows import TextRows

WORDS = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "B", ".", "##B"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BertForMaskedLM]:
    """A folder as SpanBERT's authors publish it: no architecture, no head, no tokenizer but its vocabulary."""
    folder = tmp_path_factory.mktemp("published") / "spanbert"
    folder.mkdir()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForMaskedLM(BertConfig(vocab_size=len(WORDS), initializer_range=0.2, **sizes)).eval()
    weights = {
        # The names of norms before 2019.
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in model.state_dict().items()
        if name.startswith("bert.")
    }
    torch.save(weights, folder / "pytorch_model.bin")
    fields = ("vocab_size", "max_position_embeddings", "type_vocab_size", "hidden_act", "hidden_dropout_prob", *sizes)
    (folder / "config.json").write_text(json.dumps({name: getattr(model.config, name) for name in fields}))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder, model


@pytest.fixture(scope="module")
def corpus_of_it(published: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("abc Bcd. bad cab dab\n\n" * 40)
    settings = BuildSettings(tokenizer=TokenizerSettings(from_pretrained=str(published[0])))
    return build([str(folder / "text.txt")], folder / "corpus", settings, workers=1)


def test_transformers_does_not_open_it_by_itself(published: tuple[Path, Any]) -> None:
    with pytest.raises(ValueError, match="model_type"):
        AutoConfig.from_pretrained(published[0])


def test_its_pre_training_goes_on(published: tuple[Path, BertForMaskedLM], corpus_of_it: Corpus, capfd: Any) -> None:
    folder, model = published
    settings = EncoderSettings(from_pretrained=str(folder), config={"hidden_dropout_prob": 0.0})
    encoder = build_encoder(settings, corpus_of_it.tokenizer, 32)
    assert "a new one is trained" in capfd.readouterr().err
    assert encoder.config.hidden_dropout_prob == 0.0
    objective = Span.build(encoder, SpanSettings(), corpus_of_it.tokenizer).eval()
    rows = TextRows(corpus_of_it, 32)
    batch = objective.collate([rows[0], rows[1]])
    expected = model.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    torch.testing.assert_close(hidden_states(encoder, batch["input_ids"], batch["attention_mask"]), expected)
    assert objective(**batch).loss.isfinite()


def test_its_case_is_kept(published: tuple[Path, Any]) -> None:
    tokenizer = open_tokenizer(str(published[0]))
    assert tokenizer.convert_ids_to_tokens(tokenizer("Bc").input_ids) == ["[CLS]", "B", "##c", "[SEP]"]
    assert tokenizer.model_max_length == 512


def test_it_is_fine_tuned(published: tuple[Path, BertForMaskedLM]) -> None:
    folder, model = published
    for pooling in ("cls", "mean"):
        made = build_model(str(folder), type="classification", labels=["a", "b"], pooling=pooling)  # type: ignore[arg-type]
        own = made.base_model.state_dict()["encoder.layer.1.output.dense.weight"]
        assert torch.equal(own, model.bert.encoder.layer[1].output.dense.weight)


def test_folders_that_name_their_architecture_are_opened_as_ever(corpus: Corpus, tmp_path: Path) -> None:
    made = build_encoder(EncoderSettings(preset="tiny", architecture="electra"), corpus.tokenizer, 32)
    made.save_pretrained(tmp_path)
    corpus.tokenizer.save_pretrained(tmp_path)
    assert load_any(AutoConfig.from_pretrained, str(tmp_path)).model_type == "electra"
    assert load_any(AutoModel.from_pretrained, str(tmp_path)).config.model_type == "electra"
    assert load_any(AutoTokenizer.from_pretrained, str(tmp_path)).get_vocab() == corpus.tokenizer.get_vocab()


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["영화", "가", "좋다", "é", "a"], "영화 가 좋다 é A", ["영화", "가", "좋다", "é", "a"]),
        (["film", "e", "a"], "Film é A", ["film", "e", "a"]),
        (["Film", "e", "É"], "Film É é", ["Film", "É", "[UNK]"]),
    ],
)
def test_a_vocabulary_shows_whether_case_and_accents_count(
    published: tuple[Path, Any], tmp_path: Path, words: list[str], text: str, expected: list[str]
) -> None:
    (tmp_path / "config.json").write_bytes((published[0] / "config.json").read_bytes())
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS[:6], *words]) + "\n", encoding="utf-8")
    tokenizer = load_any(AutoTokenizer.from_pretrained, str(tmp_path))
    assert tokenizer.tokenize(text) == expected


@pytest.mark.parametrize(
    "config",
    [
        *('{"hidden_size": 32}', "[]", "{", '{"type_vocab_size": 1, "intermediate_size": 2}'),
        '{"type_vocab_size": 2, "intermediate_size": 2, "embedding_size": 2}',
        '{"type_vocab_size": 2, "intermediate_size": 2, "architectures": ["ElectraForMaskedLM"]}',
    ],
)
def test_other_folders_are_not_taken_for_a_bert(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(InputError, match="cannot open the model"):
        open_pretrained(AutoModelForMaskedLM.from_pretrained, str(tmp_path), "model")
