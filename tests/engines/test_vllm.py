"""The vLLM engine: what is asked of it and refused before it starts; the slow tests run vLLM itself.

vLLM has an environment of its own, since it pins other versions: `make vllm-env`, which `make test-slow` calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, ROOT
from runs import NOT_EVALUATED, recipe, run_it

from sieverl.distributed.world import World
from sieverl.engines.protocol import Request, SamplingParams
from sieverl.engines.vllm import LORA_RANKS, VllmEngine, import_vllm, sampling_options, seed_of, shared_by
from sieverl.engines.vllm_client import DIRECT
from sieverl.errors import EngineError, UsageError
from sieverl.model.load import load_policy, load_tokenizer
from sieverl.recipe import build
from sieverl.training.checks import check_engine
from sieverl.training.loop import train
from sieverl.training.setup import prepare

PYTHON = Path(os.environ.get("VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
ENOUGH = 1e-4  # nats between the log-probs of engine and learner in float32
needs_vllm = pytest.mark.skipif(not PYTHON.is_file(), reason=f"there is no {PYTHON}; `make vllm-env` makes it")


def test_seeds_differ_between_prompts_and_epochs_and_count_up_with_the_sample() -> None:
    seeds = {seed_of(Request(prompt, [1], 2, seed)) for prompt in range(50) for seed in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= seed < 2**62 for seed in seeds), "vLLM takes 64 bits with a sign, and adds the sample's number"
    assert seed_of(Request(3, [1], 2, 7, first=2)) == seed_of(Request(3, [9, 9], 8, 7))


def test_responses_end_at_our_ids_only_and_log_probs_are_of_the_sampled_tokens() -> None:
    given = sampling_options(SamplingParams(9, (4, 5), 0.7, top_p=0.9, top_k=3, stop=("x",)))
    assert given == {
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 3,
        "stop_token_ids": [4, 5],
        "ignore_eos": True,
        "logprobs": 0,
    }


def test_ranks_share_engines_evenly() -> None:
    assert [shared_by(World(rank, 4), 2) for rank in range(4)] == [range(2), range(2), range(2, 4), range(2, 4)]
    with pytest.raises(UsageError, match="tensor_parallel_size = 2 does not divide the 3 ranks"):
        shared_by(World(0, 3), 2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout.engine": "vllm", "dtype": "float64"}, 'does not support dtype = "float64"; use "torch"'),
        ({"rollout.engine": "vllm_server", "rollout.stop": '["x"]'}, "does not support rollout.stop"),
        ({"rollout.engine": "transformers", "distributed.strategy": "fsdp"}, "does not support distributed.strategy"),
        ({"rollout.servers": '["http://h"]'}, "'torch' knows no rollout.servers; leave it out, or use \"vllm_server\""),
        ({"rollout.engine": "vllm_server", "rollout.kv_cache_gb": "1"}, 'knows no rollout.kv_cache_gb.*use "vllm"'),
    ],
)
def test_what_an_engine_does_not_know_is_refused(changes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_engine(build({}, changes))
    check_engine(build({}, {"rollout.engine": "vllm", "rollout.stop": '["x"]', "distributed.strategy": "fsdp"}))


def test_without_vllm_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UsageError, match=r"needs vLLM .*pip install 'sieverl\[vllm\]'"):
        import_vllm()
    policy = load_policy(str(BASE), load_tokenizer(str(BASE)), "float32", "cpu", None, None, 0, None)
    with pytest.raises(UsageError, match="needs vLLM"):
        VllmEngine.build(policy, build({}).rollout, World())


def test_vllm_is_imported_only_when_it_is_chosen() -> None:
    script = "import sys, sieverl.training.setup; print('vllm' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"


def test_lora_ranks_are_rounded_up_to_what_vllm_allocates() -> None:
    assert [next(r for r in LORA_RANKS if r >= rank) for rank in (1, 8, 9)] == [8, 8, 16]


# --- with vLLM itself -------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """Of a process with vLLM: the sources of SieveRL, one thread (two spin where other processes run, too)."""
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run_script(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def check_updates(rows: list[dict[str, Any]], steps: int) -> None:
    assert rows[-1]["step"] == steps
    trained = [row for row in rows if row["step"]]
    assert all(row["train/updates"] == 1 for row in trained), "else no weights had to arrive"
    assert all(0 < row["policy/engine_mismatch"] < ENOUGH for row in trained)


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(900)
def test_vllm_has_the_weights_of_the_learner_after_every_update(tmp_path: Path) -> None:
    """Ten updates, resumed; LoRA with a stop string; and an engine that keeps its first weights is caught at once."""
    run_script(PYTHON, ROOT / "tests" / "engines" / "vllm_runs.py", "alone", tmp_path)
    found = json.loads((tmp_path / "alone.json").read_text())
    check_updates(found["ten"], 10)
    assert found["resumed"][:-1] == found["ten"]
    check_updates(found["resumed"], 11)
    assert found["threads as they were"]
    check_updates(found["lora"], 3)
    assert all(row["rollout/truncated"] == 0 for row in found["lora"] if row["step"]), "each ended at the stop string"
    ahead = [row["policy/engine_mismatch"] for row in found["ahead"] if row["step"]]
    assert ahead[0] < 1e-4 < min(ahead[1:]), "from its second step on it samples from the weights of one step before"
    assert found["stale"]["step"] == 2, "the first step that samples after an update"
    assert "samples from other weights than those that are trained" in found["stale"]["said"]


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["sharded", "shared"])
def test_two_ranks_have_an_engine_each_or_share_one(what: str, tmp_path: Path) -> None:
    """FSDP2 with an engine on each rank; a replicated model with tensor parallelism."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run_script(PYTHON, *launch, ROOT / "tests" / "engines" / "vllm_runs.py", what, tmp_path)
    check_updates(json.loads((tmp_path / f"{what}.json").read_text())["rows"], 2)


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(900)
def test_weights_over_nccl_follow_the_steps_of_vllm(tmp_path: Path) -> None:
    """vLLM's own sender with the broadcast replaced, since that needs GPUs."""
    run_script(PYTHON, ROOT / "tests" / "engines" / "vllm_runs.py", "nccl", tmp_path)
    found = json.loads((tmp_path / "nccl.json").read_text())
    update = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
    assert [path for path, _ in found["asked"]] == ["/get_world_size", "/init_weight_transfer_engine", *update, *update]
    init = found["asked"][1][1]["init_info"]
    assert (init["world_size"], init["rank_offset"]) == (3, 1)
    told = {"names": ["a", "b"], "dtype_names": ["bfloat16"] * 2, "shapes": [[1, 2], [1]]}
    assert found["asked"][3][1] == {"update_info": told}
    tensors = [["a", "torch.bfloat16", [1.0, 2.0]], ["b", "torch.bfloat16", [3.0]]]
    assert found["sent"] == tensors * 2


