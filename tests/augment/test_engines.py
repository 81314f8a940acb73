"""The engines: equal where they claim to be, and a function of what they claim to be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from augment_helpers import made_up_sentences, pieces_of, save_marian
from scipy.stats import chisquare

from bertsmith.augment.engines import Batch, Plan
from bertsmith.augment.marian import MarianEngine
from bertsmith.augment.models import Model
from bertsmith.augment.seq2seq import TransformersEngine, _Draw, _name
from bertsmith.augment.settings import AugmentSettings, DecodingSettings
from bertsmith.augment.translate import plan_batches
from bertsmith.errors import InputError


def model_of(folder: Path, direction: str = "en-de", kind: str = "marian", prefix: str = "") -> Model:
    return Model(direction, str(folder), folder, kind, prefix, f"{folder.name}{hash(folder)}")


def settings_of(cache: Path, decoding: DecodingSettings | None = None) -> AugmentSettings:
    return AugmentSettings(via=("de",), cache=str(cache), decoding=decoding or DecodingSettings())


def engines(folder: Path, cache: Path, settings: AugmentSettings) -> tuple[MarianEngine, TransformersEngine]:
    return (
        MarianEngine(model_of(folder), Plan("ctranslate2", "cpu", "float32", 2048), settings),
        TransformersEngine(model_of(folder), Plan("transformers", "cpu", "float32", 2048), settings),
    )


def test_engines_read_and_write_alike(models: Path, converted: Path) -> None:
    """Tokens of sentences and of greedy translations are those of transformers, and so are the texts."""
    fast, slow = engines(models / "en-de", converted, settings_of(converted))
    texts = [*made_up_sentences(40, seed=5), "Ünknown Ω signs, 3.5 and (brackets).", "  two  spaces "]
    pieces, ids = fast.encode(texts), slow.encode(texts)
    tokenizer = slow._tokenizer
    assert [tokenizer.convert_tokens_to_ids(row) for row in pieces] == ids

    batch, id_batch = Batch(texts, pieces, 40), Batch(texts, ids, 40)
    assert fast._translator is not None
    found = [result.result().hypotheses[0] for result in fast._submit(fast._translator, batch, beam_size=1)]
    special = {"<pad>", "</s>"}
    expected = [
        [piece for piece in tokenizer.convert_ids_to_tokens(row) if piece not in special]
        for row in slow.generate(id_batch)
    ]
    assert found == expected
    assert len({tuple(row) for row in found}) > 10 and min(map(len, found)) < 40
    assert list(fast.translate([batch])) == list(slow.translate([id_batch]))


def test_beam_search_is_alike_too(models: Path, converted: Path) -> None:
    """The two do not end their searches at the same moment, so that a few sentences may differ."""
    settings = settings_of(converted, DecodingSettings(method="beam", beams=3))
    fast, slow = engines(models / "en-de", converted, settings)
    texts = made_up_sentences(40, seed=6)
    found = next(fast.translate([Batch(texts, fast.encode(texts), 30)]))
    expected = next(slow.translate([Batch(texts, slow.encode(texts), 30)]))
    greedy = next(
        engines(models / "en-de", converted, settings_of(converted))[0].translate(
            [Batch(texts, fast.encode(texts), 30)]
        )
    )
    assert np.mean([a == b for a, b in zip(found, expected, strict=True)]) >= 0.8
    assert found != greedy


def test_special_tokens_in_a_sentence_are_mere_text(models: Path, converted: Path) -> None:
    fast, _ = engines(models / "en-de", converted, settings_of(converted))
    assert fast.encode(["gos</s>fan"])[0].count("</s>") == 1


def test_batches_come_in_order(models: Path, converted: Path) -> None:
    fast, _ = engines(models / "en-de", converted, settings_of(converted))
    texts = made_up_sentences(30, seed=7)
    alone = [next(fast.translate([Batch([text], fast.encode([text]), 40)]))[0] for text in texts]
    batches = [Batch(texts[k : k + 3], fast.encode(texts[k : k + 3]), 40) for k in range(0, 30, 3)]
    assert [text for result in fast.translate(batches) for text in result] == alone


def test_sampling_in_transformers_depends_on_sentence_and_seed_alone(models: Path, converted: Path) -> None:
    decoding = DecodingSettings(method="sampling", top_k=5, temperature=1.5)
    slow = TransformersEngine(
        model_of(models / "en-de"), Plan("transformers", "cpu", "float32", 2048), settings_of(converted, decoding)
    )
    texts = made_up_sentences(12, seed=8)
    together = next(slow.translate([Batch(texts, slow.encode(texts), 30)]))
    alone = [next(slow.translate([Batch([text], slow.encode([text]), 30)]))[0] for text in reversed(texts)]
    assert together == alone[::-1]
    slow._seed = 1
    assert next(slow.translate([Batch(texts, slow.encode(texts), 30)])) != together


def test_draws_follow_the_softmax_of_the_greatest() -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])
    draw = _Draw(np.arange(20_000), DecodingSettings(method="sampling", top_k=3, temperature=2.0))
    chosen = draw(torch.zeros(20_000, 4), logits.expand(20_000, 5)).argmax(-1).numpy()
    weights = np.exp(np.array([2.0, 1.0, 0.5]) / 2.0)
    counts = np.bincount(chosen, minlength=5)
    assert counts[3:].sum() == 0
    assert chisquare(counts[:3], 20_000 * weights / weights.sum()).pvalue > 1e-3


def test_language_codes(vocabularies: tuple[Path, Path], converted: Path, tmp_path: Path) -> None:
    several = save_marian(tmp_path / "several", vocabularies, "en-zh", 9, (">>cmn_Hans<<", ">>yue<<"))
    how = Plan("ctranslate2", "cpu", "float32", 2048)
    engine = MarianEngine(model_of(several, "en-zh"), how, settings_of(converted))
    assert engine.encode(["gos fan"])[0][0] == ">>cmn_Hans<<"
    slow = TransformersEngine(model_of(several, "en-zh"), how, settings_of(converted))
    assert slow._tokenizer.convert_tokens_to_ids(engine.encode(["gos fan"])[0]) == slow.encode(["gos fan"])[0]

    chosen = MarianEngine(model_of(several, "en-zh", prefix=">>yue<<"), how, settings_of(converted))
    assert chosen.encode(["gos fan"])[0][0] == ">>yue<<"
    with pytest.raises(InputError, match=r"several languages; choose one with --prefixes.en-ko '>>cmn_Hans<<'"):
        MarianEngine(model_of(several, "en-ko"), how, settings_of(converted))
    with pytest.raises(InputError, match=r"'>>deu<<', which is no language code of this model"):
        MarianEngine(model_of(several, "en-zh", prefix=">>deu<<"), how, settings_of(converted))


def test_any_other_model_in_transformers(tmp_path: Path) -> None:
    from transformers import ByT5Tokenizer, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=384, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    folder = tmp_path / "t5"
    T5ForConditionalGeneration(config).save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    how = Plan("transformers", "cpu", "float32", 2048)
    engine = TransformersEngine(model_of(folder, kind="t5", prefix="to German:"), how, settings_of(tmp_path))
    assert bytes(token - 3 for token in engine.encode(["one"])[0][:-1]) == b"to German: one"
    texts = ["one", "another one"]
    assert len(next(engine.translate([Batch(texts, engine.encode(texts), 8)]))) == 2


def test_a_model_of_many_languages(vocabularies: tuple[Path, Path], tmp_path: Path) -> None:
    from transformers import M2M100Config, M2M100ForConditionalGeneration, M2M100Tokenizer

    folder = tmp_path / "many"
    folder.mkdir()
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *pieces_of(vocabularies[0])[3:]]
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(pieces)}))
    tokenizer = M2M100Tokenizer(str(folder / "vocab.json"), str(vocabularies[0]))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    num_words = max(tokenizer.lang_token_to_id.values()) + 1
    config = M2M100Config(
        vocab_size=num_words, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)

    how = Plan("transformers", "cpu", "float32", 2048)
    settings = settings_of(tmp_path, DecodingSettings(method="sampling"))
    there, back = (
        TransformersEngine(model_of(folder, direction, "m2m_100"), how, settings) for direction in ("en-de", "de-en")
    )
    assert there._model is back._model
    german, english = tokenizer.get_lang_id("de"), tokenizer.get_lang_id("en")
    for engine, source, target in ((there, english, german), (back, german, english)):
        rows = engine.encode(["Gos fan den.", "Dan."])
        assert all(row[0] == source for row in rows)
        assert all(row[1] == target for row in engine.generate(Batch(["Gos fan den.", "Dan."], rows, 8)))
    with pytest.raises(InputError, match="does not say which language 'klingon' is; give its name with --codes.kl"):
        TransformersEngine(model_of(folder, "en-klingon", "m2m_100"), how, settings)


@pytest.mark.parametrize(
    ("language", "codes", "expected"),
    [("de", {}, "deu_Latn"), ("zh", {"zh": "zho_Hant"}, "zho_Hant"), ("zh", {}, None), ("de", {"de": "de_DE"}, None)],
)
def test_names_of_languages(language: str, codes: dict[str, str], expected: str | None, tmp_path: Path) -> None:
    tokens = ["</s>", "deu_Latn", "zho_Hans", "zho_Hant", "ast_Latn"]
    settings = AugmentSettings(via=("de", "zh"), codes=codes)
    if expected:
        assert _name(language, tokens, settings, model_of(tmp_path)) == expected
    else:
        with pytest.raises(InputError, match="there are"):
            _name(language, tokens, settings, model_of(tmp_path))


def test_batches_hold_sentences_of_about_one_length() -> None:
    texts = [f"{index}" for index in range(200)]
    rows = [[0] * (1 + index * 7 % 90) for index in range(200)]
    batches = plan_batches(texts, rows, 256, 100)
    assert sorted(text for batch in batches for text in batch.texts) == sorted(texts)
    for batch in batches:
        lengths = [len(row) for row in batch.rows]
        assert max(lengths) * len(lengths) <= 256 or len(lengths) == 1
        assert max(lengths) - min(lengths) < 16
        assert batch.limit == min(100, 2 * (-(-max(lengths) // 16) * 16) + 16)
