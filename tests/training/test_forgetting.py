"""What a model forgets: measured with the same masks, without a trace in the model; resumed with replay."""

import copy
import json

import pytest
import torch
from test_model_card import RESULTS

from helpers import refused, sentences
from mlm.data.dataset import MaskedLMDataset
from mlm.data.general import load_general, load_replay
from mlm.env.files import read_checked_json
from mlm.training.evaluation import validation_batches
from mlm.training.forgetting import describe_forgetting, measure_forgetting
from mlm.training.model_card import model_card
from small_runs import logger_state, same, stop_at


@pytest.fixture
def general(tmp_path, corpus_folder, tokenizer):
    """GeneralText of another text than the corpus."""
    path = tmp_path / "wide.txt"
    path.write_text("\n".join(f"wide {line}" for line in sentences(600, seed="wide")), "utf-8")
    reading = dict(workdir=tmp_path / "work", column="text", encoding=None, documents=None)
    return load_general(str(path), "a model", corpus_folder, tokenizer, 32, **reading)


@pytest.fixture
def replaying(runs, general, corpus_folder, tokenizer, tmp_path):
    """SmallRuns that replay the general text in a quarter of the examples."""
    reading = dict(workdir=tmp_path / "work", column="text", encoding=None, documents=None)
    folder = load_replay(str(tmp_path / "wide.txt"), 0.25, corpus_folder, general, **reading)
    about = read_checked_json(folder / "corpus.json")
    runs.train = MaskedLMDataset(folder / "train.txt", tokenizer, 32, "line", about["mixture"])
    runs.data.train = runs.train
    runs.about_corpus["replay"] = about["replay"]
    return runs


def test_both_losses_are_of_the_same_masks_and_the_model_keeps_its_weights(module, general):
    """So a model that was not trained has not forgotten anything."""
    start = copy.deepcopy(module.state_dict())
    module.train()
    found = measure_forgetting(module, start, general, seed=3)
    assert found["before"] == found["after"] and found["masked_tokens"] > 100
    with torch.no_grad():
        for weight in module.parameters():
            weight += 0.1
    trained = copy.deepcopy(module.state_dict())
    found = measure_forgetting(module, start, general, seed=3)
    swapped = measure_forgetting(module, trained, general, seed=3)
    assert found["before"] != found["after"] == swapped["before"] == swapped["after"]
    assert all(torch.equal(weight, trained[name]) for name, weight in module.state_dict().items())
    assert module.training
    other = measure_forgetting(module, start, general, seed=4)
    assert other["before"] != found["before"]


def test_after_an_interrupt_the_model_has_its_trained_weights(module, general, monkeypatch):
    """It is saved in a cell below."""
    start = copy.deepcopy(module.state_dict())
    for interrupted in (1, 2):  # the evaluation after training, and the one before
        calls = iter(range(1, 3))

        def interrupt(*args, number=interrupted, calls=calls):
            if next(calls) == number:
                raise KeyboardInterrupt

        monkeypatch.setattr("mlm.training.forgetting.evaluate", interrupt)
        with torch.no_grad():
            for weight in module.parameters():
                weight += 0.1
        trained = copy.deepcopy(module.state_dict())
        with pytest.raises(KeyboardInterrupt):
            measure_forgetting(module, start, general, seed=0)
        assert all(torch.equal(trained[name], w) for name, w in module.state_dict().items())


def test_the_loss_does_not_depend_on_an_edited_training_step(module, general, monkeypatch):
    start = copy.deepcopy(module.state_dict())
    expected = measure_forgetting(module, start, general, seed=0)
    monkeypatch.setattr(module, "masked_logits", None)
    module.matmul_dtype = torch.float16
    assert measure_forgetting(module, start, general, seed=0) == expected


def test_what_was_measured_before_is_used_again_for_the_same_lines(module, general):
    stored = {"sha256": general.about["sha256"], "before": "as stored"}
    assert measure_forgetting(module, {}, general, 0, stored) is stored
    start = copy.deepcopy(module.state_dict())
    assert measure_forgetting(module, start, general, 0, {"sha256": "another"}) != stored
    assert measure_forgetting(module, {}, None, 0, stored) is None


