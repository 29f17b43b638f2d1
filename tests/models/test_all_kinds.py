"""Every kind of masked language model that transformers has: it trains, or is refused in one line."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, BertTokenizer

from encoders import CONFIGS, make_model
from helpers import masked_loss, refused
from mlm.data.batches import MaskedBatches
from mlm.data.dataset import MaskedLMDataset
from mlm.data.tokenizer import learn_wordpiece
from mlm.env.hub import MASKED_LMS
from mlm.models.flops import flops_per_token
from mlm.models.loading import choose_packing, load_model
from mlm.models.preparation import prepare_model
from mlm.training.module import MaskedLM

MAX_LEN = 48
SMALL = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=66, initializer_range=0.1,
)  # fmt: skip
XLM = dict(emb_dim=32, n_layers=2, n_heads=2, max_position_embeddings=64)
VISION = dict(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=16,
)  # fmt: skip
ONLY = {  # configs without the names of SMALL
    "distilbert": dict(dim=32, n_layers=2, n_heads=2, hidden_dim=64),
    "flaubert": XLM,
    "funnel": dict(block_sizes=[1, 1], d_model=32, n_head=2, d_head=16, d_inner=64),
    "modernvbert": dict(vision_config=VISION, text_config=SMALL),
    "ultravbert": dict(
        vision_config=VISION, text_config=SMALL | dict(head_dim=16, num_key_value_heads=2)
    ),
    "xlm": XLM,
}
MORE = {  # in addition to SMALL
    "big_bird": dict(block_size=4),
    "deberta": dict(relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "eurobert": dict(num_key_value_heads=2),
    "longformer": dict(attention_window=8),
    "luke": dict(entity_vocab_size=10, entity_emb_size=16),
    "mobilebert": dict(embedding_size=16, true_hidden_size=32, intra_bottleneck_size=32),
    "neomme": dict(num_key_value_heads=2),
    "perceiver": dict(
        d_latents=32, d_model=32, num_latents=8, num_self_attention_heads=2,
        num_cross_attention_heads=2, qk_channels=16, v_channels=32,
    ),
    "reformer": dict(
        attention_head_size=16, axial_pos_shape=[8, 8], axial_pos_embds_dim=[16, 16], feed_forward_size=64,
        is_decoder=False, lsh_attn_chunk_length=8, local_attn_chunk_length=8, attn_layers=["local", "lsh"],
    ),
    "rembert": dict(input_embedding_size=16, output_embedding_size=32),
    "roc_bert": dict(shape_vocab_size=400, pronunciation_vocab_size=400),
    "squeezebert": dict(embedding_size=32),
    "ultrabert": dict(head_dim=16, num_key_value_heads=2),
    "xmod": dict(languages=["en_XX", "de_DE"], default_language="en_XX"),
}  # fmt: skip
REFUSED = {  # kind: the reason
    "mra": "does not read the text after a masked token",  # on a CPU its attention is zero
    "perceiver": "for 48 tokens it predicts 66",
    "reformer": "other predictions each time",
    "tapas": "its own forward pass fails",
}
PADDING_MATTERS = {"big_bird", "convbert", "fnet", "funnel", "nystromformer", "yoso"}
UNUSED_WEIGHTS = {  # kind: what gets no gradient
    "big_bird": ("pooler",),
    "esm": ("contact_head",),
    "fnet": ("pooler",),
    "layoutlm": ("pooler",),
    "longformer": ("_global",),
    "luke": ("entity", "w2e", "e2w", "e2e", "pooler", "lm_head.bias"),  # its decoder has a bias
    "modernvbert": ("vision", "connector"),
    "neomme": ("patch",),
    "squeezebert": ("pooler",),
    "ultravbert": ("vision", "connector"),
}
KINDS = sorted(MASKED_LMS - CONFIGS.keys())


@pytest.fixture
def make_folder(tokenizer, tmp_path):
    """A function that saves a small random model of a kind and its tokenizer in a folder."""

    def make(kind, **changes):
        config = ONLY.get(kind) or SMALL | MORE.get(kind, {})
        ids = dict(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
        if "text_config" in config:
            config = config | {"text_config": config["text_config"] | ids}
        torch.manual_seed(0)
        torch.set_num_threads(1)
        made = AutoConfig.for_model(kind, **config | ids | changes)
        AutoModelForMaskedLM.from_config(made).save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        return str(tmp_path)

    return make


def prepared(folder, tokenizer, dataset):
    """The model in a folder, ready for training."""
    model = load_model(folder, tokenizer, MAX_LEN)
    device = {"kind": "cpu", "dtype": torch.float32}
    prepare_model(model, dataset, device, (4, 32), "auto", compile=False)
    return model


@pytest.fixture(scope="module")
def lines(corpus_folder, tokenizer):
    return MaskedLMDataset(corpus_folder / "train.txt", tokenizer, MAX_LEN)


def losses(model, dataset, pack, steps=12):
    """The losses of a few steps on one batch; every trained weight must get a gradient, as DDP expects."""
    rows = (np.arange(24) // 4,) if pack else ()
    batch = next(iter(MaskedBatches(dataset, [(0, np.arange(24), *rows)], 0.3, 0)))
    module = MaskedLM(model.train(), {})
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    optimizer, found = torch.optim.AdamW(weights.values(), 3e-3), []
    for _ in range(steps):
        loss, _, labels = masked_loss(module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item() / int((labels != -100).sum()))
    assert [name for name, weight in weights.items() if weight.grad is None] == []
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_or_is_refused_in_one_line(make_folder, tokenizer, lines, kind, capsys):
    folder = make_folder(kind)
    pack = choose_packing(folder)
    if kind in REFUSED:
        with refused(REFUSED[kind], "; pass "):
            prepared(folder, tokenizer, lines)
        return
    model = prepared(folder, tokenizer, lines)
    said = capsys.readouterr().out
    assert ("padding changes the predictions" in said) == (kind in PADDING_MATTERS)
    parts = UNUSED_WEIGHTS.get(kind, ())
    if kind == "roformer" and "weights get no gradient" in said:
        parts = ("embed_positions",)  # sinusoids; whether they get one depends on the version
    assert ("weights get no gradient" in said) == bool(parts)
    frozen = [name for name, weight in model.named_parameters() if not weight.requires_grad]
    assert [name for name in frozen if not any(part in name for part in parts)] == []
    assert [part for part in parts if not any(part in name for name in frozen)] == []
    first, *_, last = losses(model, lines, pack)
    assert last < first - 0.5
    assert flops_per_token(model, 16, 0.15) > 0  # 04 counts them after training


@pytest.mark.parametrize("kind", ["roberta-prelayernorm", "esm", "mpnet", "longformer", "bert"])
@pytest.mark.fault
def test_the_longest_max_len_is_found_by_asking(make_folder, tokenizer, kind):
    """RoBERTa's family has 66 positions, of which one or two come before the first token."""
    folder = make_folder(kind, max_position_embeddings=66)
    positions = {"mpnet": 64, "bert": 66}.get(kind, 65)
    load_model(folder, tokenizer, positions)
    for max_len in (positions + 1, 66 + 1, 1000):
        with refused(f"max_len={max_len}", f"the {positions} positions", "at or below"):
            load_model(folder, tokenizer, max_len)


