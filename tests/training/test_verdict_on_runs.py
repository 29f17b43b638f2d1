"""The verdict names the cause of real small trainings that went well or wrong."""

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from encoders import make_model
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece
from mlm.training.datamodule import MaskedLMData
from mlm.training.evaluation import (
    evaluate,
    repeated_fraction,
    training_unigram_loss,
    unigram_loss,
    visible_gain,
)
from mlm.training.module import MaskedLM
from mlm.training.verdict import MIN_GAP, Evidence, verdict
from small_runs import stop_at

NOUNS = [
    "river",
    "stone",
    "market",
    "harbour",
    "lantern",
    "winter",
    "garden",
    "letter",
    "captain",
    "window",
]
VERBS = [
    "carries",
    "follows",
    "watches",
    "repairs",
    "paints",
    "forgets",
    "finds",
    "sells",
    "moves",
    "opens",
]
STEPS = 160


def grammatical(count, seed):
    """Lines in which the neighbours of a word say much about it: each noun has its own verb and object."""
    rng = random.Random(seed)
    subjects = (rng.randrange(10) for _ in iter(int, 1))
    clause = lambda i: f"the {NOUNS[i]} {VERBS[i]} the {NOUNS[i - 3]}"  # noqa: E731
    return [f"{clause(next(subjects))} and {clause(next(subjects))}" for _ in range(count)]


def random_words(count, seed, words=400):
    """Lines of words that have nothing to do with each other."""
    rng = random.Random(5)
    vocabulary = ["".join(rng.choices("abcdefghij", k=4)) for _ in range(words)]
    rng = random.Random(seed)
    return [" ".join(rng.choices(vocabulary, k=8)) for _ in range(count)]


