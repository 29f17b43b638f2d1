"""MaskedLM: the LightningModule with model, loss and optimizer."""

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from mlm.models.encoders import head_logits, hidden_states, packed_attention_mask
from mlm.optim.optimizer import make_optimizer

# the module


def masked_labels(batch):
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
                packed_attention_mask(batch.get("sequence_ids")),
                batch.get("position_ids"),
            )  # (B, T, H)
            asked = hidden.flatten(0, 1).index_select(0, batch["positions"])  # (K, H)
            return head_logits(self.bert, asked).float()

    def training_step(self, batch, batch_idx):
        """Mean loss over the masked tokens of all processes (their gradients are averaged)."""
        logits, labels = self.masked_logits(batch), masked_labels(batch)
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        self.seen = torch.stack([loss.detach(), (labels != -100).sum()])  # for the journal
        return loss * self.trainer.world_size / batch["num_masked"].clamp(min=1e-9)

    def configure_optimizers(self):
        optimizer, scheduler = make_optimizer(self, **self.optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def reset_module(module, weights):
    """Put a MaskedLM back: on the CPU, decoder and embedding one tensor, these weights, in train mode.

    So a cell that trains can be run again, also after an error: on XLA the two come apart, and
    `from_pretrained` hands models over in eval mode, which Lightning leaves as it is: no dropout.
    """
    module.to("cpu").bert.tie_weights()
    module.load_state_dict(weights)
    module.train()


# its data


# how it is measured
