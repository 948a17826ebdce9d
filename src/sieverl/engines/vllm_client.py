"""One vLLM server over HTTP: every wait has a deadline, and every failure names the server and what to do."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import urllib.error
import urllib.request
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from sieverl.errors import EngineError, SieveRLError, UsageError, first_line
from sieverl.types import JsonObject

GO_ON = "the same command goes on from the last checkpoint"
PLAIN_KERNELS = "--worker-extension-cls sieverl.engines.vllm_worker.PlainKernels"
DEVELOPER = "VLLM_SERVER_DEV_MODE=1"
# proxies of the environment are left out: prompts and weights go to the named host only
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """A vLLM server at `url`; `name` is the model as it calls it."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.name = ""

    def get(self, path: str) -> Any:
        """What the server answers, from JSON."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: JsonObject | None = None) -> Any:
        """What the server answers to `body`, from JSON. A request that it refuses is a UsageError."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: JsonObject | None) -> Any:
        request = urllib.request.Request(self.url + path, method=method, headers={"Content-Type": "application/json"})
        request.data = None if body is None else json.dumps(body).encode()
        try:
            with DIRECT.open(request, timeout=self.timeout_s) as response:
                answer = response.read()
        except urllib.error.HTTPError as error:
            raise self._refused(path, error.code, reason(error.read())) from error
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, TimeoutError):
                raise EngineError(
                    f"the vLLM server {self.url} did not answer {path} within rollout.timeout_s = {self.timeout_s:g} "
                    f"s; see its log, or raise rollout.timeout_s; {GO_ON}"
                ) from error
            raise EngineError(
                f"the vLLM server {self.url} is not there or broke off at {path} ({cause or type(cause).__name__}); "
                f"start it again (docs/engines.md); {GO_ON}"
            ) from error
        try:
            return json.loads(answer)
        except ValueError as error:
            raise EngineError(f"{self.url}{path} answered without JSON: is it vLLM 0.32?") from error

    def _refused(self, path: str, status: int, why: str) -> SieveRLError:
        """The error for an HTTP status of 400 or more."""
        if status >= 500:
            return EngineError(
                f"the vLLM server {self.url} failed at {path} (HTTP {status}): {why}; see its log and start it again; "
                f"{GO_ON}"
            )
        if status == 404:
            return UsageError(
                f"the vLLM server {self.url} has no {path}: start it with {DEVELOPER} in its environment, on an "
                "address that nobody else can reach (docs/engines.md)"
            )
        return UsageError(f"the vLLM server {self.url} refuses {path} (HTTP {status}): {why}")

    def rpc(self, method: str, **kwargs: str) -> Any:
        """Call a method of every worker of the server."""
        return self.post("/collective_rpc", {"method": method, "kwargs": kwargs, "timeout": self.timeout_s})

    def check(self, model: str, dtype: str, max_tokens: int) -> None:
        """Raises a UsageError if it serves another model than `model`, in another dtype, too short or too inexact."""
        try:
            served = self.get("/v1/models")["data"][0]
            config = self.get("/server_info?config_format=json")["vllm_config"]
            model_config, device = config["model_config"], config["device_config"]["device"]
            self.name = served["id"]
            found = {
                "model": last_part(served["root"]),
                "dtype": model_config["dtype"].removeprefix("torch."),
                "logprobs-mode": model_config["logprobs_mode"],
            }
            longest = int(served["max_model_len"])
            plain = config["parallel_config"]["worker_extension_cls"]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"{self.url} does not answer as vLLM 0.32 does: {error!r} is missing") from error
        wanted = {"model": last_part(model), "dtype": dtype, "logprobs-mode": "processed_logprobs"}
        for key, value in wanted.items():
            if found[key] != value:
                raise UsageError(
                    f"the vLLM server {self.url} runs with --{key} {found[key]}, and the recipe needs {value}; start "
                    f"it with --{key} {model if key == 'model' else value}"
                )
        if longest <= max_tokens:
            raise UsageError(
                f"the vLLM server {self.url} takes {longest} tokens (--max-model-len), and rollout.max_tokens = "
                f"{max_tokens} leaves no room for a prompt; raise the one or lower the other"
            )
        if device == "cpu" and plain != PLAIN_KERNELS.split()[1]:
            raise UsageError(
                f"the vLLM server {self.url} runs on a CPU, where it takes no new weights without {PLAIN_KERNELS}; "
                "start it with this option"
            )


def reason(answer: bytes) -> str:
    """Why the server refused or failed, in one line.

    >>> reason(b'{"error": {"message": "no such model"}}'), reason(b"Bad Gateway")
    ('no such model', 'Bad Gateway')
    """
    text = answer.decode(errors="replace")
    with contextlib.suppress(ValueError, KeyError, TypeError):  # else something between here and vLLM answered
        text = str(json.loads(text)["error"]["message"])
    return first_line(ValueError(text))


def last_part(model: str) -> str:
    """The last part of a path or Hub id, by which a model is known on two machines.

    >>> last_part("Qwen/Qwen3-0.6B"), last_part("/models/Qwen3-0.6B/")
    ('Qwen3-0.6B', 'Qwen3-0.6B')
    """
    return PurePosixPath(model).name


def check_address(url: str, allow_remote: bool) -> None:
    """Raises a UsageError for an address that is none, or that others than this machine may reach."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"rollout.servers has {url!r}, which is no address; write http://HOST:PORT")
    try:
        local = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        local = False
    if not local and not allow_remote:
        raise UsageError(
            f"rollout.servers has {url}, which is another machine: the endpoints through which vLLM takes weights know "
            "no password, so whoever reaches the port can replace the model and run methods of its workers. If it is "
            "on a private network that nobody else reaches, set rollout.allow_remote_servers = true; else use a tunnel "
            "to 127.0.0.1"
        )
