"""How weights get from the learner to vLLM servers: files in a directory that both see, or NCCL between GPUs."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from sieverl.engines.vllm_client import Server
from sieverl.errors import EngineError, UsageError, first_line
from sieverl.files import user_path

Weights = Callable[[], Iterator[tuple[str, Tensor]]]
"""Gives the whole tensors one by one; every rank must run through them at the same time."""


class Transfer(Protocol):
    """Gives the weights to the servers; every rank calls it, the first one sends."""

    def __call__(self, servers: Sequence[Server], weights: Weights, version: str) -> None: ...


class SharedDirectory:
    """Weights as safetensors in a directory that servers see under the same path; the newest stay there."""

    def __init__(self, path: str, dtype: torch.dtype, rank: int) -> None:
        self.path, self.dtype, self.rank = user_path(path).absolute(), dtype, rank
        self._last: Path | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"rollout.weights_dir = {path!r} cannot be used: {error.strerror}") from error

    def __call__(self, servers: Sequence[Server], weights: Weights, version: str) -> None:
        tensors = {}
        for name, x in weights():  # gathering needs every rank
            if self.rank == 0:
                tensors[name] = x.to(self.dtype).cpu().clone(memory_format=torch.contiguous_format)
        if self.rank:
            return
        target = self._write(tensors, version)
        for server in servers:
            server.rpc("reload_weights", weights_path=str(target))
        if self._last not in (None, target):
            shutil.rmtree(str(self._last), ignore_errors=True)
        self._last = target

    def _write(self, tensors: dict[str, Tensor], version: str) -> Path:
        """The directory with the tensors, which is there as a whole or not at all."""
        target = self.path / f"weights-{version}"
        try:
            temporary = Path(tempfile.mkdtemp(prefix=".weights-", dir=self.path))
            save_file(tensors, temporary / "model.safetensors")
            temporary.chmod(0o755)  # the server may be another user's
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary, target)
        except OSError as error:
            raise EngineError(f"rollout.weights_dir = {str(self.path)!r}: {error}") from error
        return target


class NcclTransfer:
    """vLLM's own weight transfer: the first rank broadcasts to the workers of each server in turn.

    Servers are started with `--weight-transfer-config '{"backend": "nccl"}'`, and vLLM is installed here too.
    """

    def __init__(self, rank: int, dtype: torch.dtype, timeout_s: float) -> None:
        self.rank, self.dtype, self.timeout_s = rank, dtype, timeout_s
        self._senders: dict[str, Any] = {}
        self._weights: Weights | None = None

    def __call__(self, servers: Sequence[Server], weights: Weights, version: str) -> None:
        self._weights = weights
        for server in servers:
            try:
                if server.url not in self._senders:
                    self._senders[server.url] = self._connect(server)
                self._senders[server.url].send_weights()
            except (RuntimeError, ValueError, OSError) as error:
                raise EngineError(
                    f"the weights did not reach {server.url} over NCCL: {first_line(error)}; see its log, or set "
                    "rollout.weights_dir to pass them through files"
                ) from error

    def _connect(self, server: Server) -> Any:
        """A sender to the workers of one server, which makes up a group with this rank."""
        try:
            from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo as Info
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine as Sender
        except ImportError as error:
            raise UsageError(
                f"weights over NCCL need vLLM here too ({first_line(error)}): pip install 'sieverl[vllm]', or set "
                "rollout.weights_dir to pass them through files"
            ) from error
        workers = int(server.get("/get_world_size")["world_size"]) if self.rank == 0 else 0
        address = os.environ.get("MASTER_ADDR", "127.0.0.1")
        info = Info(address, free_port(), 1 + workers, rank=self.rank)
        client = HTTPVLLMWeightSyncClient(server.url, self.timeout_s)
        return Sender.trainer_init(info, client=client, source=self._source())

    def _source(self) -> Any:
        """The weights as vLLM wants them."""
        from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

        transfer = self

        class Source(WeightSource):
            def metadata(self) -> list[Any]:
                return [ParamMeta(name, x.dtype, tuple(x.shape)) for name, x in self]

            def __iter__(self) -> Iterator[tuple[str, Tensor]]:
                assert transfer._weights is not None
                return ((name, x.to(transfer.dtype)) for name, x in transfer._weights())

        return Source()


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])
