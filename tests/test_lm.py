"""The facade: three lines from text to text, and every argument with an effect or an error."""

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from psann_jax import bases, psannLM, psannLMDataPrep
from psann_jax.cli import verbs
from psann_jax.lm_options import fit_config
from psann_jax.nn.sine import SineConfig

SIZES = {"d_model": 32, "n_layers": 1, "n_heads": 4, "d_mlp": 48}
TEXTS = [f"the cat number {i} sat on mat {i}." for i in range(24)]
PREP = {"tokenizer": "simple", "vocab_size": 300, "max_length": 32}
FIT = {"batch_tokens": 256, "amp": "fp32", "ddp": "off", "verbose": False, "lr": 3e-3}
ONE_STEP = {**FIT, "steps": 1}
GREEDY = {"temperature": 0.0, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def data():
    return psannLMDataPrep(TEXTS, **PREP)


@pytest.fixture(scope="module")
def fitted(data):
    """One fit for the tests that only read it."""
    return psannLM(base="respsann", **SIZES).fit(data, steps=12, **FIT)


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _weights(lm):
    return [np.asarray(a) for a in jax.tree.leaves(lm._model)]


def _equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(_weights(a), _weights(b), strict=True))


def _metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


# -- the documented examples


def test_the_quick_example_runs_on_its_two_short_texts(in_tmp):
    model = psannLM(base="waveresnet", d_model=32, n_layers=2, n_heads=4)
    train_data = psannLMDataPrep(["test1", "test2"])
    model.fit(train_data, verbose=False)
    assert isinstance(model.generate("test", max_new_tokens=4), str)


def test_the_whole_documented_interface_takes_its_arguments(in_tmp):
    train_data = psannLMDataPrep(
        TEXTS, tokenizer="auto", max_length=16, pack_sequences=True, val_split=0.1, seed=1
    )
    model = psannLM(
        base="waveresnet",
        vocab_size=train_data.vocab_size,
        positional_encoding="rope",
        sine_params=SimpleNamespace(amp_init=1.0, freq_init=1.0, damp_init=0.01, trainable=True),
        **SIZES,
    )
    returned = model.fit(
        train_data, epochs=1, batch_tokens=512, lr=2e-4, amp="bf16", ddp="off", verbose=False
    )
    assert returned is model
    options = {"top_k": 5, "top_p": 0.9, "temperature": 0.8, "repetition_penalty": 1.1}
    assert isinstance(model.generate("the cat", max_new_tokens=3, **options), str)
    assert len(model.generate_batch(["the", "the cat sat"], max_new_tokens=3, **options)) == 2
    model.save("out")
    assert psannLM.load("out").base == "waveresnet"


@pytest.mark.mesh
def test_weights_in_parts_learn_as_whole_ones_do(data, tmp_path):
    fitted = {}
    for fsdp in ("off", "full_shard"):
        options = {**FIT, "ddp": "on", "steps": 3, "checkpoint_dir": tmp_path / fsdp}
        lm = fitted[fsdp] = psannLM(base="respsann", **SIZES).fit(data, fsdp=fsdp, **options)
        spread = lm._model.embed.table[...].sharding.is_fully_replicated
        assert spread == (fsdp == "off")
    losses = [[row["loss"] for row in _metrics(tmp_path / fsdp)] for fsdp in fitted]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    lm = fitted["full_shard"]
    text = lm.generate("the", max_new_tokens=4, temperature=0)
    lm.save(tmp_path / "saved")
    assert psannLM.load(tmp_path / "saved").generate("the", max_new_tokens=4, temperature=0) == text


def test_a_saved_model_is_evaluated_on_files(fitted, tmp_path, capsys):
    text = "\n".join(TEXTS)
    (tmp_path / "a.txt").write_text(text)
    fitted.save(tmp_path / "saved")
    assert verbs.main(["eval", str(tmp_path / "saved"), str(tmp_path / "a.txt")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == len(text) + 1  # characters, and the end
    bits = found["val_loss"] * found["tokens"] / np.log(2) / len(text)
    np.testing.assert_allclose(found["val_bits_per_byte"], bits, rtol=1e-6)
    assert found["val_loss"] < 0.9 * np.log(300)
    assert verbs.main(["eval", str(tmp_path / "saved")]) == 2
    assert "without validation text; name files" in capsys.readouterr().err


def test_training_lowers_the_loss(data, in_tmp):
    psannLM(base="respsann", **SIZES).fit(data, steps=12, checkpoint_dir="run", **FIT)
    rows = _metrics(in_tmp / "run")
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]


# -- psannLM's arguments


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ({"d_model": 64}, "d_model", 64),
        ({"n_layers": 3}, "n_layers", 3),
        ({"n_heads": 2}, "n_heads", 2),
        ({"d_mlp": 96}, "d_mlp", 96),
        ({"vocab_size": 99}, "vocab_size", 99),
        ({"dropout": 0.1}, "dropout", 0.1),
        ({"positional_encoding": "ALiBi"}, "positional_encoding", "alibi"),
        ({"rope": False}, "positional_encoding", "sinusoidal"),
        ({"rope": True}, "positional_encoding", "rope"),
        ({"rope": False, "positional_encoding": "alibi"}, "positional_encoding", "alibi"),
        ({"mlp_activation": "gelu"}, "mlp_activation", "gelu"),
        ({"wave_interleave": False}, "wave", "off"),
        ({"wave_interleave": True}, "wave", "interleave"),
        ({"wave_replace": True}, "wave", "replace"),
        ({"wave": "off"}, "wave", "off"),
        ({"wave_kernel_size": 5}, "kernel", 5),
        ({"wave_dilation_growth": 2}, "dilation_growth", 2),
        ({"wave_dropout": 0.2}, "wave_dropout", 0.2),
        ({"scan_layers": True}, "scan_layers", True),
        ({"remat": "full"}, "remat", "full"),
    ],
)
def test_an_option_reaches_the_base(option, field, value):
    assert getattr(psannLM(**{**SIZES, **option}).config, field) == value


