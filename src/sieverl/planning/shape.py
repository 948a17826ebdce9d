"""The sizes of a model, from a `config.json` or by a well-known name, and how many parameters that makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sieverl.errors import UsageError, nearest
from sieverl.files import user_path
from sieverl.types import JsonObject

# Families whose decoder layer is attention (q, k, v, o) and a gated MLP (gate, up, down), and nothing else.
FAMILIES = ("granite", "llama", "mistral", "qwen2", "qwen3", "seed_oss", "smollm3")
LARGEST = 10**12  # of a size
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# parts of a name that leave the sizes alone
TUNED = frozenset(("base", "chat", "coder", "hf", "instruct", "it", "math", "meta"))


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind. `biases` and `norms` are per layer, beside its matrices and its two norms."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    biases: int = 0
    norms: int = 0

    @cached_property
    def layer_matrices(self) -> int:
        """Weights of the seven linear layers of a decoder layer."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return self.hidden * (2 * queries + 2 * keys + 3 * self.intermediate)

    @property
    def matrices(self) -> int:
        """Weights of all linear layers but the output layer: what a token is multiplied with, and NF4 quantises."""
        return self.layers * self.layer_matrices

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters.

        >>> BUILT_IN["Qwen2.5-7B"].parameters, BUILT_IN["Llama-3-70B"].parameters
        (7615616512, 70553706496)
        """
        vectors = self.layers * (2 * self.hidden + self.biases + self.norms) + self.hidden
        return self.matrices + vectors + self.embedding * (1 if self.tied else 2)

    def adapters(self, rank: int) -> int:
        """Parameters of LoRA adapters of `rank` on every linear layer: rank x (in + out) each (arXiv 2106.09685)."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        sides = 4 * self.hidden + 2 * queries + 2 * keys + 3 * (self.hidden + self.intermediate)
        return rank * self.layers * sides

    def cache(self, width: int) -> int:
        """Bytes of keys and values of one token, with `width` bytes a number."""
        return 2 * self.layers * self.kv_heads * self.head_size * width

    def attention_flops(self, tokens: float) -> float:
        """Of the forward of a causal sequence of `tokens`: two products over half of all pairs (arXiv 2204.02311)."""
        return 2 * self.layers * self.heads * self.head_size * tokens * tokens


