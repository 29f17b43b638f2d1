"""Train small models of several kinds on the CPU and on an XLA device; what came of it, as JSON.

As 04 does it on a TPU: batches of one shape, MaskedLM, its optimizer. Usage: kinds.py TEXT KIND ...
"""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_xla

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "notebooks"), str(ROOT / "tests")]

from encoders import make_model, make_tokenizer  # noqa: E402
from mlm.data.dataset import MaskedLMDataset  # noqa: E402
from mlm.training.datamodule import MaskedLMData  # noqa: E402
from mlm.training.logging import xla_counts  # noqa: E402
from mlm.training.module import MaskedLM, masked_labels  # noqa: E402

STEPS = 6
HOW = dict(optimizer="adamw", lr=1e-3, weight_decay=0.1, schedule="linear", total_steps=STEPS)


def train(bert, data, device):
    """(losses, compilations after each step) of a few steps on a device."""
    module = MaskedLM(bert, HOW).to(device).train()
    if device.type == "xla":
        bert.tie_weights()
    (optimizer, scheduler), losses, compiled = module.configure_optimizers().values(), [], []
    for batch in data.train_batches():
        batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        logits = module.masked_logits(batch)
        loss = F.cross_entropy(logits, masked_labels(batch), ignore_index=-100)
        loss.backward()
        optimizer.step(), scheduler["scheduler"].step(), optimizer.zero_grad()
        if device.type == "xla":
            torch_xla.sync()
            compiled.append(xla_counts()["compilations"])
        losses.append(loss.detach())
    return torch.stack(losses).cpu().tolist(), compiled


text, *kinds = sys.argv[1:]
core = torch_xla.device()  # autograd must know it before its first backward pass
found = {}
for kind in kinds:
    tokenizer = make_tokenizer(kind, Path(text))
    examples = MaskedLMDataset(Path(text), tokenizer, 32)
    data = MaskedLMData(examples, examples, 8, 0.3, 0, STEPS)
    cpu, _ = train(make_model(kind, tokenizer), data, torch.device("cpu"))
    xla, compiled = train(make_model(kind, tokenizer), data, core)
    found[kind] = dict(cpu=cpu, xla=xla, compiled=compiled, fallbacks=xla_counts()["fallbacks"])
print(json.dumps(found))
