"""Same-sentence prediction with hard negative pairs in a script of your own, trained by transformers.Trainer.

bertsmith corpus build YOUR_TEXT --out out/corpus
python examples/ssp_trainer.py out/corpus out/ssp
"""

import sys

from transformers import AutoConfig, AutoModelForMaskedLM, Trainer, TrainingArguments

from bertsmith import Corpus
from bertsmith.batching import TrainingStream
from bertsmith.objectives import SSP

ROWS_PER_STEP, NUM_STEPS = 32, 20


def main(corpus_folder: str, out: str) -> None:
    """Train a small new model for a few steps and save it."""
    corpus = Corpus(corpus_folder)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    encoder = AutoModelForMaskedLM.from_config(AutoConfig.for_model("bert", vocab_size=corpus.vocab_size, **sizes))

    settings = SSP.Config(negatives="same_document", split="gaussian", short_row_prob=0.1)
    objective = SSP.build(encoder, settings, corpus.tokenizer)
    # A stream gives new splits, negatives and masks in every epoch; it is read in sequence, an item being a whole batch
    # of pairs of one length.
    rows = TrainingStream(SSP.make_rows(settings, corpus, row_length=128), ROWS_PER_STEP, NUM_STEPS, seed=0)

    args = TrainingArguments(
        out,
        per_device_train_batch_size=1,
        max_steps=NUM_STEPS,
        learning_rate=1e-3,
        logging_steps=5,
        train_sampling_strategy="sequential",
        report_to="none",
    )
    trainer = Trainer(model=objective, data_collator=objective.collate, train_dataset=rows, args=args)
    trainer.train()

    # The encoder alone opens with every Auto class; the whole objective, heads included, is in Trainer's checkpoints.
    objective.encoder.save_pretrained(f"{out}/model")
    corpus.tokenizer.save_pretrained(f"{out}/model")


if __name__ == "__main__":
    main(*sys.argv[1:])