def from_config(config: Mapping[str, object], name: str) -> Shape:
    """The shape in a `config.json`. Raises a UsageError for a family or a layer that this arithmetic does not cover."""
    family = str(config.get("model_type"))
    if experts := next((key for key in EXPERTS if config.get(key)), ""):
        raise UsageError(
            f"{name} is a mixture of experts ({experts} = {config[experts]}), which sieverl plan does not cover; it "
            f"knows dense models: {', '.join(FAMILIES)}"
        )
    if family not in FAMILIES:
        raise UsageError(
            f"{name} has model_type {family!r}, whose sizes sieverl plan does not know; it knows {', '.join(FAMILIES)}"
            " (or --model-shape with the name of a model of about its size)"
        )

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
            raise UsageError(
                f"the configuration of {name} has {key} = {repr(value)[:80]}; it must be a whole number from 1 to "
                f"{LARGEST:,}"
            )
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    kv_heads, intermediate = number("num_key_value_heads", heads), number("intermediate_size")
    size = number("head_dim", max(1, hidden // heads))
    attention = size * (heads + 2 * kv_heads)
    biases = attention if family == "qwen2" or (config.get("attention_bias") and family != "mistral") else 0
    biases += hidden if config.get("attention_bias") and family not in ("qwen2", "seed_oss", "mistral") else 0
    biases += 2 * intermediate + hidden if config.get("mlp_bias") else 0
    norms = 2 * size if family == "qwen3" else 0
    tied = bool(config.get("tie_word_embeddings", family in ("granite", "smollm3")))
    layers, vocabulary = number("num_hidden_layers"), number("vocab_size")
    return Shape(name, layers, hidden, intermediate, heads, kv_heads, size, vocabulary, tied, biases, norms)


def _qwen(name: str, layers: int, hidden: int, intermediate: int, heads: int, kv: int, vocabulary: int) -> Shape:
    size = hidden // heads
    tied, biases = vocabulary == 151_936, (heads + 2 * kv) * size
    return Shape(name, layers, hidden, intermediate, heads, kv, size, vocabulary, tied, biases)


def _qwen3(name: str, layers: int, hidden: int, intermediate: int, heads: int, tied: bool) -> Shape:
    return Shape(name, layers, hidden, intermediate, heads, 8, 128, 151_936, tied, norms=256)


def _llama(name: str, layers: int, hidden: int, intermediate: int, heads: int, tied: bool = False) -> Shape:
    return Shape(name, layers, hidden, intermediate, heads, 8, hidden // heads, 128_256, tied)


_KNOWN = (
    _qwen("Qwen2.5-0.5B", 24, 896, 4864, 14, 2, 151_936),
    _qwen("Qwen2.5-1.5B", 28, 1536, 8960, 12, 2, 151_936),
    _qwen("Qwen2.5-3B", 36, 2048, 11_008, 16, 2, 151_936),
    _qwen("Qwen2.5-7B", 28, 3584, 18_944, 28, 4, 152_064),
    _qwen("Qwen2.5-14B", 48, 5120, 13_824, 40, 8, 152_064),
    _qwen("Qwen2.5-32B", 64, 5120, 27_648, 40, 8, 152_064),
    _qwen("Qwen2.5-72B", 80, 8192, 29_568, 64, 8, 152_064),
    _qwen3("Qwen3-0.6B", 28, 1024, 3072, 16, True),
    _qwen3("Qwen3-1.7B", 28, 2048, 6144, 16, True),
    _qwen3("Qwen3-4B", 36, 2560, 9728, 32, True),
    _qwen3("Qwen3-8B", 36, 4096, 12_288, 32, False),
    _qwen3("Qwen3-14B", 40, 5120, 17_408, 40, False),
    _qwen3("Qwen3-32B", 64, 5120, 25_600, 64, False),
    _llama("Llama-3.2-1B", 16, 2048, 8192, 32, True),
    _llama("Llama-3.2-3B", 28, 3072, 8192, 24, True),
    _llama("Llama-3-8B", 32, 4096, 14_336, 32),
    _llama("Llama-3.1-8B", 32, 4096, 14_336, 32),
    _llama("Llama-3-70B", 80, 8192, 28_672, 64),
    _llama("Llama-3.1-70B", 80, 8192, 28_672, 64),
    _llama("Llama-3.3-70B", 80, 8192, 28_672, 64),
)
BUILT_IN = {shape.name: shape for shape in _KNOWN}


def known_shape(name: str) -> Shape | None:
    """The built-in shape of a model of that name or Hub id, or None.

    >>> known_shape("Qwen/Qwen2.5-Math-1.5B-Instruct").name
    'Qwen2.5-1.5B'
    """
    wanted = _plain(name)
    return next((shape for shape in _KNOWN if _plain(shape.name) == wanted), None)


def _plain(name: str) -> str:
    return "-".join(part for part in name.rpartition("/")[2].lower().split("-") if part not in TUNED)


def find_shape(name: str) -> Shape:
    """The shape of a local model directory, a `config.json`, a built-in name, or a Hub id (its `config.json` only)."""
    path = user_path(name)
    if path.is_file():
        return from_config(_read(path), name)
    if path.is_dir():
        return from_config(_read(path / "config.json"), name)
    if shape := known_shape(name):
        return shape
    return from_config(_from_hub(name), name)


def cached_shape(name: str) -> Shape | None:
    """The same without the network; None for a model whose sizes are not known that way."""
    path = user_path(name)
    try:
        if path.is_dir():
            return from_config(_read(path / "config.json"), name)
        return known_shape(name) or from_config(_cached(name), name)
    except UsageError:
        return None


def _read(path: Path) -> JsonObject:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {error}; give a model's config.json") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not a JSON object; give a model's config.json")
    return config


def _cached(name: str) -> JsonObject:
    """The `config.json` of a Hub id that was downloaded before, or an empty one."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return {}
    return _read(Path(found)) if isinstance(found, str) else {}


def _from_hub(name: str) -> JsonObject:
    """The `config.json` of a Hub id, from the cache or with one request; a UsageError says how to do without."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    if cached := _cached(name):
        return cached
    try:
        # one request: the library's own download tries again for half a minute where there is no network
        reply = get_session().get(
            hf_hub_url(name, "config.json"), headers=build_hf_headers(), timeout=5.0, follow_redirects=True
        )
        config: JsonObject = reply.raise_for_status().json()
    except Exception as error:  # which errors there are depends on the HTTP client of the installed library
        raise UsageError(
            f"the sizes of {name} are not known here, and its config.json could not be fetched "
            f"({type(error).__name__}).{nearest(name, BUILT_IN)} Give them with --model-shape: a config.json, a model "
            f"directory, or one of {', '.join(BUILT_IN)}"
        ) from error
    return config
