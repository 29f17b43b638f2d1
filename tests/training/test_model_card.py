"""The model card: valid for the Hub, equal to run.json, and without the folders of this machine."""

import copy
import json

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results

from mlm.training.model_card import model_card, write_card

RESULTS = {
    "parameters": {"seed": 3},
    "versions": {"python": "3.11.1", "torch": "2.13.0", "torch_xla": None},
    "hardware": {"device": "cpu", "precision": "torch.float32"},
    "data": {
        "source": "pydoc", "sha256": "cd" * 32, "text_sha256": "ab" * 32, "lines": 9000, "tokens": 80000,
        "split": {
            "train": 8100, "valid": 806, "removed": 94,
            "rule": "every tenth block of 50 lines is the validation set, without lines of the training text",
        },
    },
    "model": {"name": "scratch:tiny", "parameters": 10**6},
    "training": dict(
        steps=400, tokens_seen=7 * 10**5, seconds=61.5, optimizer="muon", lr=0.01, schedule="trapezoid",
        weight_decay=0.0, dropout=0.0, mlm_probability=0.3, clip=1.0,
    ),
    "before": {"loss": 9.0, "perplexity": 8103.1, "accuracy": 0.0},
    "after": {"loss": 2.5, "perplexity": 12.2, "accuracy": 0.54},
    "kept": {"which": "best", "step": 300, "loss": 2.5},
    "baseline": {"loss": 5.6},
    "verdict": {"text": "The model uses context: its validation loss is 3.10 nats below the baseline"},
}  # fmt: skip


def results_of(source="pydoc", model="scratch:tiny"):
    results = copy.deepcopy(RESULTS)
    results["data"]["source"], results["model"]["name"] = source, model
    return results


def test_a_card_is_valid_and_says_what_the_results_say(tmp_path):
    write_card(tmp_path, "mine", RESULTS, [{"step": 0, "valid_loss": 9.0}])
    read = ModelCard.load(tmp_path / "README.md", ignore_metadata_errors=False)
    assert read.data.library_name == "transformers" and read.data.pipeline_tag == "fill-mask"
    assert read.data.model_name == "mine" and read.data.license is None
    metadata = metadata_load(tmp_path / "README.md")
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert {r.metric_type: r.metric_value for r in results} == RESULTS["after"]
    tasks = {(name, r.task_type, r.dataset_name, r.dataset_split) for r in results}
    assert tasks == {("mine", "fill-mask", "pydoc", "validation")}
    for words in (
        "| 2.500 | 12.2 | 54.0% |", "| 9.000 | 8,103.1 | 0.0% |", "| 5.600 |", "ab" * 32,
        "best weights, from step 300", "400 steps", "700,000 tokens seen", "torch 2.13.0",
        "optimizer muon, lr 0.01", "3.10 nats below the baseline.", "9,000 lines",
        "of the training text (94 removed): none of its 806 lines occurs in the training text.",
    ):  # fmt: skip
        assert words in read.text, words
    assert "torch_xla" not in read.text
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "(curve.png)" in read.text


@pytest.mark.fault
@pytest.mark.parametrize(
    "source",
    [
        "a: b #c.txt",
        "'\"`|.txt",
        "two\nlines.txt",
        "---",
        "[x](y) {z}",
        "größe 5 %.txt",
        "yes",
        "1",
    ],
)
def test_any_name_of_a_text_gives_a_valid_card(source):
    text = model_card("mine", results_of(source))
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.eval_results[0].dataset_name == source
    lines = text.splitlines()
    assert lines.count("---") == 2
    (row,) = [line for line in lines if line.startswith("| text |")]
    assert row.count("|") == 3


SENTENCES = [
    "plain [MASK] text",
    "a: b #c [MASK] 'd' \"e\" `f` |g",
    "[MASK]",
    "- [MASK]",
    "---",
    "[x](y) {z} <mask> & *a !b %c @d",
    "two\nlines\n---\n[MASK]",
    "größe 語 🙂 \u2028 \x85 \x07 [MASK]",
    "yes",
    "1e3",
    "null",
    "x " * 300 + "[MASK]",
    "\ud800 [MASK]",
]


