"""vLLM servers elsewhere as an engine: prompts and responses over HTTP, weights through a shared directory or NCCL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from uuid import uuid4

from torch import Tensor

from sieverl.distributed.world import World
from sieverl.engines.protocol import OnDone, Request, SamplingParams
from sieverl.engines.vllm import sampling_options, seed_of
from sieverl.engines.vllm_client import GO_ON, Server, check_address
from sieverl.engines.vllm_transfer import NcclTransfer, SharedDirectory, Transfer
from sieverl.errors import EngineError, SieveRLError, UsageError
from sieverl.model.export import checkpoint_weights
from sieverl.model.policy import Policy
from sieverl.recipe import Rollout as Settings
from sieverl.types import JsonObject, Rollout


class VllmServerEngine:
    """Samples from `rollout.servers`, each of which has a part of the prompts."""

    shares_weights = False
    sharded = True
    stop_strings = False  # vLLM compares texts without special tokens, so that it may stop elsewhere
    float64 = False
    options = frozenset({"servers", "weights_dir", "timeout_s", "allow_remote_servers"})

    @staticmethod
    def on_policy(dtype: str) -> bool:
        """Its kernels round differently from the learner's."""
        return False

    @staticmethod
    def build(policy: Policy, settings: Settings, world: World) -> VllmServerEngine:
        """An engine for a run. Raises a UsageError for servers that do not fit it, an EngineError for silent ones."""
        return VllmServerEngine(policy, settings, world)

    def __init__(self, policy: Policy, settings: Settings, world: World) -> None:
        if not settings.servers:
            raise UsageError('rollout.engine = "vllm_server" needs rollout.servers = ["http://127.0.0.1:8000"]')
        for url in settings.servers:
            check_address(url, settings.allow_remote_servers)
        self.policy = policy
        self.world = world
        self.max_num_seqs = settings.max_num_seqs
        self.version = -1
        self.run = world.all_gather(uuid4().hex[:8])[0]  # another run at the same server must be noticed
        self.transfer = transfer(policy, settings, world)
        self.servers = [Server(url, settings.timeout_s) for url in settings.servers]
        for server in self.servers:
            dtype = str(policy.compute).removeprefix("torch.")
            server.check(policy.tokenizer.name_or_path, dtype, settings.max_tokens)

    def load(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Give all servers the weights, adapters merged. Every rank gathers, the first one sends."""
        failure = ""
        try:
            self.transfer(self.servers, lambda: checkpoint_weights(self.policy, weights), f"{self.run}-{version}")
            for server in self.servers if self.world.rank == 0 else []:
                if not server.post("/reset_prefix_cache")["success"]:
                    raise EngineError(f"{server.url} keeps its prefix cache: it is used by others; give it to one run")
                server.post("/update_weight_version", {"new_version": f"{self.run}-{version}"})
        except SieveRLError as error:
            failure = str(error)
        if failures := [text for text in self.world.all_gather(failure) if text]:
            raise EngineError(f"the weights of step {version} did not arrive: {failures[0]}")
        self.version = version

    def sample(
        self, requests: Sequence[Request], sampling: SamplingParams, on_done: OnDone | None = None
    ) -> list[Rollout]:
        """One `Rollout` for each sample of each request, in order; `on_done` gets those of a request together."""
        self._check_versions()
        if not requests:
            return []
        together = max(1, self.max_num_seqs // max(r.samples for r in requests))
        groups: dict[int, list[Rollout]] = {}
        pool = ThreadPoolExecutor(min(together, len(requests)))
        try:
            waiting: dict[Future[list[Rollout]], int] = {
                pool.submit(complete, self.servers[i % len(self.servers)], request, sampling): i
                for i, request in enumerate(requests)
            }
            for future in as_completed(waiting):
                groups[waiting[future]] = future.result()
                if on_done:
                    for rollout in groups[waiting[future]]:
                        on_done(rollout)
        finally:  # after a failure nobody waits for the other answers: each has its own deadline
            pool.shutdown(wait=len(groups) == len(requests), cancel_futures=True)
        return [rollout for i in range(len(requests)) for rollout in groups[i]]

    def _check_versions(self) -> None:
        """Raises an EngineError for a server that has other weights than it was given last."""
        given = f"{self.run}-{self.version}"
        for server in self.servers:
            version = server.get("/weight_info")["weight_version"]
            if version != given:
                raise EngineError(
                    f"the vLLM server {server.url} has weights {version!r}, and it was given {given!r}: it was "
                    f"restarted, or another run uses it too; give each run servers of its own; {GO_ON}"
                )


def transfer(policy: Policy, settings: Settings, world: World) -> Transfer:
    """How weights get to the servers."""
    if settings.weights_dir:
        return SharedDirectory(settings.weights_dir, policy.compute, world.rank)
    if policy.device.type == "cuda":
        return NcclTransfer(world.rank, policy.compute, settings.timeout_s)
    raise UsageError(
        'rollout.engine = "vllm_server" on a CPU passes weights through files: set rollout.weights_dir to a directory '
        "that the servers see under the same path"
    )


def complete(server: Server, request: Request, sampling: SamplingParams) -> list[Rollout]:
    """All samples of one request. Raises an EngineError for an answer that is not what was asked for."""
    answer = server.post("/v1/completions", body(server.name, request, sampling))
    try:
        choices = [(list(c["token_ids"]), list(c["logprobs"]["token_logprobs"])) for c in answer["choices"]]
    except (KeyError, TypeError) as error:
        raise EngineError(f"{server.url} answered without {error}: is it vLLM 0.32?") from error
    if not sampling.temperature:
        choices *= request.samples
    if len(choices) != request.samples or any(not t or len(t) != len(p) for t, p in choices):
        raise EngineError(
            f"{server.url} answered prompt {request.prompt_id} with {len(choices)} of {request.samples} responses, or "
            "with log-probs of other tokens: is it vLLM 0.32?"
        )
    return [
        Rollout(
            request.prompt_id,
            request.first + i,
            tokens,
            logp,
            tokens[-1] not in sampling.eos,
            request.group,
            request.prompt_tokens,
        )
        for i, (tokens, logp) in enumerate(choices)
    ]


def body(model: str, request: Request, sampling: SamplingParams) -> JsonObject:
    """A completion request for all samples of `request`; vLLM gives sample number i the seed plus i.

    >>> body("m", Request(1, [7], 4, first=2), SamplingParams(5, (0,)))["n"]
    4
    """
    return {
        **sampling_options(sampling),
        "model": model,
        "prompt": list(request.prompt_tokens),
        "n": request.samples if sampling.temperature else 1,  # vLLM refuses several greedy responses
        "seed": seed_of(request) + request.first,
        "return_token_ids": True,
    }