@pytest.mark.parametrize(
    "options",
    [
        {"base": "sgrpsann", "k_fft": 8, "gate_groups": "full"},
        {"base": "geosparse", "geosparse_k": 4, "geosparse_pattern": "random"},
        {"base": "geosparse", "geosparse_activation": "mixed"},
        {"base": "transformer", "norm": "rms", "mlp_activation": "swiglu"},
    ],
    ids=str,
)
def test_every_base_fits_saves_loads_and_generates(data, options, tmp_path):
    sizes = {k: v for k, v in SIZES.items() if k != "d_mlp"}
    lm = psannLM(**sizes, **options).fit(data, **ONE_STEP)
    lm.save(tmp_path / "model")
    again = psannLM.load(tmp_path / "model")
    assert _equal(again, lm)
    assert again.generate("the cat", **GREEDY) == lm.generate("the cat", **GREEDY)


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("freq_init", "frequency", 3.0),
        ("amp_init", "amplitude", 2.0),
        ("damp_init", "damping", 0.3),
        ("freq_init_std", "frequency_std", 0.1),
        ("amp_range", "amplitude_range", (1.0, 2.0)),
        ("freq_bounds", "frequency_bounds", (0.5, None)),
        ("decay_mode", "envelope", "none"),
        ("trainable", "learnable", ()),
    ],
)
def test_a_sine_option_reaches_the_sine(option, field, value):
    given = False if option == "trainable" else value
    lm = psannLM(sine_params={option: given}, **SIZES)
    assert getattr(lm.config.sine, field) == value


def test_a_default_is_that_of_psannlm():
    lm = psannLM()
    assert (lm.base, lm.d_model, lm.n_layers, lm.n_heads) == ("waveresnet", 512, 8, 8)
    assert (lm.d_mlp, lm.vocab_size, lm.positional_encoding, lm.rope) == (2048, None, "rope", True)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"wave_kernel_size": 5, "kernel": 7}, "kernel and wave_kernel_size set the same"),
        ({"sine": SineConfig(), "sine_params": {}}, "sine and sine_params set the same"),
        ({"n_layer": 3}, "has no argument 'n_layer'; did you mean 'n_layers'"),
        ({"wave_interleaved": True}, "no argument 'wave_interleaved'"),
        ({"base": "respsann", "wave_kernel_size": 3}, "psannLM.base='respsann'. has no argument"),
        ({"base": "respsann", "wave_interleave": True}, "it is an option of waveresnet"),
        (
            {"base": "transformer", "sine_params": {}},
            "no argument 'sine_params'; it is an option of .*respsann",
        ),
        ({"base": "waveresnet", "geosparse_k": 4}, "it is an option of geosparse"),
        ({"base": "geosparse", "k_fft": 4}, "it is an option of sgrpsann"),
    ],
)
def test_an_unknown_argument_names_the_nearest(option, said):
    with pytest.raises(TypeError, match=said):
        psannLM(**option)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"base": "wavresnet"}, "did you mean 'waveresnet'"),
        ({"n_heads": 5}, r"d_model=32 is not a multiple of base\.n_heads=5"),
        ({"positional_encoding": "rotary"}, "rope, alibi, sinusoidal"),
        ({"dropout": 1.5}, "dropout=1.5"),
        ({"attn_impl": "flash"}, "attn_impl='flash' must be one of math, sdpa, auto"),
        ({"sine_params": {"freq_int": 1}}, "did you mean 'freq_init'"),
        ({"sine_params": {"amp": 1.0}}, "no option 'amp'; give amp_init"),
        ({"sine_params": {"decay": 0.1}}, "no option 'decay'; give damp_init"),
        ({"mlp_activation": "swish"}, "mlp_activation='swish' must be one of sine"),
        (
            {"mlp_activation": "gelu", "sine_params": {"freq_init": 2}},
            "no effect with base.mlp_activation='gelu'",
        ),
        ({"wave_interleave": False, "wave_kernel_size": 5}, "no effect with base.wave='off'"),
        ({"base": "geosparse", "geosparse_shape": (3, 5)}, r"shape=\(3, 5\) holds 15 features"),
        ({"base": "geosparse", "geosparse_k": 0}, "base.geometry.k=0 must be at least 1"),
        ({"base": "sgrpsann", "k_fft": 1}, "base.k_fft=1 must be at least 2"),
        ({"base": "geosparse", "geosparse_shape": "16x"}, "geosparse_shape='16x' must be two"),
        ({"base": "geosparse", "geosparse_compute_mode": "sum"}, "must be gather or scatter"),
        ({"base": "geosparse", "geosparse_activation_types": ["relu"]}, "has no types"),
        (
            {"base": "geosparse", "mlp_activation": "gelu", "geosparse_activation": "tanh"},
            "set the same",
        ),
        (
            {"base": "geosparse", "geosparse_norm": "layer", "norm": "none"},
            "norm and geosparse_norm set the same",
        ),
        ({"sine_params": 3}, "sine_params=3 must be a mapping"),
        ({"sine_params": {"trainable": "false"}}, "trainable='false' must be True or False"),
        ({"sine_params": {"amp_init_std": float("nan")}}, "amplitude_std=nan"),
        ({"sine_params": {"freq_bounds": (-5, -1)}}, "frequency_bounds"),
    ],
)
def test_a_value_that_is_refused_is_named(option, said):
    with pytest.raises(ValueError, match=said):
        psannLM(**{**SIZES, **option})


