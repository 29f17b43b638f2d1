"""MaskedLM: the LightningModule with model, loss and optimizer."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask
from mlm.optim.optimizer import make_optimizer


def masked_labels(batch: dict[str, Any]) -> torch.Tensor:
    """The true token ids at the K masked positions of a batch, (K,) int64.

    Positions that only fill up the fixed shape have the label -100.
    """
    return batch["labels"].flatten().index_select(0, batch["positions"])


def is_checkpointing(model: torch.nn.Module) -> bool:
    """Whether gradient checkpointing is on. transformers' own property has another name in each version."""
    return any(getattr(part, "gradient_checkpointing", False) for part in model.modules())


class MaskedLM(pl.LightningModule):
    """A masked language model with its loss and its optimizer, as Lightning trains it.

    `optimizer_options` are the keyword arguments of `make_optimizer`. Matrix products run in `dtype`
    (by autocast); the weights stay float32.
    """

    def __init__(
        self, bert: PreTrainedModel, optimizer_options: dict, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.bert = bert  # encoder and head; "bert." begins all weight names in saved.bin
        self.optimizer_options, self.matmul_dtype = optimizer_options, dtype

    def masked_logits(self, batch: dict) -> torch.Tensor:
        """Logits (K, V), float32, of the K masked positions; the head skips all other positions."""
        dtype = None if self.matmul_dtype == torch.float32 else self.matmul_dtype
        with torch.autocast(batch["input_ids"].device.type, dtype, enabled=dtype is not None):
            # a token attends only to the tokens of its own example
            attention_mask = packed_attention_mask(batch.get("sequence_ids"))
            position_ids = batch.get("position_ids")
            # the encoder: token ids (B, T) to hidden states (B, T, H)
            hidden = hidden_states(self.bert, batch["input_ids"], attention_mask, position_ids)
            hidden = hidden.flatten(0, 1).index_select(0, batch["positions"])  # (B, T, H) to (K, H)
            return head_logits(self.bert, hidden).float()  # the MLM head: (K, H) to (K, V)

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """Cross-entropy in nats; its mean over batches and processes is the mean per masked token."""
        logits, labels = self.masked_logits(batch), masked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        # CheckpointingLogger reads these sums
        self.loss_sums = torch.stack([loss.detach(), (labels != -100).sum()])
        # DDP averages the gradients of all processes; world_size turns this into their sum
        return loss * self.trainer.world_size / batch["num_masked"].clamp(min=1e-9)

    def configure_optimizers(self) -> dict:
        optimizer, scheduler = make_optimizer(self, **self.optimizer_options)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},  # not once per epoch
        }


def reset_module(module: MaskedLM, weights: dict[str, torch.Tensor]) -> None:
    """Put a MaskedLM back to the state before training: on the CPU, these weights, in train mode.

    This makes it possible to run a training cell again, also after an error. On XLA, decoder and
    embedding become two tensors; they are tied again. `from_pretrained` returns a model in eval mode,
    and Lightning keeps that mode: without `train()` there would be no dropout. The training that follows
    changes the model, so `prepare_model` refuses it from now on.
    """
    module.bert.was_trained = True
    module.to("cpu").bert.tie_weights()
    module.load_state_dict(weights)
    module.train()
