"""The last step before training: prepare a loaded model for the text and the device."""

from typing import Any

from mlm.env.notebook import NotebookError
from mlm.models.compilation import compile_layers
from mlm.models.cpu import undo_kernels, use_kernels
from mlm.models.gpu import use_deterministic_operations
from mlm.models.kernel_choice import choose_kernels
from mlm.models.loading import init_head_bias, keep_untied
from mlm.models.probe import ForwardCheck, freeze_unused_weights


def prepare_model(
    model: Any,
    train: Any,
    device: dict[str, Any],
    shape: tuple[int, int],
    kernels: str,
    compile: bool | str,
) -> dict[str, Any]:
    """Prepare a masked language model for training, in place; prints what is done.

    1. A new head starts with the token frequencies of the training text, if the model had none.
    2. Weights that get no gradient are frozen; adding words may have tied two biases, of which one is unused.
    3. On a CPU, the model and the process get the fastest kernels; on a GPU, the process deterministic ones.
    4. What training computes is compared with the model's own forward pass, on the CPU.
    5. The layers of the encoder are compiled, if `compile` is True.

    train: a MaskedLMDataset. device: from `trainer_arguments`. shape: (B, T) of a training batch.
    kernels: "auto" or a name in KERNELS. compile: "auto", True or False. Returns what was chosen:
    {"kernels": a name in KERNELS (None: the device is no CPU), "compile": whether it is compiled}.
    Raises NotebookError if the model cannot be trained, or if training would compute something else
    than the model itself, or if it was trained before.
    """
    if getattr(model, "was_trained", False):  # a run would begin with the weights of another one
        raise NotebookError(
            "the model was already trained in this kernel, so its weights are no longer as they were loaded: "
            "run the cell with load_model again, then all cells below it"
        )
    if model.head_was_missing and init_head_bias(model, train):
        print("new head: its bias starts at the token frequencies of the training text")
    check_forward = ForwardCheck(model, train)
    keep_untied(model)
    freeze_unused_weights(model, train)
    chosen = choose_kernels(kernels, model, device, shape)
    if chosen:
        use_kernels(model, chosen)
    else:
        undo_kernels(model)  # of an earlier run in this kernel
    check_forward()
    if device["kind"] == "gpu":
        use_deterministic_operations()
    is_compiled = compile_layers(model, compile, device)
    return {"kernels": chosen, "compile": is_compiled}
