"""What is used of models and configurations of transformers, and of PyTorch's autograd context."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from os import PathLike
from typing import TYPE_CHECKING, Protocol, Self, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import ContinuousBatchingConfig, ContinuousBatchingManager, GenerationConfig


class ModelConfig(Protocol):
    """The configuration of a model. What only some model types have is read with `getattr`."""

    model_type: str
    num_attention_heads: int
    num_key_value_heads: int
    _attn_implementation: str | None
    architectures: list[str] | None
    dtype: str | torch.dtype | None

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None: ...
    def get_text_config(self) -> ModelConfig: ...


class Output(Protocol):
    """What a causal LM returns: logits [B, L, V]."""

    logits: Tensor


class CausalModel(Protocol):
    """A causal LM of transformers (a `torch.nn.Module`), with or without LoRA adapters of PEFT around it."""

    config: ModelConfig
    generation_config: GenerationConfig
    training: bool
    name_or_path: str
    base_model: torch.nn.Module

    def __call__(self, input_ids: Tensor) -> Output: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, device: str) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def modules(self) -> Iterator[torch.nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...
    def num_parameters(self) -> int: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def save_pretrained(
        self, save_directory: str | PathLike[str], *, state_dict: dict[str, Tensor] | None = None
    ) -> object: ...
    def get_input_embeddings(self) -> torch.nn.Embedding: ...
    def get_output_embeddings(self) -> torch.nn.Linear: ...
    def set_attn_implementation(self, attn_implementation: str | None) -> None: ...
    def set_experts_implementation(self, experts_implementation: str) -> None: ...
    def init_continuous_batching(
        self, generation_config: GenerationConfig, continuous_batching_config: ContinuousBatchingConfig
    ) -> ContinuousBatchingManager: ...


class AdapterConfig(Protocol):
    """The configuration of LoRA adapters (`peft.LoraConfig`): `r` is their rank."""

    r: int

    def save_pretrained(self, save_directory: str) -> None: ...


class AdaptedModel(CausalModel, Protocol):
    """A causal LM with LoRA adapters (`peft.PeftModel`); `peft_config` has one configuration, `default`."""

    peft_config: dict[str, AdapterConfig]

    def get_base_model(self) -> CausalModel: ...
    def disable_adapter(self) -> AbstractContextManager[None]: ...


def has_adapters(model: CausalModel) -> TypeGuard[AdaptedModel]:
    """Whether PEFT has put adapters around the model."""
    return hasattr(model, "peft_config")


def as_module(model: CausalModel) -> torch.nn.Module:
    """The model as what it is beside: a module of PyTorch."""
    assert isinstance(model, torch.nn.Module)
    return model


class Context(Protocol):
    """`ctx` of a `torch.autograd.Function`: what its forward saves for its backward."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