# -- fit's arguments


@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("epochs", 3, "train.epochs", 3),
        ("steps", 7, "train.steps", 7),
        ("max_steps", 7, "train.steps", 7),
        ("batch_tokens", 512, "train.batch_tokens", 512),
        ("grad_accum_steps", 2, "train.grad_accum_steps", 2),
        ("label_smoothing", 0.1, "train.label_smoothing", 0.1),
        ("seed", 5, "train.seed", 5),
        ("log_interval_steps", 5, "train.log_interval_steps", 5),
        ("save_interval_steps", 5, "train.save_interval_steps", 5),
        ("eval_interval_steps", 5, "train.eval_interval_steps", 5),
        ("eval_max_batches", 5, "train.eval_batches", 5),
        ("lr", 1e-3, "optimizer.learning_rate", 1e-3),
        ("min_lr", 1e-5, "optimizer.min_lr", 1e-5),
        ("warmup_steps", 3, "optimizer.warmup_steps", 3),
        ("weight_decay", 0.2, "optimizer.weight_decay", 0.2),
        ("eps", 1e-6, "optimizer.eps", 1e-6),
        ("grad_clip", 0.5, "optimizer.grad_clip", 0.5),
        ("betas", (0.8, 0.9), "optimizer.b2", 0.9),
        ("betas", np.array([0.8, 0.9]), "optimizer.b2", 0.9),
        ("amp", "none", "base.dtype", "float32"),
        ("amp", "bf16", "base.dtype", "bfloat16"),
        ("amp", "fp16", "base.dtype", "float16"),
        ("grad_checkpoint", True, "base.remat", "full"),
    ],
)
def test_a_fit_option_reaches_the_config(data, option, value, field, expected):
    options = {"batch_tokens": 256, "amp": "fp32", option: value}
    node = fit_config(psannLM(**SIZES).config, data.config, options)
    for part in field.split("."):
        node = getattr(node, part)
    assert node == expected


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch_size": 3}, TypeError, "fit has no argument 'batch_size'"),
        ({"warmup": 3}, TypeError, "did you mean 'warmup_steps'"),
        ({"train": {"lr": 1e-3}}, TypeError, "'train'; give its fields as arguments"),
        ({"resume_checkpoint": "x"}, TypeError, "fit goes on from the newest checkpoint"),
        ({"amp": "bf8"}, ValueError, "amp='bf8' must be one of bf16, fp16, fp32, none"),
        ({"ddp": "yes"}, ValueError, "ddp='yes' must be one of auto, on, off"),
        ({"fsdp": True}, ValueError, "fsdp=True must be off or full_shard"),
        ({"fsdp_cpu_offload": True}, TypeError, "offload=True keeps Adam's moments"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"batch_tokens": -5}, ValueError, "batch_tokens=-5 must be at least 1"),
        ({"batch_tokens": "512"}, ValueError, "batch_tokens='512' must be a whole number"),
        ({"grad_accum_steps": "2"}, ValueError, "grad_accum_steps='2' must be a whole number"),
        ({"betas": 0.9}, ValueError, r"betas=0\.9 must be two numbers"),
        ({"steps": 5, "max_steps": 9}, TypeError, "steps and max_steps set the same"),
        ({"grad_checkpoint": "yes"}, ValueError, "grad_checkpoint='yes' must be True or False"),
        ({"lr": -1.0}, ValueError, "learning_rate=-1.0 must be positive"),
        ({"learning_rate": 1e-3}, TypeError, "'learning_rate'; give lr"),
        ({"verbose": "no"}, ValueError, "verbose='no' must be True or False"),
    ],
)
def test_a_fit_option_that_is_refused_is_named(data, options, error, said):
    with pytest.raises(error, match=said):
        psannLM(**SIZES).fit(data, **{**FIT, **options})


