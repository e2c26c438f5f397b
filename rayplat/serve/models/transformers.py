"""transformers models: weights in safetensors, a config and a fast tokenizer, computed by the library's own classes.

Two layouts: a folder of ``save_pretrained`` (config.json, *.safetensors, tokenizer.json), and MLflow's transformers
flavor, whose folders ``model`` and ``components/tokenizer`` hold the same. Code that a model brings is never run
(``trust_remote_code`` stays False) and nothing is fetched. The task is MLflow's, or follows from the architecture:

- ``text-classification``: ``label`` and ``score`` of the best class
- ``feature-extraction``: ``embedding`` [n, size], the mean of the last hidden states over the text's tokens
- ``text-generation`` and ``text2text-generation``: ``generated_text``; parameters ``max_new_tokens`` (64),
  ``temperature`` (0: the likeliest) and ``top_p``; also as a stream
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayplat.errors import InvalidInput, PartFailed, Unavailable
from rayplat.serve.models.mlmodel import MLmodel
from rayplat.types import ParamSpec, Signature, TensorSpec

CLASSIFY, EMBED, GENERATE, TRANSLATE = (
    "text-classification",
    "feature-extraction",
    "text-generation",
    "text2text-generation",
)
_AUTO = {
    CLASSIFY: "AutoModelForSequenceClassification",
    EMBED: "AutoModel",
    GENERATE: "AutoModelForCausalLM",
    TRANSLATE: "AutoModelForSeq2SeqLM",
}
_ENDINGS = {
    "ForSequenceClassification": CLASSIFY,
    "ForCausalLM": GENERATE,
    "LMHeadModel": GENERATE,
    "ForConditionalGeneration": TRANSLATE,
    "Model": EMBED,
}
_SAME = {"sentiment-analysis": CLASSIFY, "summarization": TRANSLATE, "translation": TRANSLATE}
_MAX_TOKENS = 512  # of an input, where neither the model nor its tokenizer says
_OUTPUTS = {
    CLASSIFY: (TensorSpec("label", "BYTES"), TensorSpec("score", "FP32")),
    EMBED: (TensorSpec("embedding", "FP32", (-1, -1)),),
    GENERATE: (TensorSpec("generated_text", "BYTES"),),
    TRANSLATE: (TensorSpec("generated_text", "BYTES"),),
}
_PARAMS = (
    ParamSpec("max_new_tokens", "INT64", 64),
    ParamSpec("temperature", "FP64", 0.0),
    ParamSpec("top_p", "FP64", 1.0),
)
_STREAM_S = 60.0  # a piece that takes longer is an error


class TextModel:
    """A loaded model and its tokenizer. Takes one input of text, whatever its name."""

    def __init__(self, task: str, model: Any, tokenizer: Any) -> None:
        self.task, self._model, self._tokenizer = task, model, tokenizer
        declared = getattr(model.config, "max_position_embeddings", None) or _MAX_TOKENS
        self._limit = min(int(declared), int(tokenizer.model_max_length))
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if task == GENERATE:
            tokenizer.padding_side = "left"

    @property
    def generates(self) -> bool:
        return self.task in (GENERATE, TRANSLATE)

    def signature(self, declared: Signature | None) -> Signature:
        """``text`` BYTES [n] under any name, or the name that an MLmodel gives it."""
        named = (
            declared.inputs[0] if declared is not None and len(declared.inputs) == 1 else TensorSpec("text", "BYTES")
        )
        params = _PARAMS if self.generates else ()
        layout = "records" if self.task == CLASSIFY else "array"
        return Signature((named,), _OUTPUTS[self.task], params, tabular=True, matrix=named, layout=layout)

    def predict(self, columns: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        return self.predict_with(columns, {})

    def predict_with(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Mapping[str, npt.NDArray[Any]]:
        import torch

        encoded = self._encoded(columns)
        with torch.inference_mode():
            if self.generates:
                tokens = self._model.generate(**encoded, **_generation(params))
                return {"generated_text": _objects(self._decoded(tokens, encoded))}
            found = self._model(**encoded)
            return self._classes(found.logits) if self.task == CLASSIFY else _embedding(found, encoded)

    def stream(self, columns: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Pieces of one row's text as they are generated; computing ends when nobody takes them any more."""
        import torch
        from transformers import StoppingCriteria, TextIteratorStreamer

        encoded = self._encoded(columns)
        if len(encoded["input_ids"]) != 1:
            raise InvalidInput("inputs", f"a streamed answer is to one row, {len(encoded['input_ids'])} were given")
        left = threading.Event()

        class Left(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:  # noqa: ARG002 - the library's signature
                return torch.full((input_ids.shape[0],), left.is_set())

        pieces = TextIteratorStreamer(self._tokenizer, True, _STREAM_S, skip_special_tokens=True)
        failed: list[Exception] = []

        def generate() -> None:
            try:
                with torch.inference_mode():
                    self._model.generate(**encoded, **_generation(params), streamer=pieces, stopping_criteria=[Left()])
            except Exception as e:  # noqa: BLE001 - the edge of a thread: handed to who reads the stream
                failed.append(e)
                pieces.end()  # type: ignore[no-untyped-call]

        thread = threading.Thread(target=generate, name="rayplat-stream", daemon=True)
        thread.start()
        try:
            for piece in pieces:
                if piece:
                    yield {"generated_text": piece}
            if failed:
                raise PartFailed("the model's generation", str(failed[0])[:300])
        finally:
            left.set()

    def _encoded(self, columns: Mapping[str, Any]) -> Any:
        if len(columns) != 1:
            raise InvalidInput("inputs", f"the model takes one text, {len(columns)} inputs were given")
        ((name, values),) = columns.items()
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise InvalidInput(f"inputs.{name}[{row}]", "must be a text")
        return self._tokenizer(list(values), return_tensors="pt", padding=True, truncation=True, max_length=self._limit)

    def _decoded(self, tokens: Any, encoded: Any) -> list[str]:
        """What was generated, after what was given."""
        start = encoded["input_ids"].shape[1] if self.task == GENERATE else 0
        found: list[str] = self._tokenizer.batch_decode(tokens[:, start:], skip_special_tokens=True)
        return found

    def _classes(self, logits: Any) -> Mapping[str, npt.NDArray[Any]]:
        config = self._model.config
        several = config.problem_type == "multi_label_classification" or logits.shape[-1] == 1
        scores = (logits.sigmoid() if several else logits.softmax(-1)).float().numpy()
        best = scores.argmax(-1)
        labels = _objects([str(config.id2label[int(i)]) for i in best])
        return {"label": labels, "score": scores[np.arange(len(best)), best]}


def is_one(folder: Path, described: MLmodel) -> bool:
    """Whether the folder is laid out as a transformers model."""
    return bool(described.flavor("transformers")) or (folder / "config.json").is_file()


def load(folder: Path, described: MLmodel) -> TextModel:
    """The model in a verified checkout whose weights are safetensors. Raises `InvalidInput` for another task than those
    above, for a model without a fast tokenizer, and for what the library cannot make of it."""
    try:
        import transformers
    except ImportError as e:
        raise Unavailable("transformers", "these models need it: pip install 'rayplat[transformers]'") from e
    flavor = described.flavor("transformers")
    weights = folder / str(flavor.get("model_binary", "model")) if flavor else folder
    words = folder / "components" / "tokenizer" if flavor else folder
    if not (words / "tokenizer.json").is_file() and (weights / "tokenizer.json").is_file():
        words = weights
    for file in (weights / "config.json", words / "tokenizer.json"):
        if not file.is_file() or folder.resolve() not in file.resolve().parents:
            raise InvalidInput(file.name, "the transformers model needs this file beside its weights")
    task = _task(weights, flavor)
    known = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(words, use_fast=True, **known)
        auto = getattr(transformers, _AUTO[task])
        model = auto.from_pretrained(weights, use_safetensors=True, **known).eval()
    except Exception as e:
        raise InvalidInput("model", f"transformers cannot read it: {type(e).__name__}: {str(e)[:300]}") from e
    return TextModel(task, model, tokenizer)


def _task(weights: Path, flavor: Mapping[str, Any]) -> str:
    try:
        config = json.loads((weights / "config.json").read_text())
        architecture = str((config.get("architectures") or [""])[0])
    except (ValueError, OSError, AttributeError, LookupError) as e:
        raise InvalidInput("config.json", f"it is no JSON object: {e!r}"[:200]) from e
    if (weights / "adapter_config.json").exists() or "/" in str(config.get("attn_implementation") or ""):
        raise InvalidInput("config.json", "it needs weights or code from elsewhere; save the whole model")
    declared = str(flavor.get("task") or "")
    told = next((task for end, task in _ENDINGS.items() if architecture.endswith(end)), "")
    task = _SAME.get(declared.split("_")[0], declared) or told
    if task not in _AUTO:
        what = declared or architecture or "a model that names no architecture"
        raise InvalidInput("task", f"{what[:80]!r} is not served; these are: {', '.join(_AUTO)}")
    return task


def _generation(params: Mapping[str, Any]) -> dict[str, Any]:
    warmth = float(params.get("temperature", 0.0))
    length = int(params.get("max_new_tokens", 64))
    if not 1 <= length <= 100_000 or not 0 <= warmth <= 100:
        raise InvalidInput("parameters", "max_new_tokens is at least 1, temperature 0 to 100")
    if warmth == 0:
        return {"max_new_tokens": length, "do_sample": False}
    return {
        "max_new_tokens": length,
        "do_sample": True,
        "temperature": warmth,
        "top_p": float(params.get("top_p", 1.0)),
    }


def _embedding(found: Any, encoded: Any) -> Mapping[str, npt.NDArray[Any]]:
    mask = encoded["attention_mask"].unsqueeze(-1)
    mean = (found.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1)
    return {"embedding": mean.float().numpy()}


def _objects(values: list[str]) -> npt.NDArray[Any]:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
