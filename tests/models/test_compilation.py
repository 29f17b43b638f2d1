"""torch.compile of layers: when it is chosen, that the model stays the same, that runs resume exactly."""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch._inductor.config

from encoders import CONFIGS, OTHERS, make_model
from helpers import masked_loss, refused
from mlm.env.devices import trainer_arguments
from mlm.env.hardware import SimulatedMachine
from mlm.models.compilation import (
    choose_compile,
    compile_counts,
    compile_layers,
    layers_to_compile,
    python_header,
)
from mlm.models.cpu import FastDropout, use_attention_and_dropout
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import evaluate
from mlm.training.gradient_checkpointing import has_dropout, set_checkpointing
from mlm.training.module import MaskedLM, reset_module
from mlm.training.seeded_dropout import SeededDropout

T4, P100 = ("Tesla T4", 16e9, (7, 5)), ("Tesla P100", 16e9, (6, 0))
CPU, GPU, OLD_GPU, TPU = (
    trainer_arguments(machine=machine)[1]
    for machine in (
        SimulatedMachine(),
        SimulatedMachine(gpus=1, card=T4),
        SimulatedMachine(gpus=1, card=P100),
        SimulatedMachine(tpu_cores=1),
    )
)


@pytest.fixture
def all_tools_installed(monkeypatch):
    """Compilers of C and C++, Python.h and Triton."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr("mlm.models.compilation.python_header", lambda: Path(__file__))


@pytest.mark.parametrize(
    "compile, device, is_compiled, words",
    [
        ("auto", CPU, False, "on a CPU"),
        ("auto", GPU, False, "pass compile=True for a long training"),
        ("auto", OLD_GPU, False, "P100"),
        ("auto", TPU, False, "XLA already compiles"),
        (True, CPU, True, "set in the parameters"),
        (True, GPU, True, "set in the parameters"),
        (False, GPU, False, "set in the parameters"),
        (False, TPU, False, "set in the parameters"),
    ],
)
@pytest.mark.usefixtures("all_tools_installed")
def test_the_encoder_is_compiled_only_if_the_parameters_say_so(compile, device, is_compiled, words):
    found, reason = choose_compile(compile, device)
    assert found is is_compiled and words in reason


NO_COMPILER = "shutil.which", lambda name: None
ONLY_CXX = "shutil.which", lambda name: name if "++" in name else None
NO_HEADER = "mlm.models.compilation.python_header", lambda: Path("no/include/Python.h")
NO_TRITON = "importlib.util.find_spec", lambda name: None


@pytest.mark.parametrize(
    "device, missing, words",
    [
        (TPU, None, "XLA already compiles the whole step"),
        (OLD_GPU, None, "does not support the Tesla P100"),
        (CPU, NO_COMPILER, "C++ compiler"),
        (CPU, NO_HEADER, "Python.h"),
        (GPU, NO_HEADER, "Python.h"),
        (GPU, ONLY_CXX, "Triton needs a C compiler"),
        (GPU, NO_TRITON, "needs Triton on a GPU, and it is not installed"),
    ],
)
@pytest.mark.usefixtures("all_tools_installed")
@pytest.mark.fault
def test_compile_true_is_refused_where_it_cannot_work(monkeypatch, device, missing, words):
    if missing:
        monkeypatch.setattr(*missing)
    with refused('compile must be "auto" or False', "got True", words):
        choose_compile(True, device)
    assert choose_compile("auto", device)[0] is False


@pytest.mark.usefixtures("all_tools_installed")
def test_the_compiler_that_triton_takes_is_the_one_in_CC(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "icc" else name)
    assert choose_compile(True, GPU)[0]
    monkeypatch.setenv("CC", "icc")
    with refused("Triton needs a C compiler", "CC"):
        choose_compile(True, GPU)


def test_the_header_is_where_a_compiler_finds_it():
    assert python_header().name == "Python.h" and "local" not in python_header().parts[:3]


@dataclass
class SaveCheckpoint(pl.Callback):
    """Save a checkpoint after a step, and the number of graphs that were compiled until then."""

    step: int
    path: str

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)
            self.graphs = compile_counts()["graphs"]


@pytest.fixture
def quick_inductor():
    """Inductor without vector instructions: its code compiles faster."""
    torch.set_num_threads(1)
    with torch._inductor.config.patch({"cpp.simdlen": 1, "cpp.vec_isa_ok": True}):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("quick_inductor")
def test_a_compiled_model_is_the_same_model_and_resumes_exactly(
    tokenizer, dataset, tmp_path, capsys
):
    """Loss and gradients are equal up to rounding; two graphs for training, one for evaluation."""
    model = make_model("bert", tokenizer, num_hidden_layers=1)
    options = dict(optimizer="adamw", lr=1e-3, weight_decay=0.01, schedule="linear", total_steps=6)
    plain = MaskedLM(use_attention_and_dropout(copy.deepcopy(model), "matmul", "16bit"), options)
    module, names = (
        MaskedLM(use_attention_and_dropout(model, "matmul", "16bit"), options),
        list(model.state_dict()),
    )
    assert compile_layers(model, True, CPU)
    assert "torch.compile is on: set in the parameters" in capsys.readouterr().out
    assert list(model.state_dict()) == names
    data = MaskedLMData(dataset, dataset, 8, 0.15, 0, 6)
    start = copy.deepcopy(module.state_dict())
    checkpoint = SaveCheckpoint(3, str(tmp_path / "step3.ckpt"))

    def fit(**resume):
        reset_module(module, start)
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=6, max_epochs=1, logger=False, enable_checkpointing=False,
            callbacks=[SeededDropout(0), checkpoint], enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, data, **resume)
        return copy.deepcopy(module.state_dict())

    weights = fit()
    assert compile_counts() == {"graphs": checkpoint.graphs, "breaks": 0}  # none in later steps
    resumed = fit(ckpt_path=checkpoint.path, weights_only=True)
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)

    plain.load_state_dict(weights)
    batches = list(data.train_batches())[:2]
    for either in (module, plain):
        either.zero_grad()
        masked_loss(either, batches[0])[0].backward()
    for (name, weight), plain_weight in zip(module.named_parameters(), plain.parameters()):
        difference = (weight.grad - plain_weight.grad).abs().max()
        assert difference < 1e-4 + 1e-4 * plain_weight.grad.abs().max(), name
    assert evaluate(module, batches) == pytest.approx(evaluate(plain, batches), rel=1e-5)
    assert compile_counts()["graphs"] <= 3


def compiled_module(kind, tokenizer, checkpointing: bool, dropout: float) -> MaskedLM:
    """A module with two compiled layers, the same weights each time."""
    model = make_model(kind, tokenizer, num_hidden_layers=2)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = dropout
    module = MaskedLM(use_attention_and_dropout(model, "matmul", "16bit").train(), {})
    assert has_dropout(model) == bool(dropout)
    set_checkpointing(model, checkpointing)
    assert compile_layers(model, True, CPU)
    return module


@pytest.mark.slow
@pytest.mark.usefixtures("quick_inductor")
@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_compiled_layers_with_gradient_checkpointing_have_the_same_loss_and_gradients(
    tokenizer, dataset, kind
):
    batch = next(iter(MaskedLMData(dataset, dataset, 8, 0.15, 0, 6).train_batches()))
    results = []
    for checkpointing in (False, True):
        module = compiled_module(kind, tokenizer, checkpointing, dropout=0.0)
        loss = masked_loss(module, batch)[0]
        loss.backward()
        assert compile_counts()["breaks"] == 0
        results.append((loss.detach(), {n: w.grad for n, w in module.named_parameters()}))
    (loss, gradients), (other_loss, other_gradients) = results
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_gradients, gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_inductor")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_gradients_of_compiled_layers_with_dropout_are_those_of_the_loss(
    tokenizer, dataset, checkpointing
):
    """The second forward pass of a layer must drop what the first one dropped."""
    module = compiled_module("bert", tokenizer, checkpointing, dropout=0.2)
    batch = next(iter(MaskedLMData(dataset, dataset, 8, 0.15, 0, 6).train_batches()))

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        return masked_loss(module, batch)[0]

    loss().backward()
    weight = module.bert.base_model.encoder.layer[0].output.dense.weight
    step = 1e-3 * weight.grad / weight.grad.norm()
    losses = []
    for sign in (1, -1):
        weight.data += sign * step
        losses.append(loss().item())
        weight.data -= sign * step
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(weight.grad.norm().item(), rel=0.02)


def test_compilation_is_undone_if_the_parameter_changes(tokenizer, capsys):
    model = make_model("bert", tokenizer)
    layers = layers_to_compile(model.base_model)
    for compile in (True, "auto"):
        assert compile_layers(model, compile, CPU) is (compile is True)
        assert all((layer._compiled_call_impl is None) == (compile == "auto") for layer in layers)


@pytest.mark.parametrize("kind", [*CONFIGS, *OTHERS])
def test_layers_with_the_same_code_are_compiled_once(kind, tokenizer):
    """ModernBERT has three kinds of layers: global, local, and a first one without LayerNorm."""
    name = {"distilbert": "n_layers"}.get(kind, "num_hidden_layers")
    model = make_model(kind, tokenizer, **{name: 5})
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    for layer in layers_to_compile(model.base_model):
        layer.compile(backend="eager", dynamic=False)
    ids = torch.randint(5, 20, (2, 16))
    model(ids, attention_mask=torch.ones_like(ids))
    assert compile_counts() == {"graphs": 3 if kind == "modernbert" else 1, "breaks": 0}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_inductor")
def test_compiled_dropout_depends_on_the_seed_only_and_has_the_right_gradient():
    """So a compiled run with dropout resumes exactly, too: SeededDropout sets the seed of each step."""
    layer = FastDropout(0.25)
    layer.compile(dynamic=False)
    x = torch.rand(40, 100) + 1
    x.requires_grad_()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(layer(x))
        (gradient,) = torch.autograd.grad(outputs[-1].sum(), x)
        torch.testing.assert_close(gradient, (outputs[-1] != 0) / 0.75)
        torch.testing.assert_close(outputs[-1], x * gradient)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert abs((outputs[0] == 0).float().mean() - 0.25) < 0.05