@pytest.mark.fault
@pytest.mark.parametrize("sentence", SENTENCES, ids=range(len(SENTENCES)))
def test_any_sentence_gives_a_valid_widget(sentence):
    text = model_card("mine", RESULTS, [sentence, "The [MASK]."])
    read = ModelCard(text.encode("utf-8").decode("utf-8"), ignore_metadata_errors=False)
    one_line = " ".join(sentence.split())
    assert read.data.widget == [{"text": one_line}, {"text": "The [MASK]."}]
    assert text.splitlines().count("---") == 2
    assert (
        read.data.pipeline_tag == "fill-mask"
        and read.text == ModelCard(model_card("mine", RESULTS)).text
    )


def test_a_card_without_examples_has_no_widget():
    assert "widget" not in model_card("mine", RESULTS)
    assert "widget" not in model_card("mine", RESULTS, [])


def test_a_text_may_be_a_list_and_the_validation_text_another_one():
    results = results_of(["/home/me/a.txt", "pydoc"])
    text = model_card("mine", results)
    assert "`a.txt, pydoc`" in text and "/home" not in text and "Every tenth block of 50" in text
    results["parameters"]["valid_corpus"] = "/home/me/exam.txt"
    results["data"]["split"]["rule"] = "valid_corpus is the validation set; its lines are removed"
    text = model_card("mine", results)
    assert "The text `exam.txt` is the validation set; its lines are removed (94 removed)" in text
    assert "/home" not in text and "tenth" not in text


@pytest.mark.parametrize("valid_corpus", [None, "/home/me/exam.txt"])
def test_a_card_of_a_run_of_an_earlier_version_promises_nothing_about_its_split(valid_corpus):
    results = results_of()
    del results["data"]["split"], results["data"]["text_sha256"]
    results["parameters"]["valid_corpus"] = valid_corpus
    text = model_card("mine", results)
    assert "Lines of it may occur in the training text" in text and "/home" not in text
    assert "none of its" not in text and "cd" * 32 in text


def test_a_card_does_not_name_folders_of_the_machine(tmp_path):
    """Only the last part of a path; of a URL no user, password or query."""
    text = model_card("mine", results_of(str(tmp_path / "diary.txt"), str(tmp_path / "model")))
    assert str(tmp_path.parent) not in text and "`diary.txt`" in text and "`model`" in text
    for source, name in (
        ("https://example.org/a/b.txt", "https://example.org/a/b.txt"),
        ("https://me:secret@example.org/a/b.txt?token=secret", "https://example.org/a/b.txt"),
        ("file:///home/me/b.txt", "b.txt"),
        ("~/clients/b.txt", "b.txt"),
        ("clients/b.txt", "b.txt"),
    ):
        text = model_card("mine", results_of(source))
        assert f"`{name}`" in text and "secret" not in text and "clients" not in text


@pytest.mark.parametrize(
    "model, base",
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("you/name", "you/name"),
        ("scratch:tiny", None),
        ("models", None),
        ("/models/mine", None),
    ],
)
def test_only_a_model_on_the_hub_is_a_base_model(model, base, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert ModelCard(model_card("mine", results_of(model=model))).data.base_model == base


def test_a_run_writes_its_card_and_repairs_it(runs, tmp_path):
    """Its SHA-256 is in run.json; its metrics are those of the weights that are kept."""
    folder = runs(tmp_path, keep="best")
    results, path = json.loads((folder / "run.json").read_text()), folder / "model/README.md"
    assert {"model/README.md", "model/curve.png"} <= results["files"].keys()
    metrics = ModelCard.load(path).data.eval_results
    assert {r.metric_type: r.metric_value for r in metrics} == results["after"]
    before = path.read_bytes()
    path.write_text("nothing")
    runs(tmp_path, keep="best")
    assert path.read_bytes() == before