@pytest.mark.parametrize("texts", [{"text": ["a"]}, None, b"text", 5])
def test_texts_that_are_no_list_are_refused(texts):
    """A table would yield the names of its columns."""
    with pytest.raises(TypeError, match=f"texts is {type(texts).__name__}; give a list of str"):
        psannLMDataPrep(texts)


def test_load_says_where_the_weights_go():
    with pytest.raises(TypeError, match="'map_location'; weights go to JAX's default device"):
        psannLM.load("any", map_location="cpu")


def test_fit_takes_prepared_data_only():
    with pytest.raises(TypeError, match="train_data is list; give a psannLMDataPrep"):
        psannLM(**SIZES).fit(TEXTS)


def test_a_vocabulary_smaller_than_the_datas_is_refused(data):
    with pytest.raises(ValueError, match=r"base\.vocab_size=20 is smaller"):
        psannLM(vocab_size=20, **SIZES).fit(data, **FIT)


def test_the_vocabulary_is_taken_from_the_data(fitted, data):
    assert fitted.vocab_size == data.vocab_size


def test_fit_leaves_nothing_behind_without_a_checkpoint_dir(data, in_tmp, capfd):
    psannLM(base="respsann", **SIZES).fit(data, steps=1, **FIT)
    assert list(in_tmp.iterdir()) == []
    assert capfd.readouterr().err == ""  # verbose=False


def test_the_same_seed_fits_the_same_weights(data, fitted):
    again = psannLM(base="respsann", **SIZES).fit(data, steps=12, **FIT)
    assert _equal(fitted, again)


def test_a_second_fit_goes_on_from_the_weights_with_its_own_options(data):
    lm = psannLM(base="respsann", **SIZES).fit(data, steps=2, **FIT)
    before = _weights(lm)
    lm.fit(data, steps=1, **{**FIT, "lr": 1e-9, "weight_decay": 0.0})
    still = max(np.abs(a - b).max() for a, b in zip(before, _weights(lm), strict=True))
    # One Adam update is at most the learning rate.
    assert 0 < still < 1e-7
    lm.fit(data, steps=1, **{**FIT, "lr": 1e-1, "warmup_steps": 0})
    moved = max(np.abs(a - b).max() for a, b in zip(before, _weights(lm), strict=True))
    assert moved > 1e-3


def test_validation_texts_are_read_by_the_training_tokenizer(data, in_tmp):
    """Characters that the training texts lack are bytes there, not pieces of another fit."""
    val = psannLMDataPrep(["zebra ZEBRA", "quick"], **{**PREP, "max_length": 8})
    lm = psannLM(base="respsann", **SIZES)
    lm.fit(data, val, steps=1, checkpoint_dir="run", **FIT)
    row = _metrics(in_tmp / "run")[0]
    # An untrained model knows nothing: log V nats a token, of the training vocabulary.
    assert row["val_loss"] == pytest.approx(np.log(data.vocab_size), rel=0.25)
    assert lm.vocab_size == data.vocab_size


def test_a_split_of_the_training_texts_is_validated_on(in_tmp):
    data = psannLMDataPrep(TEXTS, val_split=0.25, **PREP)
    psannLM(base="respsann", **SIZES).fit(data, steps=1, checkpoint_dir="run", **FIT)
    row = _metrics(in_tmp / "run")[0]
    assert np.isfinite(row["val_loss"])


@pytest.fixture(scope="module")
def resumed(data, tmp_path_factory):
    """A fit of 4 steps in one go, and the same stopped at 2 and started again; as models."""
    folder = tmp_path_factory.mktemp("resumed")
    options = {**FIT, "warmup_steps": 0, "min_lr": FIT["lr"]}  # a rate that knows no end
    whole = psannLM(base="respsann", **SIZES).fit(data, steps=4, **options)
    psannLM(base="respsann", **SIZES).fit(data, steps=2, checkpoint_dir=folder, **options)
    again = psannLM(base="respsann", **SIZES)
    again.fit(data, steps=4, checkpoint_dir=folder, **options)
    return whole, again, folder


