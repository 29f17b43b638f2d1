"""Predicting: runs that are there, in part or damaged; guesses; scores."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, pipeline

from helpers import refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.packing import VALIDATION_EPOCH
from mlm.data.tokenizer import learn_wordpiece
from mlm.env.files import sha256_sums, write_checked_json
from mlm.inference.load import (
    BertPred,
    check_tied,
    describe_run,
    find_run,
    load_initial_model,
    load_pred,
    read_errors,
    read_weights,
    save_untrained,
)
from mlm.inference.predict import (
    encode,
    pipeline_predictions,
    predict_masked,
    pseudo_perplexity,
    same_predictions,
    surprisals,
)
from mlm.inference.validation_examples import accuracy_by_frequency, validation_examples
from mlm.models.loading import load_model
from mlm.plots.figures import draw_guesses, draw_surprises, percent
from mlm.training.results import output_files

WORDS = "the will to power is not a name but a question of good and evil in every human being"
SENTENCE = "The [MASK] to power is not a [MASK]."
RECORD = {
    "parameters": {"model": "scratch:tiny", "seed": 7},
    "training": {"steps": 1200, "tokens_seen": 34567},
    "before": {"loss": 8.3, "perplexity": 4000.0, "accuracy": 0.0},
    "after": {"loss": 4.6, "perplexity": 99.0, "accuracy": 0.25},
    "baseline": {"loss": 5.6},
}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A WordPiece tokenizer of a few words."""
    torch.set_num_threads(1)
    text = tmp_path_factory.mktemp("text") / "train.txt"
    text.write_text("\n".join([WORDS] * 3))
    return learn_wordpiece(text, vocab_size=120)


@pytest.fixture(scope="module")
def small(words):
    """A narrow BertForMaskedLM whose predictions differ clearly from token to token."""
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=24,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    return BertForMaskedLM(config).eval()


@pytest.fixture(scope="module")
def whole_run(small, words, tmp_path_factory):
    """A workdir with a finished run, in the forms that 04 writes."""
    folder = tmp_path_factory.mktemp("work") / "run"
    (folder / "checkpoints").mkdir(parents=True)
    state = {f"bert.{name}": weight for name, weight in small.state_dict().items()}
    torch.save(state, folder / "saved.bin")
    torch.save({"state_dict": state, "global_step": 9}, folder / "checkpoints" / "last.ckpt")
    small.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text("step,loss\n")
    write_checked_json(
        folder / "run.json", {**RECORD, "files": sha256_sums(folder, output_files(folder))}
    )
    return folder


@pytest.fixture
def run_folder(whole_run, tmp_path):
    """A copy of that run, to damage."""
    return shutil.copytree(whole_run, tmp_path / "run")


