"""Hugging Face's Trainer under a session: a tiny transformer with random weights learns to tell which token is first.

python examples/script_transformers.py
tardigrad run --engine local --workers 2 examples/script_transformers.py
"""

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, Trainer, TrainingArguments

import tardigrad


class Sequences(Dataset):
    """Eight tokens of four kinds; the label is the first token."""

    def __init__(self, samples, seed):
        self.tokens = torch.randint(0, 4, (samples, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index, 0]}


def main(session):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, num_labels=4
    )
    trainer = Trainer(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(), num_train_epochs=3, per_device_train_batch_size=16,
            gradient_accumulation_steps=2, learning_rate=3e-3, optim="adamw_torch", warmup_steps=10,
            logging_strategy="no", save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=Sequences(1024, seed=0),
        eval_dataset=Sequences(256, seed=1),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer = session.prepare(trainer)  # the only change
    trainer.train()
    scores = trainer.evaluate()
    if session.is_first:
        print(f"loss {scores['eval_loss']:.2f}")


if __name__ == "__main__":
    tardigrad.run(main, engine=None)