def test_a_checkpoint_dir_resumes_exactly(resumed):
    whole, again, _ = resumed
    assert _equal(whole, again)


def test_a_resumed_run_has_each_step_once(resumed):
    steps = [row["step"] for row in _metrics(resumed[2])]
    assert steps == sorted(set(steps))
    assert steps[-1] == 4


def test_a_checkpoint_dir_loads_as_a_model(resumed):
    _, again, folder = resumed
    loaded = psannLM.load(folder, step="newest")
    assert _equal(loaded, again)
    assert loaded.generate("the cat", **GREEDY) == again.generate("the cat", **GREEDY)


def test_another_model_in_the_same_checkpoint_dir_is_refused(data, resumed):
    other = psannLM(base="respsann", **{**SIZES, "d_mlp": 64})
    with pytest.raises(ValueError, match="holds a run with another config: base.d_mlp 48 -> 64"):
        other.fit(data, steps=4, checkpoint_dir=resumed[2], **FIT)


def test_a_checkpoint_dir_in_use_is_refused(data, tmp_path, hold_lock):
    hold_lock(tmp_path / "run.lock")
    with pytest.raises(ValueError, match="is in use: process"):
        psannLM(base="respsann", **SIZES).fit(data, steps=1, checkpoint_dir=tmp_path, **FIT)


# -- generating


TORCH = Path(__file__).parent / "golden" / "torch"


def test_a_file_of_psannlm_loads_as_a_model_and_generates():
    lm = psannLM.load(TORCH / "residual_rope.pt")
    assert (lm.base, lm.d_model, lm.n_layers) == ("respsann", 8, 2)
    assert len(lm.generate("a sine", **GREEDY)) <= GREEDY["max_new_tokens"]


def test_loading_what_psannlm_computes_otherwise_warns():
    with pytest.warns(UserWarning, match=r"wave_interleave\.pt: .* so the logits differ"):
        psannLM.load(TORCH / "wave_interleave.pt")


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ValueError, match="notes.txt is no file of torch.save"):
        psannLM.load(tmp_path / "notes.txt")


def test_generating_before_a_fit_is_an_error():
    with pytest.raises(RuntimeError, match="call fit or load first"):
        psannLM(**SIZES).generate("hello")


def test_saving_before_a_fit_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="call fit or load first"):
        psannLM(**SIZES).save(tmp_path)


@pytest.fixture
def prompts(monkeypatch):
    """The token ids that generation is given; nothing is generated."""
    given = []

    def spy(model, prompts, **_):
        given.extend(prompts)
        return [[] for _ in prompts]

    monkeypatch.setattr("psann_jax.lm.generate", spy)
    return given


def test_the_prompt_begins_with_bos_and_has_no_eos(fitted, prompts):
    fitted.generate("the cat")
    tokenizer = fitted._tokenizer
    assert prompts == [[tokenizer.bos_id, *tokenizer.encode("the cat")]]
    assert tokenizer.eos_id not in prompts[0]


@pytest.fixture(scope="module")
def ending():
    """A fit whose tokenizer reads an end of text in a text."""
    prep = {**PREP, "tokenizer": "groundthink-char"}
    return psannLM(base="respsann", **SIZES).fit(psannLMDataPrep(TEXTS, **prep), **ONE_STEP)


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [("a cat<|eos|>on<|eos|>the mat", "the mat"), ("a cat<|eos|>", "<|bos|>")],
)
def test_a_prompt_begins_after_the_last_end_that_it_spells(ending, prompts, prompt, kept):
    ending.generate(prompt)
    assert prompts == [ending.tokenizer.encode(kept)]


def test_what_is_before_an_end_in_a_prompt_changes_nothing(ending):
    said = ending.generate_batch([f"{text}<|eos|>the mat" for text in ("", "a cat")], **GREEDY)
    assert said[0] == said[1]


def test_a_trained_model_goes_on_with_its_text_and_ends_it(data):
    """Trained on one text it says that text, and nothing after its end."""
    one = psannLMDataPrep(["abcdefgh"] * 8, **{**PREP, "max_length": 16})
    lm = psannLM(base="respsann", **SIZES).fit(one, steps=60, **{**FIT, "lr": 1e-2})
    said = lm.generate("abc", temperature=0.0, max_new_tokens=30)
    assert said == "defgh"


def test_a_batch_of_mixed_lengths_says_what_each_prompt_alone_does(fitted):
    prompts = ["the cat", "t", "the cat number 3 sat"]
    together = fitted.generate_batch(prompts, **GREEDY)
    assert together == [fitted.generate(p, **GREEDY) for p in prompts]


def test_an_empty_prompt_begins_a_text(fitted):
    assert isinstance(fitted.generate("", **GREEDY), str)


