"""Reading and writing of encoder folders: sentence-transformers layout or plain Hugging Face.

Weights are safetensors, everything else is JSON: pickle is not used and a model's own code is never
run.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from hybridret._files import read_json, write_json, write_text
from hybridret._hub import hub_reason
from hybridret.encoder.base import EncoderConfig
from hybridret.encoder.manifest import is_exported
from hybridret.encoder.model import POOLINGS, Dense, EncoderModel, StaticEmbeddings
from hybridret.encoder.tokenization import TOKENIZER_FILE, Tokenizer
from hybridret.encoder.weights import (
    WEIGHTS_FILE,
    cannot_write,
    default_permissions,
    load_tensors,
    save_tensors,
)
from hybridret.errors import ModelError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tekken.json",
)
_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}
# The supported modules of an encoder, in the supported order.
_PIPELINE = re.compile(r"(Transformer Pooling|StaticEmbedding)( Dense)*( Normalize)?")
MODULES_FILE = "modules.json"
_DOWNLOADS = ["*.json", "*.safetensors", "*.txt", "*.model"]

Parts = tuple[EncoderModel, Tokenizer, EncoderConfig]


def write(folder: Path, model: EncoderModel, tokenizer: Tokenizer, config: EncoderConfig) -> None:
    """Writes a sentence-transformers model into an existing folder.

    Raises:
        OSError: it could not be written (e.g. the disk is full).
    """
    write_description(folder, model, tokenizer, config)
    if isinstance(model.backbone, StaticEmbeddings):
        weights = {"embedding.weight": model.backbone.embedding.weight.detach()}
        save_tensors(weights, folder / WEIGHTS_FILE)
    else:
        try:
            model.backbone.save_pretrained(folder)  # type: ignore[operator]
        except SafetensorError as error:
            raise cannot_write(folder / WEIGHTS_FILE, error) from None
        for file in folder.glob("model*.safetensors"):
            default_permissions(file)
    for position, layer in enumerate(model.dense):
        save_tensors(layer.state_dict(), folder / _dense_folder(position) / WEIGHTS_FILE)


def _dense_folder(position: int) -> str:
    return f"{position + 2}_Dense"


def write_description(
    folder: Path, model: EncoderModel, tokenizer: Tokenizer, config: EncoderConfig
) -> None:
    """Writes everything except the weights: configuration, tokenizer, module list."""
    _write_tokenizer(folder, tokenizer)
    namespace = "sentence_transformers.models"
    modules = [("", f"{namespace}.{'StaticEmbedding' if model.is_static else 'Transformer'}")]
    if not model.is_static:  # sentence-transformers' StaticEmbedding includes mean pooling
        model.backbone.config.save_pretrained(folder)  # type: ignore[union-attr,operator]
        modules.append(("1_Pooling", f"{namespace}.Pooling"))
        pooling = {key: model.pooling == name for key, name in _POOLING_KEYS.items()}
        write_json(
            folder / "1_Pooling" / "config.json",
            {"word_embedding_dimension": model.width, **pooling, "include_prompt": True},
        )
    for position, layer in enumerate(model.dense):
        assert isinstance(layer, Dense)
        modules.append((_dense_folder(position), f"{namespace}.Dense"))
        write_json(folder / _dense_folder(position) / "config.json", _dense_config(layer))
    if model.normalize:
        modules.append((f"{len(modules)}_Normalize", f"{namespace}.Normalize"))
        (folder / modules[-1][0]).mkdir(exist_ok=True)
    write_json(
        folder / MODULES_FILE,
        [
            {"idx": i, "name": str(i), "path": path, "type": kind}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {"query": config.query_prompt, "document": config.document_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": config.similarity,
        },
    )


def _write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    tokenizer.backend.no_truncation()
    write_text(folder / TOKENIZER_FILE, tokenizer.backend.to_str(pretty=True))
    tokenizer.backend.enable_truncation(tokenizer.max_length)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": tokenizer.max_length,
            "pad_token": tokenizer.backend.id_to_token(tokenizer.pad_id),
        },
    )
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": tokenizer.max_length, "do_lower_case": False},
    )


def _dense_config(layer: Dense) -> dict[str, Any]:
    module = "linear" if layer.activation_name == "Identity" else "activation"
    return {
        "in_features": layer.linear.in_features,
        "out_features": layer.linear.out_features,
        "bias": layer.linear.bias is not None,
        "activation_function": f"torch.nn.modules.{module}.{layer.activation_name}",
    }


def local_folder(source: str | Path) -> Path:
    """The folder of a model; a model given by its hub name is downloaded.

    Raises:
        ModelError: no such folder, and the model could not be downloaded from the hub.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists() or str(source).count("/") > 1 or str(source).startswith((".", "/")):
        raise ModelError(f"{source}: no such model folder")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(str(source), allow_patterns=_DOWNLOADS))
    except Exception as error:  # offline, gated, unknown name
        raise ModelError(
            f"{source}: no such folder, and it could not be downloaded from the Hugging Face hub: "
            f"{hub_reason(error)}"
        ) from None