def test_a_seventh_of_the_tokens_is_masked_once_for_all(module, general):
    batches = validation_batches(general.examples, 0, pack=True)
    masked = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert masked == pytest.approx(0.15 * general.examples.maskable.sum(), rel=0.1)


MEASURED = {
    "text": "wide.txt", "sha256": "ef" * 32, "lines": 300, "masked_tokens": 700, "new_head": False,
    "before": {"loss": 2.0, "perplexity": 7.39, "accuracy": 0.6},
    "after": {"loss": 2.5, "perplexity": 12.18, "accuracy": 0.5},
}  # fmt: skip


def test_the_result_is_described_in_words():
    text = describe_forgetting(MEASURED)
    assert "300 lines of wide.txt" in text and "(700 masked tokens)" in text
    assert "the loss rose by 0.50 nats, from 2.00 to 2.50" in text and "head" not in text
    better = MEASURED | {"after": MEASURED["before"], "before": MEASURED["after"]}
    assert "fell by 0.50 nats, from 2.50 to 2.00" in describe_forgetting(better)
    assert "MLM head was new" in describe_forgetting(MEASURED | {"new_head": True})
    assert describe_forgetting(None) == "Forgetting was not measured"


def test_the_model_card_says_what_was_forgotten_and_replayed():
    results = copy.deepcopy(RESULTS)
    plain = model_card("mine", results)
    assert "general text" not in plain and "replay" not in plain
    results["forgetting"] = MEASURED
    results["data"]["replay"] = {"source": "pydoc", "fraction": 0.1}
    card = model_card("mine", results)
    for words in (
        "On 300 lines of `wide.txt`", "rose by 0.50 nats", "| 2.000 | 7.39 | 60.0% |",
        "| 2.500 | 12.18 | 50.0% |", "| replay | 0.1 of the examples of each epoch are of `pydoc` |",
    ):  # fmt: skip
        assert words in card, words
    assert "{" not in card.replace("{fill_mask.tokenizer.mask_token}", "")
    assert card.count("\n\n\n") == plain.count("\n\n\n")


def test_a_run_with_replay_resumes_to_the_same_bits(replaying, trained, tmp_path):
    """Also in the results: what is replayed is not the corpus."""
    whole = replaying(tmp_path / "whole")
    stop_at(replaying, tmp_path / "stopped", 5)
    assert same(replaying(tmp_path / "stopped"), whole)
    assert not same(whole, trained)
    about = json.loads((whole / "run.json").read_text())
    assert about["data"]["replay"]["fraction"] == 0.25
    assert about["data"]["tokens"] == len(replaying.train.own_ids) < len(replaying.train.ids)


@pytest.mark.fault
def test_another_replay_is_refused_on_resume(replaying, tmp_path):
    stop_at(replaying, tmp_path, 2, replay_fraction=0.25)
    for change in (None, {"sha256": "12" * 32}):
        about, replaying.about_corpus["replay"] = replaying.about_corpus["replay"], change
        with refused("holds another run (the replayed text changed"):
            replaying(tmp_path, replay_fraction=0.25)
        replaying.about_corpus["replay"] = about
    with refused("holds another run (replay_fraction was 0.25, is 0.3"):
        replaying(tmp_path, replay_fraction=0.3)
    run = replaying.train_run(tmp_path, replay_fraction=0.25)
    assert run.finished and "general" not in logger_state(run.folder)["settings"]


def test_a_run_without_replay_has_the_bits_of_an_earlier_version(runs, trained, tmp_path):
    """A checkpoint without the new settings resumes."""
    folder = stop_at(runs, tmp_path, 3)
    path = folder / "checkpoints/last.ckpt"
    content = torch.load(path)
    settings = logger_state(folder)["settings"]
    assert settings.pop("replay_sha256") is None
    for state in content["callbacks"].values():
        state.get("settings", {}).pop("replay_sha256", None)
    torch.save(content, path)
    (folder / "checkpoints/sha256.json").unlink()
    assert same(runs(tmp_path), trained)