@pytest.fixture
def vllm_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a real vLLM server of the shipped model, as docs/engines.md starts it, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", BASE, "--host", "127.0.0.1"]
    command += ["--port", port, "--dtype", "float32", "--logprobs-mode", "processed_logprobs", "--enforce-eager"]
    command += ["--generation-config", "vllm", "--kv-cache-memory-bytes", "250000000", "--max-num-seqs", "64"]
    command += ["--worker-extension-cls", "sieverl.engines.vllm_worker.PlainKernels"]
    log = tmp_path / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            list(map(str, command)),
            env=environment() | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 400
        while not answers(f"{url}/health"):
            running = server.poll() is None and time.monotonic() < deadline
            assert running, log.read_text()[-4000:]
            time.sleep(0.5)
        yield url, server
    finally:
        stop(server)


def answers(url: str) -> bool:
    try:
        with DIRECT.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def stop(server: subprocess.Popen[str]) -> None:
    """End the server and the processes that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


@pytest.mark.slow
@needs_vllm
@pytest.mark.timeout(900)
def test_a_vllm_server_takes_the_weights_of_every_update(
    tmp_path: Path, vllm_server: tuple[str, subprocess.Popen[str]]
) -> None:
    """Through a shared directory; what does not fit it is refused, and when it is killed the run says so."""
    url, server = vllm_server
    to_server: dict[str, Any] = {
        "algorithm": "reinforce",
        "dtype": "float32",
        "train__lr": 3e-4,
        "rollout__engine": "vllm_server",
        "rollout__servers": [url],
        "rollout__weights_dir": str(tmp_path / "weights"),
        "rollout__timeout_s": 120,
        **NOT_EVALUATED,
    }
    check_updates(run_it(tmp_path / "run", **to_server).metrics.rows(), 3)
    assert len(list((tmp_path / "weights").iterdir())) == 1
    check_updates(run_it(tmp_path / "run", steps=4, **to_server).metrics.rows(), 4)
    with pytest.raises(UsageError, match=f"{url} runs with --dtype float32, and the recipe needs bfloat16"):
        run_it(tmp_path / "other", **{**to_server, "dtype": "bfloat16"})
    run = prepare(recipe(tmp_path / "killed", **to_server), say=lambda text: None)
    stop(server)
    with run.pool, pytest.raises(EngineError, match=f"{url} is not there or broke off"):
        train(run)
