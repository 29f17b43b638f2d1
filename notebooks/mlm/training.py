"""MaskedLM for Lightning: its loss, its data, and how it is measured."""

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset

from .batches import MaskedBatches, TrainingOrder
from .heads import hidden_states, scores
from .notebook import NotebookError
from .optimizer import make_optimizer
from .plan import HELD_OUT, planned

HELD_OUT_PROBABILITY = 0.15  # the share of the held-out tokens that is asked about, in every run

# the module


def own_example_only(attention_mask):
    """Which token may look at which, (B, 1, T, T) bool: those of its own example; None if any may.

    attention_mask (B, T) numbers the examples of a row. In 4 dimensions transformers passes it on as
    it is; of a mask in 2 it would read the values, which on a TPU stops everything at each step.
    """
    if attention_mask is None:
        return None
    return attention_mask[:, None, :, None] == attention_mask[:, None, None, :]


def asked_labels(batch):
    """What stood at the batch's K masked positions, (K,) int64; -100 where K was filled up."""
    return batch["labels"].flatten().index_select(0, batch["positions"])


class MaskedLM(pl.LightningModule):
    """BERT and its masked-token loss in nats, as Lightning trains it.

    `optimizer` holds the arguments of `make_optimizer`; `dtype` is what matrix products run in,
    by autocast; the weights stay float32.
    """

    def __init__(self, bert, optimizer, dtype=torch.float32):
        super().__init__()
        self.bert, self.optimizer, self.matmul_dtype = bert, optimizer, dtype

    def masked_logits(self, batch):
        """Scores (K, V) of the batch's K masked positions: 85% of BERT's largest product is saved."""
        half = None if self.matmul_dtype == torch.float32 else self.matmul_dtype
        with torch.autocast(self.device.type, half, enabled=half is not None):
            hidden = hidden_states(
                self.bert,
                batch["input_ids"],
                own_example_only(batch.get("attention_mask")),
                batch.get("position_ids"),
            )  # (B, T, H)
            asked = hidden.flatten(0, 1).index_select(0, batch["positions"])  # (K, H)
            return scores(self.bert, asked).float()

    def training_step(self, batch, batch_idx):
        """Mean loss over the masked tokens of all processes (their gradients are averaged)."""
        logits, labels = self.masked_logits(batch), asked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        self.seen = torch.stack([loss.detach(), (labels != -100).sum()])  # for the journal
        return loss * self.trainer.world_size / batch["masked"].clamp(min=1e-9)

    def configure_optimizers(self):
        optimizer, scheduler = make_optimizer(self, **self.optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def reset(module, weights):
    """Put a MaskedLM back: on the CPU, decoder and embedding one tensor, these weights, in train mode.

    So a cell that trains can be run again, also after an error: on XLA the two come apart, and
    `from_pretrained` hands models over in eval mode, which Lightning leaves as it is: no dropout.
    """
    module.to("cpu").bert.tie_weights()
    module.load_state_dict(weights)
    module.train()


# its data


class InTurn(IterableDataset):
    """A batch of each of `shares` in turn, together a step: their gradients are added up.

    Lightning takes the mean over the batches of a step, so each is told the mean of its predicted tokens.
    """

    def __init__(self, shares):
        self.shares = shares

    def __iter__(self):
        for step in zip(*self.shares, strict=True):
            for batch in step:
                yield batch | {"masked": batch["masked"] / len(self.shares)}


class Guarded(IterableDataset):
    """The same batches; an error in them is handed to `on_error` first: a loader may swallow it."""

    def __init__(self, batches, on_error):
        self.batches, self.on_error = batches, on_error

    def __iter__(self):
        try:
            yield from self.batches
        except Exception as error:
            self.on_error(error)
            raise


class Ahead:
    """The same batches in pinned memory for a GPU, two of them made while it computes, by a thread.

    From pinned memory Lightning copies without waiting. No worker process: its batches come by shared
    memory, and that took longer than to make them. An error in them is raised where its batch is due.
    """

    def __init__(self, batches, device):
        self.batches, self.device = batches, device

    def __iter__(self):
        batches = iter(self.batches)

        def make():
            batch = next(batches, {})
            return {k: v.pin_memory() if torch.is_tensor(v) else v for k, v in batch.items()}

        with ThreadPoolExecutor(1, "ahead", torch.cuda.set_device, [self.device]) as thread:
            made = deque(thread.submit(make) for _ in range(2))
            while batch := made.popleft().result():
                made.append(thread.submit(make))
                yield batch


class MaskedLMData(pl.LightningDataModule):
    """The training batches up to step `stop` and the held-out ones; each process has its share.

    All training batches have one shape, and all held-out ones. A resumed Trainer gets those from its
    own step on. `on_error`, a function, is told of an error in them. `mlm_probability_end`: the share
    that is asked about falls to it, which spends the most questions early (arXiv:2305.15096).
    `share_rows`: examples may share a row. `masking` and `replace` are those of `MaskedBatches`, in
    training alone. `accumulate`: so many batches of a process are a step.
    """

    def __init__(
        self, train, valid, batch_size, mlm_probability, seed, stop, mlm_probability_end=None,
        share_rows=True, masking="token", replace="80/10/10", accumulate=1, on_error=None,
    ):  # fmt: skip
        super().__init__()
        self.accumulate = accumulate
        self.train, self.valid, self.batch_size, self.seed = train, valid, batch_size, seed
        self.mlm_probability, self.stop, self.on_error = mlm_probability, stop, on_error
        self.mlm_probability_end = mlm_probability_end
        self.share_rows, self.masking, self.replace = share_rows, masking, replace

    def share(self, step):
        """The share of the tokens that is asked about at a step: it falls in a line to the last one."""
        fall = self.mlm_probability - self.mlm_probability_end
        return self.mlm_probability - fall * step / max(1, self.stop - 1)

    def train_batches(self, start=0, rank=0, world=1):
        """The batches of steps `start` to the last; those of one are shares, as of so many processes."""
        shares = [rank * self.accumulate + number for number in range(self.accumulate)]
        world *= self.accumulate
        how = self.mlm_probability, self.seed
        steps = -(-len(self.train) // (self.batch_size * world))  # an epoch
        epochs = range(-(-self.stop // steps))
        rows = dict(masking=self.masking, shared=self.share_rows)
        plan = planned(self.train, self.batch_size, *how, epochs, world, **rows)
        share = self.share if self.mlm_probability_end else None
        order = TrainingOrder(plan, start, self.stop, share)
        asked = dict(masking=self.masking, replace=self.replace)
        return InTurn(
            [
                MaskedBatches(self.train, order, *how, plan.shape, number, **asked)
                for number in shares
            ]
        )

    def held_out(self, rank=0, world=1):
        """The held-out batches: their masks are drawn once from the seed, however training masks."""
        how, shared = (HELD_OUT_PROBABILITY, self.seed), self.share_rows
        plan = planned(self.valid, self.batch_size, *how, (HELD_OUT,), world, shared=shared)
        return MaskedBatches(self.valid, plan.keys(HELD_OUT), *how, plan.shape, rank)

    def train_dataloader(self):
        where = self.trainer and dict(
            start=self.trainer.global_step,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        batches = self.train_batches(**(where or {}))
        if self.on_error:
            batches = Guarded(batches, self.on_error)
        device = self.trainer and self.trainer.strategy.root_device
        if device and device.type == "cuda":  # XLA's loader makes them ahead by itself
            return Ahead(batches, device)
        return DataLoader(batches, batch_size=None)


# how it is measured


@torch.no_grad()
def evaluate(module, batches, add_up=lambda sums: sums):
    """Masked-token loss (nats), perplexity exp(loss) and accuracy of a MaskedLM on `batches`.

    The loss is the plain cross-entropy, whatever the module is trained with. `add_up` adds the sums
    of all processes up; one device read for all batches.
    """
    was_training = module.training
    module.eval()
    sums = torch.zeros(3).to(module.device)
    for batch in batches:
        batch = {k: v.to(module.device) if torch.is_tensor(v) else v for k, v in batch.items()}
        logits, labels = module.masked_logits(batch), asked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        right = (logits.argmax(-1) == labels).sum()  # -100 is never the largest
        sums = sums + torch.stack([loss, (labels != -100).sum(), right])
        if module.device.type == "xla":  # or all batches would become one graph
            import torch_xla

            torch_xla.sync()
    module.train(was_training)
    loss, count, right = add_up(sums).cpu().tolist()
    loss = loss / max(count, 1)
    perplexity = math.exp(min(loss, 700))  # beyond, it is no float
    return {"loss": loss, "perplexity": perplexity, "accuracy": right / max(count, 1)}


def log_frequencies(train):
    """The log of each token's share of the training text, (V,); one is added to each count."""
    pieces = (train.ids[i : i + 10**7] for i in range(0, len(train.ids), 10**7))  # from disk
    counts = sum(np.bincount(piece, minlength=train.vocab_size) for piece in pieces) + 1.0
    return np.log(counts / counts.sum())


def unigram_loss(train, held_out):
    """Mean loss (nats) on the held-out masked tokens of the training text's word frequencies.

    Raises NotebookError where nothing is asked.
    """
    labels = torch.cat([batch["labels"].flatten() for batch in held_out]).numpy()
    asked = labels[labels != -100]
    if not len(asked):
        raise NotebookError(
            "no token of the held-out lines is asked about, so nothing could be measured: they are "
            "too few or too short; pass a corpus with more or longer lines, or another seed"
        )
    return float(-log_frequencies(train)[asked].mean())


@torch.no_grad()
def start_at_frequencies(bert, train):
    """Give a head that was never trained the word frequencies as its bias: it need not learn them."""
    frequencies = torch.from_numpy(log_frequencies(train)).float()
    bias = bert.get_output_embeddings().bias
    if bias is not None and len(bias) == bert.config.vocab_size:  # not all heads have one
        bias[: len(frequencies)] = frequencies
