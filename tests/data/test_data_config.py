import pytest

from psann_jax.data import DataConfig


@pytest.mark.parametrize(
    ("field", "value", "way_out"),
    [
        ("max_length", 0, "must be positive"),
        ("max_length", True, "must be an integer"),
        ("max_length", 2.5, "must be an integer"),
        ("vocab_size", 10, "choose 264"),
        ("tokenizer_bytes", -1, "must be positive"),
        ("seed", -1, "choose 0"),
        ("val_split", 0.6, "0.5"),
        ("val_split", -0.1, "no validation"),
        ("val_split", "1%", "0.5"),
        ("document", "lines", "did you mean 'line'"),
        ("invalid_utf8", "replace", "keep, error"),
        ("tokenizer", "sentencpiece", "did you mean 'sentencepiece'"),
        ("sources", "a.txt", r"data\.sources=\('a.txt',\)"),
        ("sources", ("",), "non-empty"),
        ("text_key", "", "name the field"),
        ("tokenizer_path", 3, "give a path"),
        ("pack_sequences", 1, "True or False"),
        ("split", "end", "documents, tail"),
        ("order", "track", "did you mean 'tracks'"),
    ],
)
def test_bad_value_names_field_value_and_way_out(field, value, way_out):
    with pytest.raises(ValueError, match=rf"^data\.{field}=.*{way_out}") as caught:
        DataConfig(**{field: value})
    assert "\n" not in str(caught.value)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("PSANN_JAX_CACHE", "/somewhere")
    assert str(DataConfig().cache_folder) == "/somewhere"
    assert str(DataConfig(cache_dir="/else").cache_folder) == "/else"


def test_an_address_for_the_cache_folder_is_refused_by_who_named_it(monkeypatch):
    monkeypatch.setenv("PSANN_JAX_CACHE", "s3://somewhere")
    with pytest.raises(ValueError, match="^PSANN_JAX_CACHE='s3://somewhere' is an address"):
        str(DataConfig().cache_folder)
    with pytest.raises(ValueError, match=r"^data\.cache_dir='gs://else' is an address"):
        str(DataConfig(cache_dir="gs://else").cache_folder)


def test_tracks_of_rows_that_do_not_follow_each_other_are_refused():
    with pytest.raises(ValueError, match=r"^data\.order='tracks' .*set data\.pack_sequences=True"):
        DataConfig(order="tracks", pack_sequences=False)
