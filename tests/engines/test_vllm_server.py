"""vLLM servers: what is asked of them, every way in which they fail, and which of them are refused at the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE
from safetensors.torch import load_file
from vllm_stand_in import StandIn, stand_in

from sieverl.distributed.world import World
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.engines.vllm import seed_of
from sieverl.engines.vllm_client import PLAIN_KERNELS, Server, check_address
from sieverl.engines.vllm_server import VllmServerEngine
from sieverl.errors import EngineError, ExitCode, SieveRLError, UsageError
from sieverl.model.load import load_policy, load_tokenizer
from sieverl.model.policy import Policy
from sieverl.recipe import build
from sieverl.types import Rollout

SAMPLING = SamplingParams(max_tokens=9, eos=(256,))
REQUESTS = [Request(5, [1, 2], 3, seed=7, first=2, group=0), Request(6, [3], 3, seed=7, group=1)]


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in(f"/elsewhere/{BASE.name}") as running:
        yield running


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(str(BASE), load_tokenizer(str(BASE)), "float32", "cpu", None, None, 0, None)


def engine(policy: Policy, folder: Path, *servers: StandIn, **changes: Any) -> VllmServerEngine:
    options = {
        "servers": [s.url for s in servers],
        "weights_dir": str(folder),
        "timeout_s": 5.0,
        "max_tokens": 64,
        **changes,
    }
    return VllmServerEngine.build(policy, build({"rollout": options}).rollout, World())


def test_prompts_go_out_and_responses_come_back_in_order(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    with stand_in(str(BASE)) as second:
        sampler = engine(policy, tmp_path, server, second)
        sampler.load(policy.weights(), 3)
        seen: list[Rollout] = []
        rollouts = sampler.sample(REQUESTS, SAMPLING, seen.append)
        assert [(r.prompt_id, r.sample, r.group) for r in rollouts] == [
            *((5, 2, 0), (5, 3, 0), (5, 4, 0)),
            *((6, 0, 1), (6, 1, 1), (6, 2, 1)),
        ]
        assert sorted(map(id, seen)) == sorted(map(id, rollouts))
        assert rollouts[1].tokens == [65, 66, 256]
        assert rollouts[1].logp == [-0.5] * 3
        assert not rollouts[1].truncated
        (body,), (other,) = server.bodies("/v1/completions"), second.bodies("/v1/completions")
    assert (body["prompt"], body["n"], body["seed"]) == ([1, 2], 3, seed_of(REQUESTS[0]) + 2)
    assert (body["model"], body["stop_token_ids"], body["ignore_eos"], body["logprobs"]) == ("served", [256], True, 0)
    assert other["prompt"] == [3]
    assert other["seed"] != body["seed"]


def test_a_response_without_an_end_is_truncated(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    sampler = engine(policy, tmp_path, server)
    sampler.load(policy.weights(), 0)
    whole = SamplingParams(max_tokens=9, eos=(0, 256))
    assert not any(r.truncated for r in sampler.sample(REQUESTS, whole))
    server.answers["/v1/completions"] = {
        "choices": [{"token_ids": [65], "logprobs": {"token_logprobs": [-1.0]}} for _ in range(3)]
    }
    assert all(r.truncated for r in sampler.sample(REQUESTS, whole))


def test_greedy_responses_are_asked_for_once(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    sampler = engine(policy, tmp_path, server)
    sampler.load(policy.weights(), 0)
    rollouts = sampler.sample(REQUESTS[:1], SamplingParams(9, (256,), temperature=0.0))
    assert [(r.sample, r.tokens) for r in rollouts] == [(2, [65, 256]), (3, [65, 256]), (4, [65, 256])]


def test_weights_are_files_that_are_there_as_a_whole(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    sampler = engine(policy, tmp_path, server)
    for version in (0, 1):
        sampler.load(policy.weights(), version)
    told = [body["kwargs"]["weights_path"] for body in server.bodies("/collective_rpc")]
    assert len(told) == 2
    assert [str(path) for path in tmp_path.iterdir()] == told[1:], "only the newest stays"
    tensors = load_file(Path(told[1]) / "model.safetensors")
    assert tensors.keys() == policy.weights().keys()
    assert all(torch.equal(x, policy.weights()[name]) for name, x in tensors.items())
    assert server.version.endswith("-1")
    assert sampler.version == 1
    assert len(server.bodies("/reset_prefix_cache")) == 2


def test_a_server_that_lost_its_weights_is_noticed(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    sampler = engine(policy, tmp_path, server)
    sampler.load(policy.weights(), 4)
    server.version = "default"
    with pytest.raises(EngineError, match=rf"{server.url} has weights 'default'.*-4'.*restarted, or another run"):
        sampler.sample(REQUESTS, SAMPLING)


FAILURES: dict[str, tuple[Any, str]] = {
    "silent": (StandIn.hang, r"did not answer /v1/completions within rollout.timeout_s = 0.3 s"),
    "fails": (500, r"failed at /v1/completions \(HTTP 500\): it broke"),
    "crashes in the middle": ("half", "broke off at /v1/completions"),
    "few": ({"choices": []}, "answered prompt . with 0 of 3 responses"),
    "no ids": ({"choices": [{"text": "hello"}]}, "answered without 'token_ids'"),
    "no answer": ([], "answered without"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_of_a_server_is_an_engine_error(name: str, server: StandIn, policy: Policy, tmp_path: Path) -> None:
    answer, said = FAILURES[name]
    sampler = engine(policy, tmp_path, server, timeout_s=0.3 if name == "silent" else 5.0)
    sampler.load(policy.weights(), 0)
    server.answers["/v1/completions"] = server.hang if name == "silent" else answer
    with pytest.raises(EngineError, match=said) as raised:
        sampler.sample(REQUESTS, SAMPLING)
    assert server.url in str(raised.value)
    assert raised.value.exit_code == ExitCode.ENGINE == 6


def test_weights_that_do_not_arrive_stop_the_run(server: StandIn, policy: Policy, tmp_path: Path) -> None:
    sampler = engine(policy, tmp_path, server)
    server.answers["/collective_rpc"] = 500
    with pytest.raises(EngineError, match=r"weights of step 2 did not arrive.*failed at /collective_rpc"):
        sampler.load(policy.weights(), 2)
    server.answers["/collective_rpc"], server.answers["/reset_prefix_cache"] = {}, {"success": False}
    with pytest.raises(EngineError, match="keeps its prefix cache"):
        sampler.load(policy.weights(), 2)
    assert sampler.version == -1


def test_nobody_there_is_an_engine_error(policy: Policy, tmp_path: Path) -> None:
    with stand_in("m") as gone:
        pass
    with pytest.raises(EngineError, match=f"{gone.url} is not there.*Connection refused.*start it again"):
        engine(policy, tmp_path, gone)


def other(part: str, key: str, value: str | None) -> dict[str, Any]:
    """The server's configuration with one value changed."""
    from vllm_stand_in import INFO

    config = {name: dict(table) for name, table in INFO["vllm_config"].items()}
    config[part][key] = value
    return {"vllm_config": config}