def test_no_prompts_give_no_texts(fitted):
    assert fitted.generate_batch([]) == []


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_seed_says_the_same(fitted, seed):
    options = {"max_new_tokens": 8, "temperature": 2.0, "seed": seed}
    assert fitted.generate("the", **options) == fitted.generate("the", **options)


def test_another_seed_says_something_else(fitted):
    options = {"max_new_tokens": 16, "temperature": 5.0, "top_p": None}
    assert fitted.generate("the", seed=0, **options) != fitted.generate("the", seed=1, **options)


def test_a_prompt_too_long_is_an_error_that_says_the_way_out(fitted):
    with pytest.raises(ValueError, match=r"has 41 tokens, .* trained on 32; .*keep_last"):
        fitted.generate("x" * 40)


def test_keep_last_reads_the_end_of_a_long_prompt(fitted, prompts):
    long = "the cat number 5 sat on mat 5. the cat number 6"
    fitted.generate(long, long_prompt="keep_last")
    assert prompts == [fitted._tokenizer.encode(long)[-32:]]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        ({"temperature": -1.0}, ValueError, "temperature=-1.0"),
        ({"top_k": 0}, ValueError, "top_k=0"),
        ({"top_p": 2.0}, ValueError, "top_p=2.0"),
        ({"long_prompt": "cut"}, ValueError, "long_prompt='cut' must be error or keep_last"),
        ({"temprature": 1.0}, TypeError, "temprature"),
    ],
)
def test_a_generate_option_that_is_refused_is_named(fitted, options, error, said):
    with pytest.raises(error, match=said):
        fitted.generate("the", **options)


# -- saving and loading


@pytest.fixture(scope="module")
def reloaded(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    fitted.save(folder)
    return psannLM.load(folder)


def test_loading_gives_the_same_weights(fitted, reloaded):
    assert _equal(fitted, reloaded)


def test_loading_gives_the_same_text(fitted, reloaded):
    sampled = {"temperature": 1.0, "seed": 4, "max_new_tokens": 8}
    for options in (GREEDY, sampled):
        assert fitted.generate("the", **options) == reloaded.generate("the", **options)


def test_loading_gives_the_same_config_and_tokenizer(fitted, reloaded):
    assert reloaded.config == fitted.config
    assert reloaded._tokenizer.encode("a cat") == fitted._tokenizer.encode("a cat")


def test_a_loaded_model_knows_how_long_its_rows_were(reloaded):
    with pytest.raises(ValueError, match="trained on 32"):
        reloaded.generate("x" * 40)


def test_a_loaded_model_can_be_fitted_on(data, reloaded):
    further = copy.copy(reloaded).fit(data, steps=1, **{**FIT, "lr": 1e-6})
    moved = [np.abs(a - b).max() for a, b in zip(*map(_weights, (further, reloaded)), strict=True)]
    assert 0 < max(moved) < 1e-5  # one small update of the same weights


def test_loading_what_is_no_model_says_so(tmp_path):
    with pytest.raises(ValueError, match="no run: it has no config"):
        psannLM.load(tmp_path)


# -- psannLMDataPrep


def test_properties_of_prepared_data(data):
    assert len(data) == len(TEXTS)
    assert data.tokenizer_backend == "char"
    assert data.vocab_size == data.tokenizer.vocab_size > 260
    assert data.pad_id == data.tokenizer.pad_id == 0
    assert data.val_dataset is None
    assert data.dataset.batch([0]).inputs.shape == (1, 32)


def test_a_split_holds_documents_out():
    data = psannLMDataPrep(TEXTS, val_split=0.25, **PREP)
    assert len(data) == len(TEXTS)
    assert len(data.val_dataset) > 0


def test_unpacked_documents_have_a_row_each():
    data = psannLMDataPrep(TEXTS, pack_sequences=False, **{**PREP, "max_length": 64})
    assert len(data.dataset) == len(TEXTS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("simple", "char"), ("char", "char"), ("sentencepiece", "sentencepiece")],
)
def test_a_tokenizer_goes_by_psannlms_name_too(name, kind):
    assert psannLMDataPrep(TEXTS, **{**PREP, "tokenizer": name}).tokenizer_backend == kind


def test_a_tokenizer_file_comes_with_a_map_of_its_specials(tmp_path):
    model = {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "<stop>": 2}, "unk_token": "[UNK]"}
    (tmp_path / "t.json").write_text(json.dumps({"version": "1.0", "model": model}))
    (tmp_path / "map.json").write_text('{"eos": "<stop>"}')
    paths = {"tokenizer_special_map_path": tmp_path / "map.json"}
    with pytest.raises(TypeError, match="goes with tokenizer_model_path"):
        psannLMDataPrep(["a"] * 9, max_length=4, **paths)
    data = psannLMDataPrep(
        ["a"] * 9, max_length=4, tokenizer_model_path=tmp_path / "t.json", **paths
    )
    assert data.tokenizer.eos_id == 2
    assert psannLM(base="respsann", **SIZES).fit(data, **ONE_STEP).tokenizer.eos_id == 2