def _read_json(path: Path, default: Any = None) -> Any:
    if not path.is_file():
        if default is None:
            raise ModelError(f"{path}: no such file in this model folder")
        return default
    value = read_json(path, ModelError)
    expected = list if path.name == MODULES_FILE else dict
    if not isinstance(value, expected):
        kind = "a list" if expected is list else "an object"
        raise ModelError(f"{path}: damaged: expected {kind}, got {type(value).__name__}")
    return value


def _width(backbone: nn.Module) -> int:
    return int(backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]


def _load_transformer(folder: Path, max_length: int | None) -> tuple[nn.Module, Tokenizer]:
    import transformers

    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: not a model folder (no config.json and no modules.json)")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{folder}: this model folder has no tokenizer (such as {TOKENIZER_FILE})")
    logging = transformers.utils.logging
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # missing weights are checked below
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        loader: Any = transformers.AutoModel
        if getattr(config, "is_encoder_decoder", False):
            loader = transformers.AutoModelForTextEncoding  # the encoder half (sentence-t5)
        backbone, info = loader.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
        fast = transformers.AutoTokenizer.from_pretrained(folder, use_fast=True)
    except (OSError, ValueError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder}: cannot be loaded: {str(error).strip()}") from None
    finally:
        logging.set_verbosity(verbosity)
    # The pooler belongs to BERT's next-sentence head and is not used here.
    missing = sorted(k for k in info["missing_keys"] if "pooler." not in k)
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} tensors are missing in the weights, the first is "
            f"{missing[0]!r}"
        )
    backend = getattr(fast, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"{folder}: the tokenizer cannot be converted to a fast tokenizer ({TOKENIZER_FILE})"
        )
    settings = _read_json(folder / "sentence_bert_config.json", {})
    if settings.get("do_lower_case"):
        import tokenizers

        steps = [tokenizers.normalizers.Lowercase()]
        if backend.normalizer is not None:
            steps.append(backend.normalizer)
        backend.normalizer = tokenizers.normalizers.Sequence(steps)
    limits = [max_length, settings.get("max_seq_length"), fast.model_max_length]
    longest = next(limit for limit in limits if limit is not None)
    return backbone, Tokenizer(
        backend,
        max_length=min(int(longest), _positions(backbone)),
        pad_id=fast.pad_token_id if fast.pad_token_id is not None else 0,
    )


def _positions(backbone: nn.Module) -> int:
    """The longest input of the model's position table; RoBERTa's starts after the padding id."""
    positions = int(getattr(backbone.config, "max_position_embeddings", 0) or 1 << 20)
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return positions if padding is None else positions - int(padding) - 1