MISFITS: dict[str, tuple[str, Any, str]] = {
    "model": (
        "/v1/models",
        {"data": [{"id": "m", "root": "x/Qwen3-8B", "max_model_len": 99}]},
        "runs with --model Qwen3-8B, and the recipe needs base",
    ),
    "length": (
        "/v1/models",
        {"data": [{"id": "m", "root": "base", "max_model_len": 512}]},
        r"takes 512 tokens \(--max-model-len\), and rollout.max_tokens = 512",
    ),
    "dtype": ("/server_info", other("model_config", "dtype", "torch.bfloat16"), "--dtype bfloat16.*needs float32"),
    "log-probs": (
        "/server_info",
        other("model_config", "logprobs_mode", "raw_logprobs"),
        "--logprobs-mode raw_logprobs.*start it with --logprobs-mode processed_logprobs",
    ),
    "CPU kernels": ("/server_info", other("parallel_config", "worker_extension_cls", ""), PLAIN_KERNELS),
    "no developer mode": ("/server_info", 404, "has no /server_info.*start it with VLLM_SERVER_DEV_MODE=1"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_server_that_does_not_fit_is_refused(name: str, server: StandIn, policy: Policy, tmp_path: Path) -> None:
    path, answer, said = MISFITS[name]
    server.answers[path] = answer
    changes = {"max_tokens": 512 if name == "length" else 64}
    with pytest.raises(UsageError, match=said) as raised:
        engine(policy, tmp_path, server, **changes)
    assert server.url in str(raised.value)


def test_what_is_no_vllm_server_is_an_engine_error(server: StandIn) -> None:
    server.answers["/v1/models"] = {"data": []}
    with pytest.raises(EngineError, match=r"does not answer as vLLM 0\.32 does"):
        Server(server.url, 5.0).check("m", "float32", 1)


@pytest.mark.parametrize(
    ("url", "remote", "said"),
    [
        ("http://10.1.2.3:8000", False, "whoever reaches the port can replace the model.*allow_remote_servers = true"),
        ("http://gpu7:8000", False, "is another machine"),
        ("gpu7:8000", True, "is no address; write http://HOST:PORT"),
        ("http://localhost:8000", False, None),
        ("http://[::1]:8000", False, None),
        ("http://gpu7:8000", True, None),
    ],
)
def test_servers_elsewhere_must_be_allowed(url: str, remote: bool, said: str | None) -> None:
    if said is None:
        check_address(url, remote)
        return
    with pytest.raises(UsageError, match=said):
        check_address(url, remote)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"servers": []}, "needs rollout.servers = "),
        ({"weights_dir": ""}, "set rollout.weights_dir to a directory"),
        ({"weights_dir": "/dev/null/x"}, "rollout.weights_dir = '/dev/null/x' cannot be used"),
    ],
)
def test_what_is_missing_is_named(
    changes: dict[str, Any], said: str, server: StandIn, policy: Policy, tmp_path: Path
) -> None:
    with pytest.raises(SieveRLError, match=said):
        engine(policy, tmp_path, server, **changes)
