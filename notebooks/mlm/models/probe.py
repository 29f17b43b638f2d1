"""Ask a model: which inputs it accepts, which weights it uses, and whether training computes what it does.

All kinds of models are tried the same way, by small forward passes on the CPU, instead of being listed.
"""

import copy
import inspect
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from mlm.data.batches import lay_out_rows
from mlm.data.lengths import MAX_POSITIONS
from mlm.env.notebook import NotebookError
from mlm.models.encoders import (
    find_encoder,
    head_logits,
    hidden_states,
    packed_attention_mask,
    supports_packing,
)

LONG, SHORT = 160, 12  # tokens of a probe's longest and other examples: enough for local attention
# Of the largest logit: float32 kernels differ by less, other positions by far more.
TOLERANCE = 1e-3


def first_line(error: Exception) -> str:
    """An exception in one line, shortened."""
    text = " ".join(str(error).split())[:150]
    return f"{type(error).__name__}: {text}"


def accepted(model: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a tokenizer's output that the model's forward pass has parameters for."""
    parameters = inspect.signature(model.forward).parameters
    return {name: value for name, value in batch.items() if name in parameters}


# How long an example may be


def length_error(model: Any, num_tokens: int) -> str | None:
    """Why a model's own forward pass fails for an example of this length; None if it works."""
    token_id = model.config.get_text_config().vocab_size // 2
    token_id += token_id == model.config.pad_token_id  # which has no position in RoBERTa
    input_ids = torch.full((1, num_tokens), token_id, device=model.device)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    # The logits of thousands of tokens would take gigabytes, and their number is no matter of the head.
    reader = model.base_model if find_encoder(model.config) else model
    try:
        with torch.no_grad():
            reader(**accepted(reader, batch))
    except Exception as error:  # every kind raises another type
        return first_line(error)
    return None


def longest_input(model: Any, num_tokens: int) -> int:
    """The largest number of tokens, at most `num_tokens`, of an example that a model accepts.

    No more than `max_position_embeddings` of its config, if it has one: models with relative positions
    accept longer examples, but were not trained on them. Raises NotebookError if the model fails for any
    number.
    """
    declared = getattr(model.config.get_text_config(), "max_position_embeddings", MAX_POSITIONS)
    limit = min(num_tokens, declared)
    error = length_error(model, limit)
    if error is None:
        return limit
    shorter = range(1, limit)
    possible = bisect_left(shorter, True, key=lambda number: bool(length_error(model, number)))
    if not possible:
        raise forward_error(model, limit, error)
    return possible


def forward_error(model: Any, num_tokens: int, reason: str) -> NotebookError:
    """The NotebookError for a model whose own forward pass fails."""
    return NotebookError(
        f"{type(model).__name__} cannot be trained on lines of text: its own forward pass fails for "
        f"{num_tokens} tokens ({reason}); pass another model, such as BERT"
    )


def one_layer_model(config: Any) -> Any:
    """A random model with this config and one layer, which accepts the same lengths; in eval mode.

    Raises NotebookError if transformers cannot build a model with this config.
    """
    small = copy.deepcopy(config)
    try:
        small.num_hidden_layers = 1
        return AutoModelForMaskedLM.from_config(small).eval()
    except Exception:  # some kinds count their layers otherwise
        pass
    try:
        return AutoModelForMaskedLM.from_config(config).eval()
    except Exception as error:
        raise NotebookError(
            f"the config of this {config.model_type!r} model is not valid ({first_line(error)}): correct "
            "the value, or copy config.json again from where the model comes from"
        ) from None


# The probe batch


def probe_examples(train: Any) -> list[torch.Tensor]:
    """Up to three training examples, one long and two short, each with a masked token; 1-D int64."""
    order = np.argsort(-np.minimum(train.lengths[:1000], LONG), kind="stable")
    examples = []
    for index, most in zip(order[[0, len(order) // 2, -1]], (LONG, SHORT, SHORT)):
        ids = train[int(index)]
        ids = torch.cat([ids[: most - 1], ids[-1:]]) if len(ids) > most else ids.clone()
        ids[len(ids) // 2] = train.tokenizer.mask_token_id
        examples.append(ids)
    return examples


def tokenizer_output(tokenizer: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `tokenizer(text)` gives for the text with these ids, as a batch of one: all (1, T)."""
    names = tokenizer.model_input_names
    batch = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    if "token_type_ids" in names:
        types = tokenizer("a a")["token_type_ids"]  # of the first token, the text, the last token
        token_types = torch.full_like(ids, types[1])
        token_types[0], token_types[-1] = types[0], types[-1]
        batch["token_type_ids"] = token_types[None]
    return {name: value for name, value in batch.items() if name in names}


def packed_probe(
    examples: list[torch.Tensor], pad_token_id: int, pack: bool
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The examples as a training batch, and the cells of the flattened batch that contain them, in order.

    pack: all in one row; otherwise one per row.
    """
    sizes = np.array([len(example) for example in examples])
    rows = np.zeros(len(sizes), int) if pack else np.arange(len(sizes))
    width = int(sizes.sum() + 3 if pack else sizes.max())  # with some padding, if allowed
    ids = torch.cat(examples).numpy()
    shape = (1 if pack else len(sizes), width)
    arrays = lay_out_rows(rows, sizes, ids, np.full_like(ids, -100), shape, pad_token_id)
    batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return batch, batch["sequence_ids"].flatten().nonzero()[:, 0]


def training_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits (B*T, V) that training computes for all tokens of a batch."""
    mask = packed_attention_mask(batch.get("sequence_ids"))
    hidden = hidden_states(model, batch["input_ids"], mask, batch.get("position_ids"))
    return head_logits(model, hidden).flatten(0, 1)


def own_logits(model: Any, tokenizer: Any, examples: list[torch.Tensor]) -> torch.Tensor:
    """The logits of all tokens by the model's own forward pass, one example at a time: (tokens, V).

    Raises NotebookError if the forward pass fails or has another number of tokens than its input.
    """
    logits = []
    for ids in examples:
        try:
            found = model(**accepted(model, tokenizer_output(tokenizer, ids))).logits
        except Exception as error:
            raise forward_error(model, len(ids), first_line(error)) from None
        if found.shape[:2] != (1, len(ids)):
            raise NotebookError(
                f"{type(model).__name__} cannot be trained here: for {len(ids)} tokens it predicts "
                f"{found.shape[1]}; pass a model with one prediction per token, such as BERT"
            )
        logits.append(found[0])
    return torch.cat(logits)


# Checks


class ForwardCheck:
    """Compares what training computes with the model's own forward pass, on a probe batch.

    Create it with the model as it was loaded, and call it when the model is ready for training.
    Raises NotebookError if the model's own forward pass cannot be used for masked language modelling.
    """

    def __init__(self, model: Any, train: Any) -> None:
        self.model, self.tokenizer, self.seed = model, train.tokenizer, 0
        self.examples = probe_examples(train)
        self.batch, self.cells = packed_probe(
            self.examples, self.tokenizer.pad_token_id, supports_packing(model.config)
        )
        drop_unknown_inputs(model, self.tokenizer)
        check_inputs(model, self.tokenizer)
        self.expected = self.evaluate(own_logits, self.tokenizer, self.examples)
        self.check_model()

    def evaluate(self, function: Callable[..., torch.Tensor], *arguments: Any) -> torch.Tensor:
        """function(model, ...) in eval mode, without gradients.

        It gets a copy of the model: BigBird changes its attention for good when it reads a short text.
        """
        model = copy.deepcopy(self.model).eval()
        self.seed += 1  # a model that draws random numbers shall be noticed
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return function(model, *arguments)

    def check_model(self) -> None:
        """Raise NotebookError if predictions are not finite, random, or do not use the context on both sides."""
        name = type(self.model).__name__
        if not self.expected.isfinite().all():
            raise NotebookError(
                f"{name} predicts NaN or infinity for a line of the training text: its weights are damaged or "
                "far too large; copy or download the model again, or pass another model"
            )
        again = self.evaluate(own_logits, self.tokenizer, self.examples)
        if not difference(again, self.expected) < TOLERANCE:
            raise NotebookError(
                f"{name} cannot be checked before training: the same input gives other predictions each "
                "time (random hashing?); pass another model, such as BERT"
            )
        if not self.evaluate(reads_both_sides, self.tokenizer, self.examples[0][-SHORT:]):
            raise NotebookError(
                f"{name} does not read the text after a masked token: a changed word changes no "
                f"prediction before it ({why_one_sided(self.model.config)}); pass another model, such as BERT"
            )

    def __call__(self) -> None:
        """Raise NotebookError if the logits of training differ; a line if it is only due to padding."""
        alone = self.evaluate(training_logits, {"input_ids": self.examples[0][None]})
        batch = self.evaluate(training_logits, self.batch)[self.cells]
        change = difference(alone, self.expected[: len(alone)])
        name, config = type(self.model).__name__, self.model.config
        if change < TOLERANCE:
            change = difference(batch, self.expected)
            if change < TOLERANCE:
                return
            padded = self.evaluate(padded_logits, self.batch)[self.cells]
            if not supports_packing(config) and difference(batch, padded) < TOLERANCE:
                print(
                    f"padding changes the predictions of {name} (logits by {change:.0%} of the largest), also "
                    'in its own forward pass; with examples="stream" there is almost no padding'
                )
                return
        reason = (
            f"pad_token_id is {config.pad_token_id} in its config, {self.tokenizer.pad_token_id} in its "
            "tokenizer; correct config.json, or pass another model"
        )
        if any(types := self.tokenizer("a").get("token_type_ids", [])):
            reason = (
                f"its tokenizer gives the token_type_ids {types} for the text 'a', but training has only 0; "
                "pass another model, or, if this one was trained with 0, correct each type_id in the "
                "post_processor of its tokenizer.json"
            )
        raise NotebookError(
            f"training would not compute what {name} itself computes (logits differ by {change:.0%} of the "
            f"largest): {reason}"
        )


def difference(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference between logits, relative to the largest of the expected ones."""
    return float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-9))


def padded_logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits (B*T, V) of the model's own forward pass for a padded batch."""
    mask = (batch["sequence_ids"] > 0).long()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask}
    return model(**accepted(model, inputs)).logits.flatten(0, 1)


def reads_both_sides(model: Any, tokenizer: Any, ids: torch.Tensor) -> bool:
    """Whether a token's prediction depends on later tokens. Adds noise to the model's weights.

    Without the noise, layers that start with zeros would hide it.
    """
    embeddings = model.get_input_embeddings().weight  # large, and not zero
    for weight in model.parameters():
        if weight is not embeddings:
            weight.add_(torch.randn_like(weight), alpha=0.02)
    changed = ids.clone()
    changed[-2] = tokenizer.cls_token_id if ids[-2] != tokenizer.cls_token_id else ids[-1]
    before, after = (own_logits(model, tokenizer, [example]) for example in (ids, changed))
    return len(ids) < 4 or not torch.equal(before[:-2], after[:-2])


def why_one_sided(config: Any) -> str:
    """The probable reason that a model does not read later tokens."""
    for name in ("is_decoder", "causal"):
        if getattr(config, name, False):
            return f"its config.json has {name} set to true"
    return "its attention may need a GPU kernel that is not installed"


def drop_unknown_inputs(model: Any, tokenizer: Any) -> None:
    """Let a tokenizer give only what the model takes, so that `model(**tokenizer(text))` works."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in tokenizer.model_input_names if name not in parameters]
    if unknown and not takes_any:
        tokenizer.model_input_names = [
            name for name in tokenizer.model_input_names if name not in unknown
        ]
        print(
            f"{', '.join(unknown)}: given by the tokenizer but not taken by {type(model).__name__}, "
            "so the tokenizer no longer gives it"
        )


def check_inputs(model: Any, tokenizer: Any) -> None:
    """Raise NotebookError if a model reads more of a tokenizer's output than training gives it."""
    known = {"input_ids", "attention_mask", "token_type_ids"}
    if unknown := accepted(model, tokenizer("a")).keys() - known:
        raise NotebookError(
            f"{type(model).__name__} also reads {', '.join(sorted(unknown))} from its tokenizer, which "
            "training does not give it; pass another model, such as BERT"
        )


def weights_of(output: torch.Tensor) -> set[int]:
    """The ids of the weights that a tensor was computed from, read from its autograd graph.

    Without a backward pass: the first one in a process fixes the devices that autograd knows, and on a
    TPU it must come after XLA has started.
    """
    found, seen, nodes = set(), set(), [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        nodes += [next_node for next_node, _ in node.next_functions]
    return found


def freeze_unused_weights(model: Any, train: Any) -> None:
    """Freeze the weights that get no gradient from a training batch, and print which.

    DDP waits for the gradient of every weight that is trained. Raises NotebookError if the forward pass
    in training fails.
    """
    examples = [ids[:SHORT] for ids in probe_examples(train)]
    batch, cells = packed_probe(
        examples, train.tokenizer.pad_token_id, supports_packing(model.config)
    )
    model_copy = copy.deepcopy(model)  # as in ForwardCheck
    used: set[int] = set()
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            for training in (False, True):  # in training, some kinds skip layers at random
                model_copy.train(training)
                used |= weights_of(training_logits(model_copy, batch)[cells])
    except Exception as error:
        raise NotebookError(
            f"{type(model).__name__} cannot be trained on lines of text: its forward pass in training "
            f"fails ({first_line(error)}); pass another model"
        ) from None
    weights = {name: w for name, w in model_copy.named_parameters() if w.requires_grad}
    unused = [name for name, weight in weights.items() if id(weight) not in used]
    for name in unused:
        model.get_parameter(name).requires_grad_(False)
    if unused:
        print(
            f"{len(unused)} of {len(weights)} weights get no gradient from text and stay as they are "
            f"({unused[0]}{', ...' if unused[1:] else ''})"
        )