@pytest.mark.fault
def test_a_kind_that_accepts_one_length_only_is_refused_with_its_reason(
    make_folder, tokenizer, lines
):
    folder = make_folder("nystromformer", num_landmarks=8, segment_means_seq_len=64)
    with refused("its own forward pass fails for 48 tokens", "pass another model"):
        load_model(folder, tokenizer, MAX_LEN)


@pytest.mark.parametrize("kind", sorted(MASKED_LMS - REFUSED.keys()))
@torch.no_grad()
def test_an_untied_model_of_any_kind_is_saved_as_it_was_trained(
    make_folder, tokenizer, kind, tmp_path
):
    """Its two biases are equal in the files, as transformers 4 wrote them; only one of them is trained."""
    if kind in CONFIGS:
        model = make_model(kind, tokenizer, tie_word_embeddings=False)
        model.save_pretrained(make_folder("bert"))
    else:
        make_folder(kind, tie_word_embeddings=False)
    loaded = load_model(str(tmp_path), tokenizer, MAX_LEN).eval()
    torch.manual_seed(0)
    for weight in loaded.parameters():
        if weight.requires_grad:
            weight += 0.05 * torch.randn_like(weight)
    loaded.save_pretrained(tmp_path / "saved")
    ids = torch.tensor([[tokenizer.cls_token_id, *range(20, 40), tokenizer.sep_token_id]])
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    for model in (plain, load_model(str(tmp_path / "saved"), tokenizer, MAX_LEN).eval()):
        assert torch.equal(model(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in REFUSED])
def test_a_new_head_of_any_kind_begins_without_bias(make_folder, tokenizer, kind):
    """transformers leaves it uninitialized in some kinds."""
    folder = make_folder(kind)
    AutoModelForMaskedLM.from_pretrained(folder).base_model.save_pretrained(folder)
    loaded = load_model(folder, tokenizer, MAX_LEN)
    bias = getattr(loaded.get_output_embeddings(), "bias", None)
    assert bias is None or (loaded.head_was_missing and not bias.any())


# random weights with the configuration of any kind


@pytest.fixture(scope="module")
def smaller_tokenizer(corpus_folder):
    """A vocabulary that no configuration here was made for: other size, other ids of special tokens."""
    learned = learn_wordpiece(corpus_folder / "train.txt", vocab_size=200)
    tokens = [*reversed(learned.convert_ids_to_tokens(range(len(learned))))]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=True)


@pytest.mark.parametrize("kind", sorted(MASKED_LMS - REFUSED.keys()))
def test_any_configuration_gives_random_weights_that_fit_another_vocabulary(
    make_folder, smaller_tokenizer, lines, kind, tmp_path
):
    if kind in CONFIGS:
        model = make_model(kind, lines.tokenizer, max_position_embeddings=66)
        model.save_pretrained(make_folder("bert"))
    else:
        make_folder(kind)
    (tmp_path / "model.safetensors").unlink()
    name, tokenizer = f"scratch:{tmp_path}", smaller_tokenizer
    first, again, other = (
        load_model(name, tokenizer, MAX_LEN, 0.0, seed).eval() for seed in (0, 0, 1)
    )
    config = first.config.get_text_config()
    assert first.config.model_type == kind and config.vocab_size == len(tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert {weight.dtype for weight in first.parameters()} == {torch.float32}
    weights, more = first.state_dict(), again.state_dict()
    assert all(torch.equal(weight, more[name]) for name, weight in weights.items())
    assert any(not torch.equal(w, other.state_dict()[name]) for name, w in weights.items())

    first.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()
    ids = torch.tensor([[len(tokenizer) - 3, *range(20, 60), len(tokenizer) - 4]])
    with torch.no_grad():
        logits, expected = loaded(ids).logits, first(ids).logits
    assert expected.shape[-1] >= len(tokenizer) and expected.isfinite().all()
    assert torch.equal(logits, expected)