def train(
    folder,
    train_lines,
    valid_lines,
    lr=2e-3,
    steps=STEPS,
    tokenizer=None,
    model=None,
    from_scratch=True,
):
    """(Evidence of a short training, the tokenizer and the model as keyword arguments)."""
    torch.set_num_threads(1)
    for name, lines in (("train", train_lines), ("valid", valid_lines)):
        (folder / f"{name}.txt").write_text("\n".join(lines))
    tokenizer = tokenizer or learn_wordpiece(folder / "train.txt", vocab_size=800)
    bert = model or make_model("bert", tokenizer, initializer_range=0.1)
    texts = [MaskedLMDataset(folder / f"{name}.txt", tokenizer, 32) for name in ("train", "valid")]
    data = MaskedLMData(*texts, 16, 0.3, seed=0, total_steps=steps, pack=True)
    options = dict(optimizer="adamw", lr=lr, weight_decay=0.0, schedule="linear", total_steps=steps)
    module = MaskedLM(bert.train(), options)
    module.trainer = SimpleNamespace(world_size=1)
    configured = module.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    valid = lambda: evaluate(module, data.validation_batches())["loss"]  # noqa: E731
    validation, training, recent = [(0, valid())], [], []
    for step, batch in enumerate(data.train_batches(), 1):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        recent.append(loss.item())
        if step % max(1, steps // 20) == 0:
            training.append((step, float(np.mean(recent))))
            recent = []
        if step % max(1, steps // 4) == 0:
            validation.append((step, valid()))
    baseline = unigram_loss(texts[0], data.validation_batches())
    evidence = Evidence(
        validation, training, baseline, from_scratch,
        epochs=steps * 16 / len(texts[0]), visible_gain=visible_gain(texts[0]), unk_fraction=texts[0].unk_fraction,
        repeated_fraction=repeated_fraction(texts[0]), easier=baseline - training_unigram_loss(texts[0]),
    )  # fmt: skip
    return evidence, dict(tokenizer=tokenizer, model=bert)


def test_a_training_that_succeeds_uses_context(tmp_path):
    run, _ = train(tmp_path, grammatical(400, 1), grammatical(60, 2))
    assert verdict(run)["cause"] == "none", run


def test_memorized_mails_are_called_overfitting(tmp_path):
    """100 distinct lines of random words, 12 times, and fresh lines as the validation set."""
    run, _ = train(tmp_path, random_words(100, 1) * 12, random_words(60, 2), lr=5e-3, steps=400)
    found = verdict(run)
    assert found["cause"] == "overfitting" and not found["learned"], run
    assert run.repeated_fraction == pytest.approx(11 / 12)
    assert "92% of the training examples are copies" in found["text"]


def test_words_that_do_not_predict_each_other_end_at_a_plateau(tmp_path):
    """It is below the unigram baseline: the model learns that 10% of the masked tokens stay visible."""
    texts = random_words(1000, 1, words=60), random_words(60, 2, words=60)
    run, _ = train(tmp_path, *texts, lr=5e-3, steps=300, from_scratch=False)
    found = verdict(run)
    assert found["cause"] in ("plateau", "too few steps") and not found["learned"], run
    lowest = run.baseline - run.visible_gain  # a model without context gets no further
    assert run.after == pytest.approx(lowest, abs=0.15) and lowest < run.baseline - 0.2


def test_a_short_training_needs_more_steps(tmp_path):
    for steps in (1, 8):
        run, _ = train(tmp_path, grammatical(400, 1), grammatical(60, 2), steps=steps)
        assert verdict(run)["cause"] == "too few steps", run


def test_easy_lines_in_the_training_text_alone_are_no_overfitting(tmp_path):
    """A third of the training tokens are the rules of tables, which the validation set does not have."""
    lines = [*grammatical(400, 1), *["- " * 20] * 100]
    run, _ = train(tmp_path, lines, grammatical(60, 2), steps=80, lr=5e-4)
    assert run.epochs > 2 and run.after - run.last_training > MIN_GAP, run
    assert verdict(run)["cause"] == "too few steps", run


def test_a_learning_rate_that_is_far_too_high_is_named(tmp_path):
    run, _ = train(tmp_path, grammatical(400, 1), grammatical(60, 2), lr=1.0)
    assert verdict(run)["cause"] in ("divergence", "learning rate"), run


def test_a_trained_model_can_be_spoiled_or_stay_as_it_is(tmp_path):
    _, trained = train(tmp_path, grammatical(400, 1), grammatical(60, 2))
    texts, options = (grammatical(400, 3), grammatical(60, 4)), dict(from_scratch=False, steps=80)
    run, trained = train(tmp_path, *texts, lr=1e-6, **trained, **options)
    found = verdict(run)
    assert found["cause"] == "none" and "knew this kind of text already" in found["text"], run
    run, _ = train(tmp_path, *texts, lr=0.3, **trained, **options)
    found = verdict(run)
    assert found["cause"] in ("divergence", "learning rate") and "lr" in found["text"], run


def test_a_resumed_run_gets_the_same_verdict(runs, trained, tmp_path):
    stop_at(runs, tmp_path, 3)
    folder = runs(tmp_path)
    results = [json.loads((each / "run.json").read_text()) for each in (folder, trained)]
    assert results[0]["verdict"] == results[1]["verdict"]
    assert results[0]["verdict"]["cause"] == "too few steps"


@pytest.mark.parametrize("examples", ["line", "block", "stream"])
def test_repeated_examples_are_counted(tmp_path, examples):
    """Copies only, not other lines with the same words."""
    path = tmp_path / "text.txt"
    lines = ["a b c", "c b a", "a b", "a b c", "a b c", "b"]
    path.write_text("\n".join(lines))
    tokenizer = learn_wordpiece(path)
    dataset = MaskedLMDataset(path, tokenizer, 32, examples)
    shown = [tuple(dataset[i].tolist()) for i in range(len(dataset))]
    expected = 1 - len(set(shown)) / len(shown)
    assert repeated_fraction(dataset) == pytest.approx(expected)
    if examples == "line":
        assert expected == pytest.approx(2 / 6)