def cut(path):
    """What is left of a file when its copy breaks off in the middle."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# the run


@pytest.mark.parametrize("run_name", [None, "run"])
def test_a_whole_run_is_found(whole_run, run_name):
    folder, record = find_run(str(whole_run.parent), run_name)
    assert folder == whole_run and {name: record[name] for name in RECORD} == RECORD


def test_without_a_run_there_is_none(tmp_path, capsys):
    assert find_run(tmp_path, None) == (None, None)
    assert f"No run named 'run' in {tmp_path.name}/ (others there: none)" in capsys.readouterr().out
    text = describe_run(None, None, "scratch:tiny")
    assert "We predict with 'scratch:tiny' as it comes. Run 04_train.ipynb first" in text


def test_what_a_run_says_of_itself(tmp_path):
    line = "run: scratch:tiny, 1,200 steps, 34,567 tokens, held-out loss 8.30 before, 4.60 after"
    assert describe_run(tmp_path / "run", RECORD, "scratch:tiny") == line
    first, second = describe_run(tmp_path / "run", RECORD, "bert-base-uncased").splitlines()
    assert first == line
    assert second == (
        "The parameter model='bert-base-uncased' is not needed: the run began with 'scratch:tiny'."
    )


@pytest.mark.fault
def test_a_named_run_that_is_not_there(tmp_path):
    with refused("run_name='mine': there is no folder", "mine; train it with 04_train.ipynb"):
        find_run(tmp_path, "mine")


@pytest.mark.fault
def test_a_misspelt_run_names_those_that_are_there(run_folder, capsys):
    with refused("run_name='ruhn': there is no folder", "runs there: other, run"):
        shutil.copytree(run_folder, run_folder.with_name("other"))
        find_run(run_folder.parent, "ruhn")
    run_folder.rename(run_folder.with_name("third"))
    assert find_run(run_folder.parent, None) == (None, None)
    assert "(others there: other, third)" in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "saved.bin",
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
    ],
)
@pytest.mark.parametrize("run_name", [None, "run"])
def test_a_run_in_part(run_folder, name, run_name):
    (run_folder / name).unlink()
    with refused(
        f"{run_folder / name} is missing: the run was not finished or is copied in part",
        "run 04_train.ipynb again with the same parameters, or copy the whole folder",
    ):
        find_run(run_folder.parent, run_name)


@pytest.mark.fault
@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "JSONDecodeError"),
        (json.dumps(RECORD)[:60], "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'parameters'"),
        (json.dumps({**RECORD, "after": {}}), "KeyError: 'loss'"),
        (json.dumps({**RECORD, "baseline": None}), "TypeError"),
        (json.dumps({**RECORD, "training": {"steps": "many"}}), "ValueError"),
    ],
)
def test_a_damaged_record(run_folder, text, reason):
    (run_folder / "run.json").write_text(text)
    with refused(
        f"{run_folder / 'run.json'} is damaged or not from 04_train.ipynb ({reason}",
        "run that again, or pass another run_name",
    ):
        find_run(run_folder.parent, "run")


# loading


@pytest.mark.parametrize("name", ["saved.bin", "checkpoints/last.ckpt"])
def test_loaded_weights_are_the_same_bits(whole_run, small, words, name):
    pred = load_pred(whole_run / name, whole_run / "model")
    batch = encode(small, words, SENTENCE)
    with torch.no_grad():
        assert torch.equal(pred(**batch), small(**batch).logits)
    assert not pred.training
    assert pred.bert.get_output_embeddings().weight is pred.bert.get_input_embeddings().weight
    check_tied(whole_run / name, pred.bert)


def test_load_pred_makes_the_class_that_it_is_given(whole_run):
    class Mine(BertPred):
        pass

    assert type(load_pred(whole_run / "saved.bin", whole_run / "model", Mine)) is Mine


@pytest.mark.fault
@pytest.mark.parametrize("name", ["saved.bin", "checkpoints/last.ckpt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "list"])
def test_a_damaged_file_of_weights(run_folder, name, damage):
    path = run_folder / name
    if damage == "cut":
        cut(path)
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
        load_pred(path, run_folder / "model")


@pytest.mark.fault
def test_code_in_a_file_is_not_run(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("it ran",)

    torch.save(Trap(), tmp_path / "saved.bin")
    with refused(f"{tmp_path / 'saved.bin'} cannot be read (UnpicklingError"):
        read_weights(tmp_path / "saved.bin")
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["key lost", "key too many", "prefix", "other size", "config"])
def test_weights_that_do_not_fit(run_folder, damage):
    weights = read_weights(run_folder / "saved.bin")
    if damage == "key lost":
        weights.pop("bert.cls.predictions.bias")
    elif damage == "key too many":
        weights["bert.more"] = torch.zeros(1)
    elif damage == "prefix":
        weights = {name.removeprefix("bert."): weight for name, weight in weights.items()}
    elif damage == "other size":
        about = json.loads((run_folder / "model/config.json").read_text())
        (run_folder / "model/config.json").write_text(json.dumps({**about, "hidden_size": 64}))
    else:
        (run_folder / "model/config.json").write_text("{")
    path = run_folder / "other.bin"
    torch.save({name: weight.clone() for name, weight in weights.items()}, path)
    with refused(
        f"{path} does not fit {run_folder / 'model'} (",
        "they are not of one run; copy the whole folder of a run, or train again",
    ):
        load_pred(path, run_folder / "model")


@pytest.mark.fault
def test_weights_that_came_apart(run_folder, small):
    weights = {name: w.clone() for name, w in read_weights(run_folder / "saved.bin").items()}
    weights["bert.cls.predictions.decoder.weight"][0, 0] += 1
    torch.save(weights, run_folder / "apart.bin")
    decoder, words = "cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"
    with refused(f"in {run_folder / 'apart.bin'} {decoder} and {words} differ", "04_train.ipynb"):
        check_tied(run_folder / "apart.bin", small)


@pytest.mark.fault
@pytest.mark.parametrize(
    "name", ["model/model.safetensors", "model/tokenizer.json", "model/config.json"]
)
def test_a_damaged_model_folder(run_folder, name):
    """As the notebook opens it."""
    cut(run_folder / name)
    with (
        refused(f"{run_folder / name} cannot be read (", "copy it again, or train again"),
        read_errors(run_folder / "model"),
    ):
        pipeline("fill-mask", model=str(run_folder / "model"), device="cpu")


def test_the_model_before_training_is_drawn_again(words):
    before = load_initial_model(RECORD, words)
    again = load_model("scratch:tiny", words, seed=7).state_dict()
    assert not before.training
    assert all(torch.equal(w, again[name]) for name, w in before.state_dict().items())


def test_a_model_of_few_positions_is_compared_too(whole_run, words):
    """04 can train one with a small max_len; here no length is asked for."""
    record = {**RECORD, "parameters": {"model": str(whole_run / "model"), "seed": 0}}
    assert load_initial_model(record, words).config.max_position_embeddings == 24


@pytest.mark.fault
def test_without_the_model_before_training_there_is_a_line(words, capsys):
    record = {**RECORD, "parameters": {"model": "./gone", "seed": 0}}
    assert load_initial_model(record, words) is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("No comparison with the model before training: model='./gone'")


def test_the_stand_in_has_the_forms_of_a_run(tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("\n".join([WORDS] * 20))
    folder = save_untrained("scratch:tiny", str(text), tmp_path / "work", 3)
    pred = load_pred(folder / "saved.bin", folder / "model")
    copy = BertForMaskedLM.from_pretrained(folder / "model").state_dict()
    last = read_weights(folder / "checkpoints" / "last.ckpt")
    for name, weight in pred.bert.state_dict().items():
        assert torch.equal(weight, copy[name]) and torch.equal(weight, last[f"bert.{name}"])
    assert tmp_path not in folder.parents


def test_a_stand_in_from_a_folder_reads_no_corpus(whole_run, tmp_path):
    folder = save_untrained(str(whole_run / "model"), "never read", tmp_path / "work", 0)
    mine, theirs = (read_weights(place / "saved.bin") for place in (folder, whole_run))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert not (tmp_path / "work").exists()


# words


def test_probabilities_of_all_tokens_add_up_to_1(small, words):
    guesses = predict_masked(small, words, SENTENCE, len(words))
    assert len(guesses) == 2
    for row in guesses:
        tokens, probabilities = zip(*row)
        assert sorted(tokens) == sorted(words.get_vocab())
        assert math.isclose(sum(probabilities), 1, abs_tol=1e-5)
        assert list(probabilities) == sorted(probabilities, reverse=True)


def test_fewer_guesses_are_the_first_of_many(small, words):
    few, many = (
        predict_masked(small, words, SENTENCE, 3),
        predict_masked(small, words, SENTENCE, 10**6),
    )
    assert few == [row[:3] for row in many] and len(many[0]) == len(words)


@pytest.mark.parametrize("sentence", [SENTENCE, "The [MASK].", "[MASK] [MASK] [MASK]"])
@pytest.mark.parametrize("top_k", [1, 5, 10**6])
def test_the_pipeline_gives_the_same(whole_run, small, words, sentence, top_k):
    fill_mask = pipeline("fill-mask", model=str(whole_run / "model"), device="cpu")
    ours = predict_masked(small, words, sentence, top_k)
    theirs = pipeline_predictions(fill_mask, sentence, top_k)
    assert len(ours) == sentence.count("[MASK]") and same_predictions(ours, theirs)


def test_other_guesses_are_not_the_same():
    ours = [[("good", 0.5), ("evil", 0.25)]]
    assert same_predictions(ours, [[("good", 0.5), ("evil", 0.25 + 1e-8)]])
    assert not same_predictions(ours, [[("evil", 0.5), ("good", 0.25)]])
    assert not same_predictions(ours, [[("good", 0.5), ("evil", 0.26)]])
    assert not same_predictions(ours, ours * 2)


@pytest.mark.fault
@pytest.mark.parametrize("ask", [encode, lambda *a: predict_masked(*a, 3), surprisals])
def test_a_sentence_longer_than_the_positions(small, words, ask):
    ask(small, words, "the " * 21 + "[MASK]")
    with refused("the sentence has 25 tokens", "this model takes 24", "cut it in two"):
        ask(small, words, "the " * 22 + "[MASK]")


# scores


@pytest.mark.parametrize("sentence", [WORDS, "good.", "The [MASK] of power, unbeknownst!"])
def test_one_batch_is_one_mask_at_a_time(small, words, sentence):
    tokens, nats = surprisals(small, words, sentence)
    ids = words(sentence, return_tensors="pt")["input_ids"]
    assert tokens == words.convert_ids_to_tokens(ids[0])[1:-1] and len(nats) == len(tokens)
    for position, surprise in enumerate(nats, 1):
        masked = ids.clone()
        masked[0, position] = words.mask_token_id
        with torch.no_grad():
            log_p = small(masked).logits[0, position].log_softmax(-1)
        torch.testing.assert_close(surprise, -log_p[ids[0, position]], atol=1e-4, rtol=0)


def test_memory_does_not_grow_with_the_square_of_a_sentence(small, words):
    """At most 64 copies of it go through the model at once, and no more often than that needs."""
    config = BertConfig(**{**small.config.to_dict(), "max_position_embeddings": 512})
    torch.manual_seed(0)
    long, seen = BertForMaskedLM(config).eval(), []
    long.bert.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    tokens, nats = surprisals(long, words, "good " * 510)
    assert len(tokens) == len(nats) == 510
    assert seen == [(64, 512)] * 7 + [(62, 512)]


def test_a_surprise_is_the_guess_of_fill(small, words):
    tokens, nats = surprisals(small, words, "the will to power")
    found = dict(predict_masked(small, words, "the [MASK] to power", len(words))[0])
    assert math.isclose(math.exp(-nats[tokens.index("will")]), found["will"], rel_tol=1e-4)


def test_who_knows_nothing_hesitates_among_all_words(words):
    bert = BertForMaskedLM(BertConfig(vocab_size=len(words), hidden_size=12, num_hidden_layers=1))
    for weight in bert.parameters():
        torch.nn.init.zeros_(weight)
    assert math.isclose(pseudo_perplexity(bert.eval(), words, WORDS), len(words), rel_tol=1e-4)


# pictures


@pytest.mark.parametrize(
    "p, text",
    [
        (1, "100%"),
        (0.997, "100%"),
        (0.41, "41%"),
        (0.0996, "10%"),
        (0.051, "5.1%"),
        (0.00024, "0.024%"),
    ],
)
def test_percent(p, text):
    assert percent(p) == text


def test_bars_say_what_they_are(small, words):
    import matplotlib.pyplot as plt

    guesses = {
        "before": predict_masked(small, words, SENTENCE, 4),
        "after": predict_masked(small, words, SENTENCE, 4),
    }
    draw_guesses(guesses, f"$ {SENTENCE} $")
    figure = plt.gcf()
    assert [ax.get_title() for ax in figure.axes] == [
        f"[MASK] {row}, {name}" for row in (1, 2) for name in guesses
    ]
    figure.canvas.draw()
    plt.close(figure)


def test_two_models_differ_not_by_colour_alone(small, words):
    import matplotlib.pyplot as plt

    tokens, nats = surprisals(small, words, WORDS)
    figure, ax = plt.subplots()
    draw_surprises(ax, tokens, {"before": nats, "after": nats / 2})
    assert [label.get_text() for label in ax.get_xticklabels()] == tokens
    hatches = {bars.get_label(): {bar.get_hatch() for bar in bars} for bars in ax.containers}
    assert hatches["before"] != hatches["after"]
    plt.close(figure)


# held-out lines


def test_gaps_are_those_of_the_measurement(tmp_path, corpus_folder, tokenizer, bert):
    """The lines, the hidden words and the guesses of the held-out measure, and none without its text."""
    from mlm.training.evaluation import evaluate
    from mlm.training.module import MaskedLM

    about = json.loads((corpus_folder / "corpus.json").read_text())
    record = {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": about["sha256"]}}
    workdir = corpus_folder.parents[1]
    models = {"one": bert.eval(), "same": bert}
    gaps = validation_examples(models, tokenizer, record, workdir, lines=1000)  # all there are
    assert 5 < len(gaps) <= 40 and gaps == validation_examples(
        models, tokenizer, record, workdir, 1000
    )
    assert len(validation_examples(models, tokenizer, record, workdir, lines=3)) == 3
    right = asked = 0
    for questions in gaps.values():
        for hidden, said in questions:
            assert said["one"] == said["same"]
            right, asked = right + (hidden == said["one"]), asked + 1
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    fits = np.flatnonzero((valid.lengths >= 8) & (valid.lengths <= 16))
    batches = MaskedBatches(valid, [(VALIDATION_EPOCH, fits)], 0.15, 3)
    assert evaluate(MaskedLM(bert, {}), batches)["accuracy"] == pytest.approx(right / asked)
    assert validation_examples(models, tokenizer, record, tmp_path) == {}


def test_accuracy_by_frequency_adds_up_to_that_of_the_measurement(corpus_folder, tokenizer, bert):
    """Over all bands it is the held-out accuracy of 04, question by question."""
    from mlm.training.datamodule import MaskedLMData
    from mlm.training.evaluation import evaluate
    from mlm.training.module import MaskedLM

    about = json.loads((corpus_folder / "corpus.json").read_text())
    record = {"parameters": {"max_len": 32, "seed": 3}, "data": {"sha256": about["sha256"]}}
    found = accuracy_by_frequency({"one": bert}, tokenizer, record, corpus_folder.parents[1])
    valid = MaskedLMDataset(corpus_folder / "valid.txt", tokenizer, 32)
    batches = list(MaskedLMData(valid, valid, 32, 0.15, 3, 0).validation_batches())
    asked = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    assert found["questions"].sum() == asked and len(found) > 1
    mean = (found["one"] * found["questions"]).sum() / asked
    assert evaluate(MaskedLM(bert, {}), batches)["accuracy"] == pytest.approx(mean)
    guessed = found["most frequent"]  # one token's share: right in its own band alone
    assert guessed.iloc[-1] > 0 and (guessed.iloc[:-1] == 0).all()
