"""vLLM in this process: an engine with weights of its own, on the device of the policy.

Several ranks have an engine each, or share one over `tensor_parallel_size` ranks, which all do the same work. On a GPU
the engine sleeps while the learner works. Token ids in, token ids out: vLLM sees the model's configuration and the
tensors that `load` gives it, neither a checkpoint nor a tokenizer.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from sieverl.distributed.world import World
from sieverl.engines import noise
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.engines.stop_strings import stopped
from sieverl.errors import EngineError, UsageError, first_line
from sieverl.model.export import adapter_weights, checkpoint_weights
from sieverl.model.policy import Policy
from sieverl.model.types import AdapterConfig, has_adapters
from sieverl.recipe import Rollout as Settings
from sieverl.types import Rollout

WORKER = "sieverl.engines.vllm_worker.PlainKernels"
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM allocates
Samples = Sequence[tuple[Request, int]]  # a request and the number of one of its responses


class VllmEngine:
    """Samples with vLLM, at most `max_num_seqs` responses at a time."""

    shares_weights = False
    sharded = True
    stop_strings = True
    float64 = False
    options = frozenset({"kv_cache_gb", "tensor_parallel_size"})

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """Its kernels round differently from the learner's."""
        return False

    @staticmethod
    def build(policy: Policy, settings: Settings, world: World) -> VllmEngine:
        """An engine for a run. Raises a UsageError where vLLM is missing or does not take the model."""
        return VllmEngine(policy, settings, world)

    def __init__(self, policy: Policy, settings: Settings, world: World) -> None:
        self.policy = policy
        self.version = -1
        self.world = world
        self.ranks = shared_by(world, settings.tensor_parallel_size)
        self.sleeps = policy.device.type == "cuda"
        self._vllm = import_vllm()
        self._folder = tempfile.TemporaryDirectory(prefix="sieverl-vllm-")
        try:
            with own_threads():
                self._llm = self._vllm.LLM(**self._options(settings))
        except Exception as error:  # an unsupported model or too little memory may fail in any way
            self._folder.cleanup()
            raise UsageError(
                f"vLLM does not start with this {type(policy.causal).__name__}: {first_line(error)}; "
                'lower rollout.kv_cache_gb, or use rollout.engine = "torch"'
            ) from error
        self._adapter: Any = None
        self._asleep = False
        self._sleep()

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Give vLLM the weights; under LoRA the adapters, and the weights that they adapt once."""
        self._wake()
        with torch.no_grad(), failing("taking new weights"):
            if self._adapter is None:
                tensors = checkpoint_weights(self.policy, weights, merge=False)
                self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": tensors})
            if has_adapters(self.policy.model):
                self._load_adapter(self.policy.model.peft_config["default"], weights)
            self._llm.reset_prefix_cache()
        self.version = version
        self._sleep()

    def close(self) -> None:
        """End vLLM. Left to the garbage collector, its end would take away the groups of the process's next engine.

        Ranks that share one leave it to the end of their processes, since it would take their own groups away, too.
        """
        if self.world.size == 1:
            self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order.

        The samples of a prompt are requests of their own with a seed each; vLLM computes their common prefix once.
        """
        shared, first = self._shared(requests)
        numbered = [(r, r.first + i, n) for n, r in enumerate(shared) for i in range(r.samples)]
        own = [first <= n < first + len(requests) for _, _, n in numbered]
        self._wake()
        done: dict[int, Rollout] = {}
        for i, rollout in self._finished([(r, sample) for r, sample, _ in numbered], sampling):
            if own[i]:
                done[i] = rollout
                if on_done:
                    on_done(rollout)
        self._sleep()
        return [done[i] for i in sorted(done)]

    def _shared(self, requests: Sequence[Request]) -> tuple[list[Request], int]:
        """The requests of all ranks that share this engine, and the number of this rank's first one."""
        if len(self.ranks) == 1:
            return list(requests), 0
        parts = self.world.all_gather(list(requests))
        first = sum(len(parts[rank]) for rank in self.ranks if rank < self.world.rank)
        return [request for rank in self.ranks for request in parts[rank]], first

    def _finished(self, samples: Samples, sampling: SamplingParams) -> Iterator[tuple[int, Rollout]]:
        """Each response as it ends, with its number."""
        engine, tokenizer = self._llm.llm_engine, self.policy.tokenizer
        self._add(samples, sampling)
        live = dict(enumerate(samples))
        try:
            while live:
                with failing("sampling"):
                    outputs = engine.step()
                for output in outputs:
                    i, completion = int(output.request_id), output.outputs[0]
                    if i not in live:
                        continue
                    tokens = list(completion.token_ids)
                    at_string = bool(sampling.stop) and stopped(tokenizer, np.array([tokens]), sampling.stop).item()
                    if not output.finished and not at_string:
                        continue
                    if not output.finished:
                        engine.abort_request([output.request_id])
                    request, sample = live.pop(i)
                    logp = [entry[token].logprob for entry, token in zip(completion.logprobs, tokens, strict=True)]
                    truncated = tokens[-1] not in sampling.eos and not at_string
                    yield (
                        i,
                        Rollout(
                            request.prompt_id, sample, tokens, logp, truncated, request.group, request.prompt_tokens
                        ),
                    )
        finally:
            if live:
                engine.abort_request([str(i) for i in live])

    def _add(self, samples: Samples, sampling: SamplingParams) -> None:
        """Ask for the responses. Raises a UsageError for a prompt that is too long."""
        engine, kind = self._llm.llm_engine, self._vllm.sampling_params.RequestOutputKind
        when = kind.CUMULATIVE if sampling.stop else kind.FINAL_ONLY
        for i, (request, sample) in enumerate(samples):
            given = self._vllm.SamplingParams(
                **sampling_options(sampling), seed=seed_of(request) + sample, output_kind=when, detokenize=False
            )
            prompt = {"prompt_token_ids": list(request.prompt_tokens)}
            try:
                engine.add_request(str(i), prompt, given, lora_request=self._adapter)
            except ValueError as error:
                engine.abort_request([str(j) for j in range(i)])
                raise UsageError(f"vLLM refuses prompt {request.prompt_id}: {first_line(error)}") from error

    def _options(self, settings: Settings) -> dict[str, Any]:
        """What `vllm.LLM` is built with; the configuration of the model goes to a directory."""
        config = self.policy.causal.config
        if not config.architectures:
            config.architectures = [type(self.policy.causal).__name__]
        config.save_pretrained(self._folder.name)
        options: dict[str, Any] = {
            "model": self._folder.name,
            "skip_tokenizer_init": True,
            "load_format": "dummy",
            "generation_config": "vllm",
            "dtype": str(self.policy.compute).removeprefix("torch."),
            "logprobs_mode": "processed_logprobs",
            "kv_cache_memory_bytes": int(settings.kv_cache_gb * 2**30),
            "max_model_len": -1,  # what the KV cache holds, at most what the model takes
            "max_num_seqs": settings.max_num_seqs,
            "enforce_eager": not self.sleeps,  # compiling for a CPU takes longer than it saves
            "enable_sleep_mode": self.sleeps,
            "worker_extension_cls": WORKER,
            "disable_log_stats": True,
            "seed": 0,
        }
        if self.sleeps:
            options["gpu_memory_utilization"] = 0.05  # only asks that this share is free: the cache has its size
        if self.world.size > 1:
            options |= {"distributed_executor_backend": "external_launcher", "tensor_parallel_size": len(self.ranks)}
        if has_adapters(self.policy.model):
            rank = self.policy.model.peft_config["default"].r
            options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}
        return options

    def _load_adapter(self, config: AdapterConfig, weights: Mapping[str, Tensor]) -> None:
        """Replace vLLM's one adapter by that among the weights."""
        folder = str(Path(self._folder.name) / "adapter")
        config.save_pretrained(folder)
        save_file(adapter_weights(weights), Path(folder) / "adapter_model.safetensors")
        make = self._vllm.lora.request.LoRARequest
        self._llm.llm_engine.add_lora(make("policy", 1, folder, load_inplace=True))
        self._adapter = make("policy", 1, folder)  # what requests name; without loading it again

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _sleep(self) -> None:
        """Weights to CPU memory, the KV cache away."""
        if self.sleeps and not self._asleep:
            self._llm.sleep(level=1)
            self._asleep = True


