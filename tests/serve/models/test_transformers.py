"""transformers models from plain folders and from MLflow's: the library's answers, no code of the model's."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from rayplat.errors import InvalidInput
from rayplat.settings import Settings
from tests.serve.models import folders

pytestmark = pytest.mark.services  # the models' own libraries take seconds to import


def test_a_classifier_answers_as_the_pipeline_does(settings: Settings, tmp_path: Path) -> None:
    import transformers

    model = folders.bert()
    loaded = folders.load(settings, folders.pretrained(tmp_path / "m", model))
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=folders.tokenizer())
    texts = ["good movie", "bad", "the movie is not very good"]
    expected = pipeline(texts)
    found = loaded.predict({"text": texts}, {})
    assert found["label"].tolist() == [answer["label"] for answer in expected]
    np.testing.assert_allclose(found["score"], [answer["score"] for answer in expected], rtol=1e-5)
    assert [(s.name, s.datatype) for s in loaded.signature.inputs] == [("text", "BYTES")]
    with pytest.raises(InvalidInput, match=r"inputs.text\[1\]: must be a text"):
        loaded.predict({"text": ["a", None]}, {})


def test_mlflows_flavor_is_read_and_not_run(settings: Settings, tmp_path: Path) -> None:
    import mlflow.transformers
    import transformers

    model = folders.bert()
    pipeline = transformers.pipeline("text-classification", model=model, tokenizer=folders.tokenizer())
    folder = tmp_path / "m"
    signature = mlflow.models.infer_signature(["good"], {"label": ["no"], "score": [0.5]})
    mlflow.transformers.save_model(pipeline, str(folder), signature=signature, **folders.NO_ENVIRONMENT)
    loaded = folders.load(settings, folder)
    assert loaded.platform == "transformers_safetensors"
    assert loaded.predict({"anything": ["bad"]}, {})["label"].tolist() == [pipeline("bad")[0]["label"]]


def test_an_encoder_gives_the_mean_of_its_states(settings: Settings, tmp_path: Path) -> None:
    import torch

    model, words = folders.bert("BertModel"), folders.tokenizer()
    loaded = folders.load(settings, folders.pretrained(tmp_path / "m", model))
    found = loaded.predict({"text": ["good movie", "bad"]}, {})["embedding"]
    with torch.inference_mode():
        alone = model(**words("bad", return_tensors="pt")).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(found[1], alone[0], atol=1e-5)
    assert found.shape == (2, 16)


def test_text_is_generated_whole_and_in_pieces(settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, folders.pretrained(tmp_path / "m", folders.gpt()))
    assert loaded.streamer is not None
    assert loaded.params is not None
    params = {"max_new_tokens": 5}
    whole = loaded.predict({"text": ["the movie"]}, params)["generated_text"][0]
    pieces = [piece["generated_text"] for piece in loaded.streamer.stream({"text": ["the movie"]}, params)]
    assert "".join(pieces).split() == whole.split()
    assert len(whole.split()) == 5
    both = loaded.predict({"text": ["the movie", "bad"]}, params)["generated_text"]
    assert len(both) == 2
    with pytest.raises(InvalidInput, match="temperature 0 to 100"):
        loaded.predict({"text": ["a"]}, {"temperature": -1.0})


def test_generation_ends_when_nobody_reads_any_more(settings: Settings, tmp_path: Path) -> None:
    loaded = folders.load(settings, folders.pretrained(tmp_path / "m", folders.gpt()))
    assert loaded.streamer is not None
    pieces = loaded.streamer.stream({"text": ["the"]}, {"max_new_tokens": 60})
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    for thread in [t for t in threading.enumerate() if t.name == "rayplat-stream"]:
        thread.join(10)
        assert not thread.is_alive()


def test_what_is_not_served_says_so(settings: Settings, tmp_path: Path) -> None:
    folder = folders.pretrained(tmp_path / "vision", folders.bert())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(InvalidInput, match="'ViTForImageClassification' is not served; these are: text-classification"):
        folders.load(settings, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match=r"tokenizer.json: the transformers model needs this file"):
        folders.load(settings, folder)


def test_code_that_a_model_brings_is_not_run(settings: Settings, tmp_path: Path) -> None:
    folder = folders.pretrained(tmp_path / "m", folders.bert())
    config = json.loads((folder / "config.json").read_text())
    own = {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.Mine", "AutoModelForSequenceClassification": "mine.Mine"},
    }
    (folder / "config.json").write_text(json.dumps(config | own))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(InvalidInput):
        folders.load(settings, folder)
    assert not (tmp_path / "ran").exists()
