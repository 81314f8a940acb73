"""An encoder as a folder of sentence-transformers (https://sbert.net): the transformer, its pooling, and length 1.

The library itself writes the folder, so that ``SentenceTransformer(folder)`` opens it wherever it is installed; no hub
is asked. Its embeddings are those of ``AutoModel``, pooled as :func:`bertsmith.pooling.pool` does.
"""

from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from transformers.utils import logging

from bertsmith.errors import InputError, missing_package
from bertsmith.export import export_checkpoint
from bertsmith.files import new_folder, settle
from bertsmith.finetuning.exported import open_bare
from bertsmith.finetuning.models import longest_input, save_model
from bertsmith.finetuning.own_embeddings import OwnEmbeddings, own_embeddings
from bertsmith.markdown import code
from bertsmith.pooling import Pooling
from bertsmith.run_folder import read_run


class SentenceFolder(NamedTuple):
    """What was written."""

    folder: Path
    """Where to."""
    pooling: Pooling
    """How the hidden states of the real tokens become one vector."""
    is_normalized: bool
    """Whether embeddings have length 1."""
    max_length: int
    """How many tokens of a text count."""


def export_sentence(
    origin: str | Path, out: str | Path, *, pooling: Pooling | None = None, normalize: bool | None = None
) -> SentenceFolder:
    """Write a model as a folder of sentence-transformers, whole or not at all.

    Of a folder that is one already, all that makes its embeddings is kept, or it is refused; but modules are left out
    where another ``pooling`` is given.

    Args:
        origin: A run folder of pre-training, meaning its newest whole checkpoint; one of its checkpoints; or the folder
            of any model.
        out: The folder to write; it must not exist.
        pooling: None for that of the run's objective, or of the model folder itself, or else mean.
        normalize: Give embeddings of length 1; None for as the model folder itself does.

    Returns:
        What was written. A text is cut to the rows that the run was trained on, or to what the model takes, or to what
        a folder of sentence-transformers says.

    Raises:
        InputError: sentence-transformers is not installed, ``origin`` cannot be opened, or ``out`` exists or cannot be
            written.
    """
    origin, out = Path(origin), Path(out)
    if not origin.is_dir():
        raise InputError(f"{origin}: no such folder; give a run, a checkpoint or the folder of a model")
    # It is missed before the work, not after it.
    _library()
    logging.disable_progress_bar()
    with new_folder(out, "--out") as folder:
        try:
            made = _write(origin, folder, pooling, normalize)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{out}: the model could not be written ({str(error).splitlines()[0]}); make room, and repeat the "
                "command"
            ) from None
    return made._replace(folder=out)


def usage(folder: Path) -> str:
    """Show in two lines of Python how the folder is used."""
    return (
        "from sentence_transformers import SentenceTransformer\n"
        f'embeddings = SentenceTransformer("{folder}").encode(["One sentence.", "Another one."])'
    )


def _write(origin: Path, folder: Path, pooling: Pooling | None, normalize: bool | None) -> SentenceFolder:
    """Write the folder, and beside it what it is made of."""
    run, needs_model = _run_of(origin)
    model = str(export_checkpoint(origin, folder.with_name("model")) if needs_model else origin)
    own = own_embeddings(model, pooling or run.get("objective", {}).get("pooling"))
    encoder = open_bare(own.encoder)
    max_length = min(longest_input(encoder.config, own.tokenizer), run.get("data", {}).get("row_length", 10**6))
    save_model(encoder, own.tokenizer, folder.with_name("encoder"), card="")
    made = SentenceFolder(folder, own.pooling, own.is_normalized if normalize is None else normalize, max_length)
    _save(folder.with_name("encoder"), encoder.config.hidden_size, made, own)
    (folder / "README.md").write_text(_card(origin, made), encoding="utf-8")
    settle(folder)
    return made


def _run_of(origin: Path) -> tuple[dict[str, Any], bool]:
    """Find the run of pre-training that a folder is of.

    Returns:
        Its settings, empty if there is none; and whether the folder is one of checkpoints instead of a model's.
    """
    here = origin.resolve()
    places = [(here, True), (here.parent.parent, True)] if here.parent.name == "checkpoints" else [(here, True)]
    if here.name == "model":
        places.append((here.parent, False))
    for folder, needs_model in places:
        run = read_run(folder)
        if run is not None and "objective" in run:
            return run, needs_model
    return {}, False


def _save(encoder: Path, hidden_size: int, made: SentenceFolder, own: OwnEmbeddings) -> None:
    """Let sentence-transformers write the folder."""
    library = _library()
    parts = library.sentence_transformer.modules
    modules = [
        parts.Transformer(str(encoder), processor_kwargs={"model_max_length": made.max_length}),
        parts.Pooling(hidden_size, made.pooling),
        *([parts.Normalize()] if made.is_normalized else []),
    ]
    # Its own card is of a model that it trained, and would look for the one it comes from on the hub.
    whole = library.SentenceTransformer(modules=modules, device="cpu", local_files_only=True, **own.extras)
    whole.save(str(made.folder), create_model_card=False)


def _library() -> Any:
    try:
        import sentence_transformers.sentence_transformer.modules
    except ImportError:
        raise missing_package("export --sentence needs sentence-transformers, 5.4 or newer", "sentence") from None
    return sentence_transformers


def _card(origin: Path, made: SentenceFolder) -> str:
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [bertsmith, sentence-transformers]
---
# Sentence embeddings of an encoder

The encoder of {code(str(origin))}, written by `bertsmith export --sentence`.

| embeddings | |
|---|---|
| pooling | {made.pooling}, of all real tokens, the special ones included |
| longest text | {made.max_length} tokens |
| length | {"1" if made.is_normalized else "not normalized"} |

```python
{usage(Path("path/to/this/folder"))}
```
"""
