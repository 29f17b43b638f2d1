"""Dropout is a function of the seed, the step, the process and the batch within the step."""

from types import SimpleNamespace

import torch

from mlm.training.module import MaskedLM
from mlm.training.seeded_dropout import SeededDropout
from small_runs import FEW_EXAMPLES, OPTIMIZER, batch_of


def test_dropout_is_a_function_of_seed_step_and_process(bert, dataset):
    for layer in bert.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.5
    batch = batch_of(dataset, FEW_EXAMPLES)

    def loss(seed, step, rank, drawn_before=0):
        module = MaskedLM(bert, OPTIMIZER)
        module.trainer = SimpleNamespace(world_size=8, global_step=step, global_rank=rank)
        torch.rand(drawn_before)
        SeededDropout(seed).on_train_batch_start(module.trainer, module, batch, 0)
        return module.train().training_step(batch, 0).item()

    assert loss(0, 3, 1) == loss(0, 3, 1, drawn_before=99)
    assert len({loss(0, 3, 1), loss(1, 3, 1), loss(0, 4, 1), loss(0, 3, 2)}) == 4


def test_each_batch_of_a_step_and_each_process_has_other_dropout():
    module = SimpleNamespace(device=torch.device("cpu"))
    processes = [(rank, SeededDropout(0)) for rank in (0, 1)]
    drawn = []
    for step in (0, 0, 0, 1, 1, 1):  # three batches per step
        for rank, callback in processes:
            trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=2)
            callback.on_train_batch_start(trainer, module, None, 0)
            drawn.append(torch.rand(1).item())
    assert len(set(drawn)) == 12