def test_a_tokenizer_file_is_used_as_it_is(data, tmp_path):
    data.tokenizer.save(tmp_path / "t.model")
    other = psannLMDataPrep(["zzz"], tokenizer_model_path=tmp_path / "t.model", max_length=8)
    assert other.tokenizer.encode("the cat") == data.tokenizer.encode("the cat")


def test_texts_that_name_existing_files_are_texts(in_tmp):
    (in_tmp / "a.txt").write_text("content of the file")
    with pytest.warns(UserWarning, match="taken as texts"):
        data = psannLMDataPrep(["a.txt"], **PREP)
    tokens = data.dataset.batch([0])
    assert data.tokenizer.decode(tokens.inputs[0]) == "a.txt"


def test_texts_longer_than_any_name_of_a_file_are_texts(in_tmp):
    text = "я" * 200  # 400 bytes
    assert len(psannLMDataPrep([text, text], **PREP)) == 2


@pytest.mark.parametrize("as_list", [False, True])
def test_paths_are_files_to_read(in_tmp, as_list):
    path = in_tmp / "a.txt"
    path.write_text("content of it")
    data = psannLMDataPrep([path] if as_list else path, **PREP)
    assert data.tokenizer.decode(data.dataset.batch([0]).inputs[0]) == "content of it"


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "text"),
        (["", "  "], {}, "text"),
        (["a", 3], {}, r"texts\[1\] is int"),
        ("none.txt", {}, "none.txt"),
        (TEXTS, {"max_length": 0}, "data.max_length=0"),
        (TEXTS, {"val_split": 0.9}, "data.val_split=0.9"),
        (TEXTS, {"tokenizer": "sentencepeice"}, "did you mean 'sentencepiece'"),
    ],
)
def test_texts_that_cannot_be_prepared_are_refused(texts, options, said):
    with pytest.raises(ValueError, match=said):
        psannLMDataPrep(texts, **{**PREP, **options})


def test_preparing_the_same_texts_again_reads_the_cache(caplog):
    psannLMDataPrep(TEXTS, **PREP)
    caplog.clear()
    with caplog.at_level(logging.INFO, "psann_jax.data"):
        psannLMDataPrep(TEXTS, **PREP)
    assert "preparing" not in caplog.text


def test_importing_the_package_does_no_jax_work():
    import subprocess
    import sys

    code = "import sys, psann_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_a_second_fit_reads_new_texts_with_the_first_tokenizer(data):
    lm = psannLM(base="respsann", **SIZES).fit(data, **ONE_STEP)
    pieces = lm._tokenizer.to_bytes()
    other = psannLMDataPrep(["zyx wvu"] * 20, tokenizer="char", max_length=16)
    lm.fit(other, **ONE_STEP)
    assert lm._tokenizer.to_bytes() == pieces != other.tokenizer.to_bytes()


def test_a_second_fit_computes_in_its_own_dtype(data):
    lm = (
        psannLM(base="respsann", **SIZES)
        .fit(data, **{**ONE_STEP, "amp": "bf16"})
        .fit(data, **{**ONE_STEP, "amp": "fp32"})
    )
    assert (lm.config.dtype, str(lm._model.dtype)) == ("float32", "float32")


def test_the_dtype_of_the_model_is_kept_without_amp(data):
    lm = psannLM(base="respsann", **SIZES, dtype="float32")
    lm.fit(data, **{**ONE_STEP, "amp": None})
    assert str(lm._model.dtype) == "float32"


@pytest.fixture(scope="module")
def unattached(fitted, tmp_path_factory):
    """A model that was saved without its tokenizer."""
    folder = tmp_path_factory.mktemp("unattached")
    fitted.save(folder)
    (folder / "tokenizer.model").unlink()
    return folder


def test_a_tokenizer_can_be_attached(unattached, fitted, data, tmp_path):
    data.tokenizer.save(tmp_path / "t.model")
    expected = fitted.generate("the", **GREEDY)
    for tokenizer in (data.tokenizer, tmp_path / "t.model"):
        lm = psannLM.load(unattached).attach_tokenizer(tokenizer)
        assert lm.generate("the", **GREEDY) == expected


def test_a_tokenizer_of_a_larger_vocabulary_is_not_attached(unattached):
    lm, other = psannLM.load(unattached), psannLMDataPrep(["zyxwvu ZYXWVU 0123456789" * 9])
    with pytest.raises(ValueError, match="the model knows"):
        lm.attach_tokenizer(other.tokenizer)
    with pytest.raises(TypeError, match="tokenizer is list"):
        lm.attach_tokenizer(["a"])


