"""A rebuilt model is the one before training only if it has the loss that was stored."""

import copy

import pandas as pd
import pytest

from encoders import make_model
from mlm.data.dataset import MaskedLMDataset
from mlm.data.general import load_replay
from mlm.data.labelled import is_new
from mlm.env.files import read_checked_json
from mlm.inference.validation_set import find_training_text, is_initial_model, validation_loss
from mlm.models.loading import init_head_bias


@pytest.mark.parametrize(
    "precision, tolerance", [("torch.float32", 1e-4), ("torch.bfloat16", 1e-2)]
)
def test_a_rebuilt_model_must_have_the_loss_that_was_stored(
    results_of, prose_corpus, prose_tokenizer, prose_model, capsys, precision, tolerance
):
    results, workdir = results_of(prose_corpus), prose_corpus.parents[1]
    loss = validation_loss(prose_model, prose_tokenizer, results, prose_corpus)
    hardware = {"device": "cpu", "precision": precision}
    for factor, expected in ((1, True), (1 + 0.5 * tolerance, True), (1 + 2 * tolerance, False)):
        stored = results | {"hardware": hardware, "before": {"loss": loss * factor}}
        assert is_initial_model(prose_model, prose_tokenizer, stored, workdir) == expected
        assert not prose_model.training  # otherwise dropout would change its predictions
        assert ("no comparison with" in capsys.readouterr().out) != expected


@pytest.mark.parametrize("examples", ["line", "block", "stream"])
def test_a_new_head_gets_the_bias_that_training_gave_it(
    results_of, prose_corpus, prose_tokenizer, examples
):
    """Lines are cut off after eight tokens, blocks are not."""
    results, before_training = results_of(prose_corpus), make_model("bert", prose_tokenizer).eval()
    results["parameters"] |= {"max_len": 8, "examples": examples}
    rebuilt = copy.deepcopy(before_training)
    rebuilt.head_was_missing = True
    train = MaskedLMDataset(prose_corpus / "train.txt", prose_tokenizer, 8, examples)
    init_head_bias(before_training, train)
    loss = validation_loss(before_training, prose_tokenizer, results, prose_corpus)
    hardware = {"device": "cpu", "precision": "torch.float32"}
    stored = results | {"hardware": hardware, "before": {"loss": loss}}
    assert is_initial_model(rebuilt, prose_tokenizer, stored, prose_corpus.parents[1])


def test_without_the_corpus_a_rebuilt_model_is_not_verified(
    results_of, prose_corpus, prose_tokenizer, prose_model, tmp_path, capsys
):
    results = results_of(prose_corpus) | {"before": {"loss": 1.0}}
    assert is_initial_model(prose_model, prose_tokenizer, results, tmp_path)
    assert "not verified" in capsys.readouterr().out


def test_the_training_text_of_a_run_includes_what_was_replayed(
    results_of, prose_corpus, tmp_path, capsys
):
    """A labelled text of which it has a line is not new, whichever of the two texts the line is from."""
    general = [f"general line {number} of another text" for number in range(50)]
    (tmp_path / "general.txt").write_text("\n".join(general))
    workdir = prose_corpus.parents[1]
    reading = dict(workdir=workdir, column="text", encoding=None, documents=None)
    folder = load_replay(str(tmp_path / "general.txt"), 0.1, prose_corpus, None, **reading)
    own_line = (prose_corpus / "train.txt").read_text("utf-8").splitlines()[0]
    texts = pd.Series([own_line, general[20], "a new line"])
    results = results_of(prose_corpus)
    assert is_new(texts, find_training_text(results, workdir)).tolist() == [False, True, True]
    results["data"]["replay"] = read_checked_json(folder / "corpus.json")["replay"]
    assert is_new(texts, find_training_text(results, workdir)).tolist() == [False, False, True]
    assert capsys.readouterr().out == ""
    (folder / "train.txt").unlink()
    assert find_training_text(results, workdir) is None
    assert "The replayed text of this run is not in workdir" in capsys.readouterr().out
