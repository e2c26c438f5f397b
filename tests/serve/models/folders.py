"""Model folders of every kind, as their own libraries and MLflow write them, and what the bare library answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rayplat.artifacts.store import ArtifactStore
from rayplat.serve.loader import VersionLoader
from rayplat.serve.ports import LoadedVersion
from rayplat.settings import Settings

os.environ["HF_HUB_OFFLINE"] = "1"
COLUMNS = ["a", "b", "c"]
NO_ENVIRONMENT = {"pip_requirements": []}  # else MLflow spends seconds on finding out what is installed
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "movie", "a", "the", "is", "was", "very", "not"]


def data(n: int = 200) -> tuple[pd.DataFrame, np.ndarray]:
    """Three columns of numbers and a class of 0 or 1."""
    x = pd.DataFrame(np.random.default_rng(0).random((n, 3)), columns=COLUMNS)
    return x, (x["a"] + x["b"] > 1).to_numpy().astype(int)


def put(settings: Settings, folder: Path) -> str:
    return ArtifactStore.of(settings).put_tree(folder, "model").digest


def load(settings: Settings, folder: Path, waiver: str | None = None, model: str = "m") -> LoadedVersion:
    """The folder as a version, loaded; ``waiver`` is held for its digest."""
    return VersionLoader(settings, lambda *_: waiver).load(model, 1, put(settings, folder))


def sklearn(folder: Path, model: Any, x: Any, y: Any, **options: Any) -> Path:
    """A fitted scikit-learn model saved by MLflow as skops, with its signature and three rows of example."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    model.fit(x, y)
    predict = getattr(model, options.get("pyfunc_predict_fn", "predict"))
    signature = infer_signature(x, predict(x))
    trusted = ["sklearn.tree._tree.Tree"]  # what MLflow wants to be told; the platform goes by its own list
    options = {"serialization_format": "skops", "skops_trusted_types": trusted, **NO_ENVIRONMENT, **options}
    options = {"input_example": x[:3], **options}
    mlflow.sklearn.save_model(model, str(folder), signature=signature, **options)
    return folder


def xgboost(folder: Path, model: Any, x: Any, predictions: Any) -> Path:
    import mlflow.xgboost
    from mlflow.models import infer_signature

    signature = infer_signature(x, predictions)
    mlflow.xgboost.save_model(model, str(folder), signature=signature, input_example=x[:3], **NO_ENVIRONMENT)
    return folder


def pyfunc(folder: Path, model: Any, **options: Any) -> Path:
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(str(folder), python_model=model, **NO_ENVIRONMENT, **options)
    return folder


def tokenizer() -> Any:
    """Words to numbers, with no file from anywhere."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", 2), ("[SEP]", 3)]
    tokens.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


def bert(head: str = "BertForSequenceClassification") -> Any:
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(_WORDS), id2label={0: "no", 1: "yes"}, **sizes)
    return getattr(transformers, head)(config).eval()


def gpt() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(_WORDS), bos_token_id=2, eos_token_id=3, **sizes)).eval()
    model.generation_config.suppress_tokens = [0, 1, 2, 3]  # words only, and no end before its time
    return model


def pretrained(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def exported(path: Path, forward: Callable[[Any, Any], Any], a: Any, b: Any) -> Path:
    """A torch.export archive of ``forward`` whose first dimensions are free."""
    import torch

    from rayplat.artifacts import pt2

    class Module(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return forward(a, b)

    rows = torch.export.Dim("rows")
    pt2.save(torch.export.export(Module(), (a, b), dynamic_shapes=({0: rows}, {0: rows})), path)
    return path.parent


def columns(x: pd.DataFrame) -> dict[str, Any]:
    """As requests bring them: arrays of numbers, lists of text."""
    return {str(name): x[name].tolist() if x[name].dtype == object else x[name].to_numpy() for name in x.columns}