def shared_by(world: World, ranks: int) -> range:
    """The ranks that share this rank's engine.

    >>> shared_by(World(rank=3, size=4), 2)
    range(2, 4)
    """
    if world.size % ranks:
        raise UsageError(
            f"rollout.tensor_parallel_size = {ranks} does not divide the {world.size} ranks of the run; "
            f"start a multiple of {ranks} processes, or lower it"
        )
    first = world.rank - world.rank % ranks
    return range(first, first + ranks)


def seed_of(request: Request) -> int:
    """The seed of a request's sample 0, 62 bits; sample number i has this plus i.

    >>> seed_of(Request(1, [7], 4)) == seed_of(Request(2, [7], 4))
    False
    """
    key = noise.keys(*(np.array([x], dtype=np.int64) for x in (request.seed, request.prompt_id, 0)))
    return int(key[0] >> np.uint64(2))


def sampling_options(sampling: SamplingParams) -> dict[str, Any]:
    """The sampling parameters as vLLM names them: log-probs of the sampled tokens only, ended by our ids only."""
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop_token_ids": list(sampling.eos),
        "ignore_eos": True,
        "logprobs": 0,
    }


def import_vllm() -> Any:
    """The package, set up for one process. Raises a UsageError where it is missing."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else the engine is a process of its own
    for name, value in (("VLLM_LOGGING_LEVEL", "ERROR"), ("VLLM_NO_USAGE_STATS", "1")):
        os.environ.setdefault(name, value)
    try:
        import vllm
        import vllm.lora.request
        import vllm.sampling_params
    except ImportError as error:
        raise UsageError(
            f"rollout.engine = 'vllm' needs vLLM ({first_line(error)}); install it with pip install 'sieverl[vllm]', "
            "on a CPU as docs/engines.md says"
        ) from error
    return vllm


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """PyTorch's threads stay as they are: on a CPU vLLM replaces the function that sets their number."""
    function, count = torch.set_num_threads, torch.get_num_threads()
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        yield
    finally:
        torch.set_num_threads = function
        function(count)


@contextlib.contextmanager
def failing(doing: str) -> Iterator[None]:
    """A failure inside vLLM is an EngineError."""
    try:
        yield
    except Exception as error:  # vLLM has no class for it
        raise EngineError(
            f"vLLM failed while {doing}: {type(error).__name__}: {first_line(error)}; the same command goes on from "
            "the last checkpoint"
        ) from error
