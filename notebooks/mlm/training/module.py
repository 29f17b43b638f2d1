"""MaskedLM: the LightningModule with model, loss and optimizer."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask
from mlm.optim.optimizer import make_optimizer


def masked_labels(batch: dict[str, Any]) -> torch.Tensor:
    """The true token ids at the K masked positions of a batch, (K,) int64.

    Positions that only fill up the fixed shape have the label -100.
    """
    return batch["labels"].flatten().index_select(0, batch["positions"])


class MaskedLM(pl.LightningModule):
    """A masked language model with its loss and its optimizer, as Lightning trains it.

    `optimizer_options` are the keyword arguments of `make_optimizer`. Matrix products run in `dtype`
    (by autocast); the weights stay float32. There is no `validation_step`: the callback
    CheckpointingLogger calls `evaluate`, which uses `masked_logits`.
    """

    def __init__(
        self, bert: Any, optimizer_options: dict[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.bert = bert  # any encoder; "bert." is the prefix of all weight names in saved.bin
        self.optimizer_options = optimizer_options
        self.matmul_dtype = dtype

    def masked_logits(self, batch: dict[str, Any]) -> torch.Tensor:
        """Logits (K, V) for the K masked positions of a batch, float32.

        The head skips all other positions. Training masks 30% of the tokens, so about 70% of the
        model's largest matrix product is saved.
        """
        use_autocast = self.matmul_dtype != torch.float32
        with torch.autocast(
            device_type=self.device.type,
            dtype=self.matmul_dtype if use_autocast else None,  # None: autocast rejects float32
            enabled=use_autocast,
        ):
            hidden = hidden_states(
                self.bert,
                batch["input_ids"],
                attention_mask=packed_attention_mask(batch.get("sequence_ids")),
                position_ids=batch.get("position_ids"),
            )  # (B, T, H)
            hidden = hidden.flatten(0, 1).index_select(0, batch["positions"])  # (K, H)
            return head_logits(self.bert, hidden).float()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Cross-entropy in nats, averaged over the masked tokens of all processes."""
        logits = self.masked_logits(batch)
        labels = masked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        # What the logger adds up: the sum of the losses, and the number of masked tokens.
        self.loss_sums = torch.stack([loss.detach(), (labels != -100).sum()])
        # num_masked counts the masked tokens of all processes. Lightning (DDP) averages gradients over
        # the processes. Multiplying by their number turns this average back into a sum.
        return loss * self.trainer.world_size / batch["num_masked"].clamp(min=1e-9)  # not 0 / 0

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer, scheduler = make_optimizer(self, **self.optimizer_options)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},  # not once per epoch
        }


def reset_module(module: MaskedLM, weights: dict[str, torch.Tensor]) -> None:
    """Put a MaskedLM back to the state before training: on the CPU, these weights, in train mode.

    This makes it possible to run a training cell again, also after an error. On XLA, decoder and
    embedding become two tensors; they are tied again. `from_pretrained` returns a model in eval mode,
    and Lightning keeps that mode: without `train()` there would be no dropout.
    """
    module.to("cpu").bert.tie_weights()
    module.load_state_dict(weights)
    module.train()