def read(folder: Path, max_length: int | None = None) -> Parts:
    """Model, tokenizer and settings of a folder.

    Raises:
        ModelError: see :meth:`hybridret.TorchEncoder.load`.
    """
    if is_exported(folder):
        raise ModelError(
            f"{folder} is an exported encoder: it has an ONNX model and no torch weights; use the "
            f"model it was exported from"
        )
    try:
        if (folder / MODULES_FILE).is_file():
            return _load_sentence_transformers(folder, max_length)
        backbone, tokenizer = _load_transformer(folder, max_length)
    except (AttributeError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(f"{folder}: damaged: a value of its JSON files: {error!r:.200}") from error
    model = EncoderModel(backbone, pooling="mean", normalize=False, width=_width(backbone))
    return model, tokenizer, EncoderConfig()


def _load_sentence_transformers(folder: Path, max_length: int | None) -> Parts:
    modules = [
        (str(module["type"]).rpartition(".")[2], folder / module["path"])
        for module in _read_json(folder / MODULES_FILE)
    ]
    pipeline = " ".join(kind for kind, _ in modules if kind != "Dropout")
    if not _PIPELINE.fullmatch(pipeline):
        raise ModelError(
            f"{folder}: unsupported modules: {pipeline.replace(' ', ', ') or 'none'}; supported "
            f"are Transformer and Pooling, or StaticEmbedding, then any number of Dense, then at "
            f"most one Normalize"
        )
    folders = dict(modules)
    backbone: nn.Module
    if "StaticEmbedding" in folders:
        backbone, tokenizer = _load_static(folders["StaticEmbedding"], max_length)
        width, pooling = backbone.embedding.embedding_dim, "mean"
    else:
        backbone, tokenizer = _load_transformer(folders["Transformer"], max_length)
        width, pooling = _width(backbone), _read_pooling(folders["Pooling"] / "config.json")
    dense = [_load_dense(path) for kind, path in modules if kind == "Dense"]
    normalize = "Normalize" in folders
    settings = _read_json(folder / "config_sentence_transformers.json", {})
    prompts = settings.get("prompts") or {}
    default = prompts.get(settings.get("default_prompt_name") or "", "")
    similarity: Any = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise ModelError(f"{folder}: similarity {similarity!r} is not cosine or dot")
    # sentence-transformers adds an empty "document" to a model that defines "passage".
    named = [prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)]
    document = named[0] if named else default
    model = EncoderModel(
        backbone,
        pooling=pooling,  # type: ignore[arg-type]
        normalize=normalize,
        dense=dense,
        width=width,
    )
    config = EncoderConfig(
        query_prompt=prompts.get("query") or default,
        document_prompt=document,
        similarity=similarity,
    )
    return model, tokenizer, config


def _load_static(folder: Path, max_length: int | None) -> tuple[StaticEmbeddings, Tokenizer]:
    weights = load_tensors(folder / WEIGHTS_FILE)
    table = weights.get("embedding.weight", weights.get("embeddings"))
    if table is None:
        raise ModelError(f"{folder}: no tensor 'embedding.weight' in {WEIGHTS_FILE}")
    backbone = StaticEmbeddings(*table.shape)
    backbone.load_state_dict({"embedding.weight": table.float()})
    settings = _read_json(folder / "sentence_bert_config.json", {})
    truncation = _read_json(folder / TOKENIZER_FILE, {}).get("truncation") or {}
    own = settings.get("max_seq_length") or truncation.get("max_length")
    length = max_length or own or 1 << 20
    tokenizer = Tokenizer.from_file(
        folder / TOKENIZER_FILE, max_length=length, special_tokens=False
    )
    if tokenizer.vocabulary_size > table.shape[0]:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} tokens, but the model has "
            f"only {table.shape[0]} vectors"
        )
    return backbone, tokenizer


def _read_pooling(path: Path) -> str:
    config = _read_json(path)
    modes = config.get("pooling_mode")
    if modes is None:
        keys = [key for key in config if key.startswith("pooling_mode_") and config[key]]
        modes = [_POOLING_KEYS.get(key, key.removeprefix("pooling_mode_")) for key in keys]
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelError(
            f"{path}: pooling {'+'.join(modes) or 'none'} is not one of {', '.join(POOLINGS)}"
        )
    if config.get("include_prompt") is False:
        raise ModelError(f"{path}: pooling without the prompt's tokens is not supported")
    return str(modes[0])


def _load_dense(folder: Path) -> Dense:
    config = _read_json(folder / "config.json")
    layer = Dense(
        config["in_features"],
        config["out_features"],
        config.get("bias", True),
        str(config.get("activation_function", "Tanh")).rpartition(".")[2],
    )
    layer.load_state_dict(load_tensors(folder / WEIGHTS_FILE))
    return layer
