"""Supervised loss and gradients against TRL 1.16's SFTTrainer and against transformers' own loss, in float32.

TRL is given the rendered prompt and the response as text, not as messages: with a chat template that writes a newline
after the end-of-sequence token TRL would train that newline, which no sampler ever produces. That both sides train the
same token ids is asserted before any number is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import oracle
import pytest
import torch

from postgrad import chat
from postgrad.domains import arithmetic
from postgrad.records import Example
from postgrad.train import loss, source
from postgrad.train.batch import Batch
from postgrad.train.settings import SftSettings

TOLERANCE = 1e-5
MAX_LENGTH = 192


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    problems = arithmetic.problems("train", 10, min_steps=2, max_steps=6, seed=0)
    return [Example(p.prompt, arithmetic.traces(p, 1, recheck=0.4, seed=0)[0], id=p.id) for p in problems]


def packed(tokenizer: Any, examples: list[Example], rows_per_batch: int) -> list[Batch]:
    """One step over all the examples, in packed rows, as the recipe makes it."""
    documents, dropped = source.supervised(
        tokenizer, examples, SftSettings(max_steps=1, learning_rate=1e-3, max_length=MAX_LENGTH)
    )
    assert not dropped
    rows = len(source.best_fit([len(document.ids) for document in documents], MAX_LENGTH))
    assert 1 < rows < len(documents), "rows that hold several documents, and several rows"
    settings = SftSettings(
        max_steps=1,
        learning_rate=1e-3,
        max_length=MAX_LENGTH,
        per_device_train_batch_size=rows_per_batch or rows,
        gradient_accumulation_steps=rows // rows_per_batch if rows_per_batch else 1,
    )
    assert settings.rows_per_step == rows
    return source.Packed(documents, settings, seed=0).step(None, 0).batches


def trl_step(stock: Any, tokenizer: Any, examples: list[Example], out: Path, **settings: Any) -> tuple[float, Any, Any]:
    """TRL's loss and gradients over one step of all the examples, and the token ids that it trained on."""
    trl = oracle.trl()
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    rows = [{"prompt": chat.prompt_text(tokenizer, one.prompt), "completion": one.response} for one in examples]
    config = trl.SFTConfig(
        output_dir=str(out),
        max_steps=1,
        max_length=MAX_LENGTH,
        completion_only_loss=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        **settings,
    )
    trainer = trl.SFTTrainer(stock, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batches = list(trainer.get_train_dataloader())
    stock.train()
    # The Trainer counts the step's tokens before its first forward pass and hands the count to every micro-batch.
    count = torch.tensor(sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches))
    total = 0.0
    for batch in batches:
        part = trainer.compute_loss(stock, dict(batch), num_items_in_batch=count)
        part.backward()
        total += float(part.detach())
    trained = [int(token) for batch in batches for token in batch["labels"][batch["labels"] != -100]]
    return total, oracle.gradients(stock), trained


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("rows_per_batch", [0, 1])
@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_train_batch_size": 10},
        {"per_device_train_batch_size": 3},
        {"per_device_train_batch_size": 2, "packing": True},
    ],
    ids=["padded", "padded, micro-batches of 3", "packed, micro-batches of 2 rows"],
)
def test_loss_and_gradients_are_trls(
    model: Any,
    stock: Any,
    tokenizer: Any,
    examples: list[Example],
    tmp_path: Path,
    settings: dict[str, Any],
    rows_per_batch: int,
    measured: Any,
) -> None:
    theirs, their_gradients, their_trained = trl_step(stock, tokenizer, examples, tmp_path, **settings)
    batches = packed(tokenizer, examples, rows_per_batch)
    assert sorted(int(token) for batch in batches for token in batch.targets_K) == sorted(their_trained)

    numbers, gradients = oracle.updated(model, batches, loss.likelihood)

    assert measured("SFT loss against TRL", abs(numbers["loss"] / theirs - 1)) < TOLERANCE
    assert measured("SFT gradient against TRL", oracle.distance(gradients, their_gradients)) < TOLERANCE


def test_loss_and_gradients_are_those_of_transformers_own_loss(
    model: Any, stock: Any, tokenizer: Any, examples: list[Example], measured: Any
) -> None:
    encoded = [chat.encode(tokenizer, example) for example in examples]
    longest = max(len(one.ids) for one in encoded)
    ids = torch.full((len(encoded), longest), tokenizer.pad_token_id)
    seen = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, one in enumerate(encoded):
        ids[row, : len(one.ids)] = torch.tensor(one.ids)
        seen[row, : len(one.ids)] = 1
        labels[row, : len(one.ids)] = torch.where(torch.tensor(one.trained), torch.tensor(one.ids), -100)
    theirs = stock(input_ids=ids, attention_mask=seen, labels=labels).loss
    theirs.backward()

    numbers, gradients = oracle.updated(model, packed(tokenizer, examples, 1), loss.likelihood)

    assert measured("SFT loss against transformers", abs(numbers["loss"] / float(theirs.detach()) - 1)) < TOLERANCE
    distance = oracle.distance(gradients, oracle.gradients(stock))
    assert measured("SFT gradient against transformers", distance) < TOLERANCE