def test_a_fit_without_the_tokenizer_of_the_weights_is_refused(unattached, data):
    lm = psannLM.load(unattached)
    with pytest.raises(RuntimeError, match="without a tokenizer; call attach_tokenizer"):
        lm.fit(data, **ONE_STEP)
    with pytest.raises(RuntimeError, match="without a tokenizer"):
        lm.generate("the")


def test_a_new_model_is_fitted_with_the_tokenizer_it_was_given(data):
    lm = psannLM(base="respsann", **SIZES).attach_tokenizer(data.tokenizer)
    lm.fit(psannLMDataPrep(["zyx wvu"] * 20, tokenizer="char", max_length=16), **ONE_STEP)
    assert lm.tokenizer.to_bytes() == data.tokenizer.to_bytes()


def test_a_base_keeps_its_own_sizes():
    assert psannLM("mamba2").config == bases.get("mamba2")()
    assert psannLM("mamba2", mamba={"head_dim": 64}).n_heads == 16


def test_prompts_may_come_one_by_one(fitted):
    prompts = ["the", "a cat"]
    assert fitted.generate_batch(iter(prompts), **GREEDY) == fitted.generate_batch(
        prompts, **GREEDY
    )


def test_recomputation_is_switched_on_and_off(data):
    base = psannLM(base="respsann", **SIZES, remat="dots").config
    for given, remat in {None: "dots", True: "full", False: "none"}.items():
        options = {"batch_tokens": 256, "grad_checkpoint": given}
        assert fit_config(base, data.config, options).base.remat == remat


def test_a_vocabulary_larger_than_the_tokenizers_generates_text(data):
    lm = psannLM(base="respsann", **SIZES, vocab_size=5000)
    lm.fit(data, **ONE_STEP)
    assert isinstance(lm.generate("a", max_new_tokens=16, temperature=3.0, top_p=None), str)


def test_a_stopped_fit_keeps_the_weights_it_reached(data, monkeypatch):
    from psann_jax.run.stop import StopSignal

    class Asked(StopSignal):
        def __enter__(self):
            self.asked = True
            return self

    monkeypatch.setattr("psann_jax.run.train.StopSignal", Asked)
    lm = psannLM(base="respsann", **SIZES)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 1"):
        lm.fit(data, **{**ONE_STEP, "steps": 5})
    assert lm.generate("a", max_new_tokens=2) is not None


def test_a_fit_in_a_folder_is_not_evaluated_on_other_text(data, tmp_path):
    from psann_jax.run.evaluate import evaluate_run

    psannLM(base="respsann", **SIZES).fit(data, checkpoint_dir=tmp_path / "run", **ONE_STEP)
    with pytest.raises(ValueError, match="texts in memory"):
        evaluate_run(tmp_path / "run")


def test_a_run_with_a_given_tokenizer_is_evaluated_with_it(data, tmp_path):
    from psann_jax.run.evaluate import evaluate_run

    (tmp_path / "a.txt").write_text("\n".join(TEXTS))
    files = psannLMDataPrep(tmp_path / "a.txt", **{**PREP, "max_length": 16}, val_split=0.25)
    other = psannLMDataPrep(["zyxw vuts"] * 9, **PREP).tokenizer
    lm = psannLM(base="respsann", **SIZES).attach_tokenizer(other)
    lm.fit(files, checkpoint_dir=tmp_path / "run", **ONE_STEP)
    assert np.isfinite(evaluate_run(tmp_path / "run")["val_loss"])


def test_edited_texts_of_the_same_size_are_refused(tmp_path):
    texts = [f"the wave {i} rises" for i in range(40)]
    options = {"tokenizer": "char", "max_length": 16}
    fit = {"checkpoint_dir": tmp_path / "run", **ONE_STEP}
    psannLM(base="respsann", **SIZES).fit(psannLMDataPrep(texts, **options), **fit)
    edited = psannLMDataPrep([t.replace("rises", "sires") for t in texts], **options)
    with pytest.raises(ValueError, match="has changed.*sha256"):
        psannLM(base="respsann", **SIZES).fit(edited, **fit)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda lm: lm.generate("a", max_new_token=3), TypeError, "did you mean 'max_new_tokens'"),
        (lambda lm: lm.generate_batch("abc"), TypeError, "list of str"),
        (lambda lm: lm.generate(["abc"]), TypeError, "prompt must be a str, not list"),
        (lambda lm: lm.generate("a", max_new_tokens=2.5), TypeError, "max_new_tokens=2.5"),
        (lambda lm: lm.generate("a", seed=2**70), ValueError, "seed="),
        (lambda _: psannLMDataPrep(["a"], max_lenght=3), TypeError, "did you mean 'max_length'"),
        (lambda _: psannLM(n_layers="2"), ValueError, r"base\.n_layers='2'"),
    ],
)
def test_a_slip_is_one_named_error(fitted, call, error, said):
    with pytest.raises(error, match=said):
        call(fitted)
