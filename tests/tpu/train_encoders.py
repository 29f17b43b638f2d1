"""Train small models of several kinds on the CPU and on an XLA device; print the results as JSON.

As 04 does on a TPU: batches of one shape, MaskedLM and its optimizer.

python train_encoders.py TEXT MODEL_TYPE ...
"""

import json
import sys
from pathlib import Path
from typing import Any

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
OPTIMIZER_OPTIONS = dict(
    optimizer="adamw", lr=1e-3, weight_decay=0.1, schedule="linear", total_steps=STEPS
)


def train(model: Any, data: MaskedLMData, device: torch.device) -> tuple[list[float], list[int]]:
    """(losses, compilations after each step) of a few steps on a device."""
    module = MaskedLM(model, OPTIMIZER_OPTIONS).to(device).train()
    if device.type == "xla":
        model.tie_weights()
    optimizer, scheduler = module.configure_optimizers().values()
    losses, compilations = [], []
    for batch in data.train_batches():
        batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
        logits = module.masked_logits(batch)
        loss = F.cross_entropy(logits, masked_labels(batch), ignore_index=-100)
        loss.backward()
        optimizer.step()
        scheduler["scheduler"].step()
        optimizer.zero_grad()
        if device.type == "xla":
            torch_xla.sync()
            compilations.append(xla_counts()["compilations"])
        losses.append(loss.detach())
    return torch.stack(losses).cpu().tolist(), compilations


def main(text: Path, model_types: list[str]) -> None:
    """Print {model type: losses on both devices, compilations, operations that ran on the host}."""
    xla_device = torch_xla.device()  # autograd must know it before its first backward pass
    results = {}
    for model_type in model_types:
        tokenizer = make_tokenizer(model_type, text)
        examples = MaskedLMDataset(text, tokenizer, 32)
        data = MaskedLMData(examples, examples, 8, 0.3, 0, STEPS)
        cpu, _ = train(make_model(model_type, tokenizer), data, torch.device("cpu"))
        xla, compilations = train(make_model(model_type, tokenizer), data, xla_device)
        results[model_type] = dict(
            cpu=cpu, xla=xla, compilations=compilations, fallbacks=xla_counts()["fallbacks"]
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
