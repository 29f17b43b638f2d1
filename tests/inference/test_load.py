"""A run is found and loaded bit by bit, or refused with the name of the missing or damaged file."""

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, pipeline

from encoders import BertPred
from helpers import ROOT, refused
from mlm.env.files import read_checked_json, write_checked_json
from mlm.env.notebook import NotebookError
from mlm.inference.load import (
    REQUIRED_FILES,
    check_tied,
    describe_run,
    find_run,
    load_initial_model,
    load_pred,
    read_errors,
    read_weights,
    save_untrained,
)
from mlm.inference.predict import encode
from mlm.models.loading import load_model
from notebooks import read

SENTENCE = "The [MASK] to power is not a [MASK]."


def truncate(path):
    """Leave only the first half of a file, as after a copy that was interrupted."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# find a run


@pytest.mark.parametrize("run_name", [None, "run"])
def test_a_finished_run_is_found_with_its_results(finished_run, results, run_name):
    folder, found = find_run(str(finished_run.parent), run_name)
    assert folder == finished_run and {name: found[name] for name in results} == results


def test_without_a_run_the_untrained_model_is_announced(tmp_path, capsys):
    assert find_run(tmp_path, None) == (None, None)
    assert f"No run named 'run' in {tmp_path.name}/ (other runs: none)" in capsys.readouterr().out
    text = describe_run(None, None, "scratch:tiny")
    assert "'scratch:tiny' without further training" in text and "04_train.ipynb" in text


def test_a_run_is_described_by_its_size_and_losses(tmp_path, results):
    text = describe_run(tmp_path / "run", results, "scratch:tiny")
    assert text == (
        "run: scratch:tiny on pydoc, 1,200 steps, 34,567 tokens seen, "
        "validation loss 8.30 before training, 4.60 after"
    )
    first, second = describe_run(tmp_path / "run", results, "bert-base-uncased").splitlines()
    assert first == text
    assert "model='bert-base-uncased' is ignored: this run trained 'scratch:tiny'" in second


@pytest.mark.fault
def test_a_named_run_must_exist(tmp_path):
    with refused("run_name='mine': there is no folder", "mine; train it with 04_train.ipynb"):
        find_run(tmp_path, "mine")


@pytest.mark.fault
def test_a_misspelled_run_name_lists_the_existing_runs(run_folder, capsys):
    shutil.copytree(run_folder, run_folder.with_name("other"))
    with refused("run_name='ruhn': there is no folder", "existing runs: other, run"):
        find_run(run_folder.parent, "ruhn")
    run_folder.rename(run_folder.with_name("third"))
    assert find_run(run_folder.parent, None) == (None, None)
    assert "(other runs: other, third)" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize("run_name", [None, "run"])
@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_a_missing_file_is_named(run_folder, name, run_name):
    (run_folder / name).unlink()
    with refused(
        f"{run_folder / name} is missing: the run is unfinished or was copied only in part",
        "run 04_train.ipynb again with the same parameters, or copy the whole folder",
    ):
        find_run(run_folder.parent, run_name)


@pytest.mark.fault
@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda results: "", "JSONDecodeError"),
        (lambda results: json.dumps(results)[:60], "JSONDecodeError"),
        (lambda results: "[]", "TypeError"),
        (lambda results: "{}", "KeyError: 'parameters'"),
        (lambda results: json.dumps({**results, "after": {}}), "KeyError: 'loss'"),
        (lambda results: json.dumps({**results, "baseline": None}), "TypeError"),
        (lambda results: json.dumps({**results, "training": {"steps": "many"}}), "ValueError"),
    ],
)
def test_damaged_results_are_refused_with_the_reason(run_folder, results, change, reason):
    (run_folder / "run.json").write_text(change(results))
    with refused(
        f"{run_folder / 'run.json'} is damaged or not from 04_train.ipynb ({reason}",
        "run 04 again, or pass another run_name",
    ):
        find_run(run_folder.parent, "run")


# load its weights


@pytest.mark.parametrize("name", ["saved.bin", "checkpoints/last.ckpt"])
def test_a_loaded_model_gives_bit_identical_logits(finished_run, model, word_tokenizer, name):
    pred = load_pred(finished_run / name, finished_run / "model", BertPred)
    batch = encode(model, word_tokenizer, SENTENCE)
    with torch.no_grad():
        assert torch.equal(pred(**batch), model(**batch).logits)
    assert not pred.training
    assert pred.bert.get_output_embeddings().weight is pred.bert.get_input_embeddings().weight
    check_tied(finished_run / name, pred.bert)


def test_load_pred_returns_an_object_of_the_given_class(finished_run):
    class Mine(BertPred):
        pass

    assert type(load_pred(finished_run / "saved.bin", finished_run / "model", Mine)) is Mine


@pytest.mark.fault
@pytest.mark.parametrize("name", ["saved.bin", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "missing", "list"])
def test_an_unreadable_weights_file_is_named(run_folder, name, damage):
    path = run_folder / name
    if damage == "truncated":
        truncate(path)
    elif damage == "missing":
        path.unlink()
    elif damage == "list":
        torch.save([1, 2], path)
    else:
        path.write_text("" if damage == "empty" else "no weights")
    with refused(
        f"{path} cannot be read (",
        "it is truncated, or not from 04_train.ipynb; copy it again, or train again",
    ):
        load_pred(path, run_folder / "model", BertPred)


@pytest.mark.fault
def test_code_in_a_weights_file_is_not_executed(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("executed",)

    torch.save(Trap(), tmp_path / "saved.bin")
    with refused(f"{tmp_path / 'saved.bin'} cannot be read (UnpicklingError"):
        read_weights(tmp_path / "saved.bin")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize(
    "damage", ["missing key", "extra key", "no prefix", "other size", "bad config"]
)
def test_weights_that_do_not_fit_the_config_are_refused(run_folder, damage):
    weights = read_weights(run_folder / "saved.bin")
    config = run_folder / "model/config.json"
    if damage == "missing key":
        weights.pop("bert.cls.predictions.bias")
    elif damage == "extra key":
        weights["bert.more"] = torch.zeros(1)
    elif damage == "no prefix":
        weights = {name.removeprefix("bert."): weight for name, weight in weights.items()}
    elif damage == "other size":
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 64}))
    else:
        config.write_text("{")
    path = run_folder / "other.bin"
    torch.save({name: weight.clone() for name, weight in weights.items()}, path)
    with refused(
        f"{path} does not fit {run_folder / 'model'} (",
        "are from different runs; copy the whole folder of a run, or train again",
    ):
        load_pred(path, run_folder / "model", BertPred)


@pytest.mark.fault
def test_an_edited_class_is_named_if_the_weights_do_not_fit_it(run_folder):
    class WithMore(BertPred):
        def __init__(self, config):
            super().__init__(config)
            self.more = torch.nn.Linear(2, 2)

    with refused("more.weight", "if you edited WithMore, or MaskedLM in 04"):
        load_pred(run_folder / "saved.bin", run_folder / "model", WithMore)


def test_an_error_of_an_edited_class_is_raised_as_it_is(run_folder):
    class Wrong(BertPred):
        def __init__(self, config):
            super().__init__(config)
            torch.zeros(2).reshape(3)

    with pytest.raises(RuntimeError) as caught:
        load_pred(run_folder / "saved.bin", run_folder / "model", Wrong)
    assert "shape '[3]' is invalid" in str(caught.value)
    assert not isinstance(caught.value, NotebookError)


@pytest.mark.fault
def test_tied_weights_that_differ_in_the_file_are_refused(run_folder, model):
    weights = {name: w.clone() for name, w in read_weights(run_folder / "saved.bin").items()}
    weights["bert.cls.predictions.decoder.weight"][0, 0] += 1
    path = run_folder / "untied.bin"
    torch.save(weights, path)
    decoder, embedding = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    with refused(f"{path}: the tied weights {decoder} and {embedding} differ", "04_train.ipynb"):
        check_tied(path, model)


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "model/tokenizer.json", "model/config.json"]
)
def test_a_damaged_file_of_a_model_folder_is_named(run_folder, name):
    truncate(run_folder / name)
    with (
        refused(f"{run_folder / name} cannot be read (", "copy it again, or train again"),
        read_errors(run_folder / "model"),
    ):
        pipeline("fill-mask", model=str(run_folder / "model"), device="cpu")


# models to compare with


def test_the_initial_model_has_the_weights_that_training_began_with(results, word_tokenizer):
    before = load_initial_model(results, word_tokenizer, "")
    expected = load_model("scratch:tiny", word_tokenizer, seed=7).state_dict()
    assert not before.training
    assert all(torch.equal(w, expected[name]) for name, w in before.state_dict().items())


def test_an_initial_model_with_few_positions_is_loaded(finished_run, results, word_tokenizer):
    """04 can train it with a small max_len; here no length is required."""
    parameters = {"model": str(finished_run / "model"), "seed": 0}
    before = load_initial_model({**results, "parameters": parameters}, word_tokenizer, "")
    assert before.config.max_position_embeddings == 24


@pytest.mark.fault
def test_a_missing_initial_model_is_reported_in_one_line(results, word_tokenizer, capsys):
    missing = {**results, "parameters": {"model": "./gone", "seed": 0}}
    assert load_initial_model(missing, word_tokenizer, "") is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No comparison with the model before training: model='./gone'")


def test_an_untrained_model_is_saved_in_the_forms_of_a_run(text, tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(f"{number} {text}" for number in range(20)))
    folder = save_untrained("scratch:tiny", str(file), tmp_path / "work", 3)
    pred = load_pred(folder / "saved.bin", folder / "model", BertPred)
    copy = BertForMaskedLM.from_pretrained(folder / "model").state_dict()
    last = read_weights(folder / "checkpoints" / "last.ckpt")
    for name, weight in pred.bert.state_dict().items():
        assert torch.equal(weight, copy[name]) and torch.equal(weight, last[f"bert.{name}"])
    assert tmp_path not in folder.parents


@pytest.mark.parametrize("vocabulary", ["bpe:150", "unigram-cased:200"])
def test_an_untrained_model_has_the_vocabulary_that_is_asked_for(text, tmp_path, vocabulary):
    file = tmp_path / "mine.txt"
    file.write_text("\n".join(f"{number} {text}" for number in range(20)))
    folder = save_untrained("scratch:tiny", str(file), tmp_path / "work", 3, vocabulary)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    kind, _, size = vocabulary.partition(":")
    assert type(tokenizer.backend_tokenizer.model).__name__.lower() == kind.removesuffix("-cased")
    assert len(tokenizer) <= int(size)


@pytest.mark.parametrize("notebook, cell_id", [("05_predict", "untrained"), ("07_use", "find-run")])
def test_without_a_run_the_corpus_is_read_in_its_encoding(text, tmp_path, notebook, cell_id):
    """Without the parameter, the error advises to pass it."""
    file = tmp_path / "old.txt"
    file.write_bytes("\n".join(f"{number} über {text}" for number in range(20)).encode("cp1252"))
    values = {
        "model": "scratch:tiny",
        "corpus": str(file),
        "workdir": str(tmp_path),
        "run_name": None,
    }
    values |= {"seed": 0, "vocabulary": "bpe:300", "results": None, "sentence_transformers": False}
    cells = read(ROOT / "notebooks" / f"{notebook}.ipynb").cells
    (source,) = (cell.source for cell in cells if cell.id == cell_id)
    exec(source, values | {"column": "text", "encoding": "cp1252"})
    (train,) = tmp_path.glob("corpus/*/train.txt")
    assert train.read_text("utf-8").startswith("0 über the will")
    with refused("old.txt is not UTF-8 text", 'pass encoding="cp1252"'):
        exec(source, values | {"column": "text", "encoding": None})


def test_an_untrained_model_has_the_vocabulary_of_a_table(text, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("year,body\n" + "\n".join(f"{n},{n} {text}" for n in range(20)))
    save_untrained("scratch:tiny", str(file), tmp_path / "work", 0, column="body")
    with refused("rows.csv has no column 'text'", "pass column="):
        save_untrained("scratch:tiny", str(file), tmp_path / "work", 0)


def test_a_run_whose_tokenizer_has_no_fast_version_is_complete(run_folder, tmp_path):
    """Such a tokenizer has no tokenizer.json."""
    (run_folder / "model" / "tokenizer.json").unlink()
    results = read_checked_json(run_folder / "run.json")
    results["files"].pop("model/tokenizer.json")
    write_checked_json(run_folder / "run.json", results)
    assert find_run(run_folder.parent, run_folder.name)[0] == run_folder


def test_an_untrained_model_from_a_folder_needs_no_corpus(finished_run, tmp_path):
    folder = save_untrained(str(finished_run / "model"), "never read", tmp_path / "work", 0)
    saved, original = (read_weights(path / "saved.bin") for path in (folder, finished_run))
    assert all(torch.equal(saved[name], original[name]) for name in original)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("error", [MemoryError(), ImportError("sentencepiece is missing")])
def test_an_error_that_says_nothing_about_the_file_is_not_blamed_on_it(tmp_path, error):
    with pytest.raises(type(error)), read_errors(tmp_path / "saved.bin"):
        raise error
