"""Any sequence-to-sequence model in transformers.

Sampling: the draw of a token is the greatest of its logits with Gumbel noise that is a function of seed, sentence and
position, so that a translation depends on nothing else.

B rows, V tokens in the vocabulary, k tokens to draw from.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from bertsmith.augment.engines import MARIAN, Batch, Plan, hashed, language_code, open_tokenizer
from bertsmith.augment.models import MANY_LANGUAGES, Model, short_code
from bertsmith.augment.settings import AugmentSettings, DecodingSettings
from bertsmith.errors import InputError
from bertsmith.pretrained import open_pretrained
from bertsmith.randomness import key_of


class TransformersEngine:
    """Any sequence-to-sequence model in transformers."""

    def __init__(self, model: Model, how: Plan, settings: AugmentSettings) -> None:
        """Load the model."""
        self._tokenizer = open_tokenizer(model)
        self._prefix = model.prefix and f"{model.prefix.rstrip()} "
        if model.type == MARIAN and (code := language_code(model, self._tokenizer)):
            self._prefix = f"{code} "
        self._first = None
        if model.type in MANY_LANGUAGES:
            tokens = _language_tokens(self._tokenizer)
            source, target = (_name(language, list(tokens), settings, model) for language in model.languages)
            self._tokenizer.src_lang = source.strip("_")
            self._first = tokens[target]
        self._model = _open_model(str(model.folder), how)
        self.max_tokens = int(min(self._tokenizer.model_max_length, 512))
        self._decoding = settings.decoding
        self._seed = settings.seed

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Give each sentence as token ids."""
        rows: list[list[int]] = self._tokenizer([self._prefix + text for text in texts], verbose=False).input_ids
        return rows

    def translate(self, batches: Iterable[Batch]) -> Iterator[list[str]]:
        """Translate batch by batch."""
        for batch in batches:
            generated = self.generate(batch)
            yield [" ".join(text.split()) for text in self._tokenizer.batch_decode(generated, skip_special_tokens=True)]

    def generate(self, batch: Batch) -> list[list[int]]:
        """Translate a batch to B rows of token ids, special ones and padding included."""
        import torch
        from transformers import LogitsProcessorList

        padded = self._tokenizer.pad({"input_ids": batch.rows}, return_tensors="pt").to(self._model.device)
        sampling = []
        if self._decoding.method == "sampling":
            keys = np.array([hashed(self._seed, text) >> 1 for text in batch.texts], dtype=np.int64)
            sampling = [_Draw(keys, self._decoding)]
        with torch.inference_mode():
            generated = self._model.generate(
                **padded,
                max_new_tokens=batch.limit,
                # One more where the first says which language it is.
                min_new_tokens=1 if self._first is None else 2,
                forced_bos_token_id=self._first,
                num_beams=self._decoding.beams or 1,
                logits_processor=LogitsProcessorList(sampling),
            )
        rows: list[list[int]] = generated.tolist()
        return rows


@cache
def _open_model(folder: str, how: Plan) -> Any:
    """Load a model, once for all directions that it serves."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, GenerationConfig

    dtype = getattr(torch, how.compute_type)
    loaded = open_pretrained(AutoModelForSeq2SeqLM.from_pretrained, folder, "model", "models", dtype=dtype)
    own = loaded.generation_config
    pad, start = own.pad_token_id, own.decoder_start_token_id
    # Of the model's own settings only which tokens are special: the others would change the decoding.
    loaded.generation_config = GenerationConfig(
        pad_token_id=pad,
        eos_token_id=own.eos_token_id,
        decoder_start_token_id=start,
        bad_words_ids=[[pad]] if pad == start else None,
        do_sample=False,
    )
    return loaded.to(how.device).eval()


def _language_tokens(tokenizer: Any) -> dict[str, int]:
    """Give the ids of the tokens that say which language it is, with those of other special tokens."""
    from transformers import M2M100Tokenizer

    if isinstance(tokenizer, M2M100Tokenizer):
        return dict(tokenizer.lang_token_to_id)
    return {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}


def _name(language: str, tokens: Sequence[str], settings: AugmentSettings, model: Model) -> str:
    """Find what a model of many languages calls a language: "deu_Latn", "de_DE", "__de__".

    Raises:
        InputError: It does not know the language, or knows several kinds of it.
    """
    given = settings.codes.get(language)
    found = [token for token in tokens if token.strip("_") == (given or language).strip("_")]
    if not found and not given:
        short = short_code(language) or language
        found = [token for token in tokens if short_code(token.strip("_")) == short]
    if len(found) != 1:
        there = found or [token for token in tokens if short_code(token.strip("_"))][:12]
        raise InputError(
            f"models.{model.direction}: {model.origin} does not say which language {given or language!r} is; give its "
            f"name with --codes.{language} (there are {', '.join(there)})"
        )
    return str(found[0])


class _Draw:
    """Leaves, of each row's logits, only those of the token that is drawn."""

    def __init__(self, keys: np.ndarray[Any, Any], decoding: DecodingSettings) -> None:
        assert decoding.top_k is not None and decoding.temperature is not None
        self._keys = keys
        self._top_k = decoding.top_k
        self._temperature = decoding.temperature

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Give (B, V) logits whose greatest is that of a draw from the softmax of the k greatest."""
        import torch

        top, tokens = scores.float().topk(min(self._top_k, scores.shape[-1]), dim=-1)
        keys = key_of(self._keys[:, None], int(input_ids.shape[1]), tokens.cpu().numpy().astype(np.int64))
        uniform = ((keys >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
        noise = torch.from_numpy(-np.log(-np.log(uniform))).to(top)
        return torch.full_like(scores, float("-inf")).scatter(
            -1, tokens, (top / self._temperature + noise).to(scores.dtype)
        )
