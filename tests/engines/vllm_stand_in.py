"""A small HTTP server that answers as a vLLM server does, or fails as one may; what it was asked is in `asked`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JsonObject = dict[str, Any]
INFO: JsonObject = {
    "vllm_config": {
        "model_config": {"dtype": "torch.float32", "logprobs_mode": "processed_logprobs"},
        "device_config": {"device": "cpu"},
        "parallel_config": {"worker_extension_cls": "sieverl.engines.vllm_worker.PlainKernels"},
    }
}


class StandIn(ThreadingHTTPServer):
    """`answers` maps a path to the JSON it answers, to a function of the body, or to an HTTP status."""

    daemon_threads = True

    def __init__(self, model: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, JsonObject]] = []
        self.version = "default"
        self.silent = threading.Event()  # set when the test is over, so that no thread is left waiting
        self.answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": "served", "root": model, "max_model_len": 100}]},
            "/server_info": json.loads(json.dumps(INFO)),
            "/collective_rpc": {"results": [None]},
            "/reset_prefix_cache": {"success": True},
            "/update_weight_version": self.take_version,
            "/weight_info": lambda body: {"weight_version": self.version},
            "/v1/completions": complete,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def take_version(self, body: JsonObject) -> JsonObject:
        self.version = body["new_version"]
        return {"success": True}

    def hang(self, body: JsonObject) -> JsonObject:
        self.silent.wait(30)
        return {}

    def bodies(self, path: str) -> list[JsonObject]:
        return [body for asked, body in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self) -> None:
        self.reply({})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.reply(json.loads(self.rfile.read(length)) if length else {})

    def reply(self, body: JsonObject) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, body))
        answer = self.server.answers.get(path, 404)
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = answer(body)
        status = answer if isinstance(answer, int) else 200
        text = json.dumps({"error": {"message": "it broke"}} if isinstance(answer, int) else answer).encode()
        if answer == "half":
            status, text = 200, b'{"choices": ['
        self.send_response(status)
        self.send_header("Content-Length", str(len(text) + (100 if answer == "half" else 0)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal."""


def complete(body: JsonObject) -> JsonObject:
    """Response i has i + 1 tokens and then the end."""
    choices: list[JsonObject] = []
    for i in range(body["n"]):
        tokens = [*range(65, 66 + i), body["stop_token_ids"][0]]
        choices.append({"token_ids": tokens, "logprobs": {"token_logprobs": [-0.5] * len(tokens)}})
    return {"choices": choices}


@contextmanager
def stand_in(model: str) -> Iterator[StandIn]:
    """The server, running."""
    server = StandIn(model)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()
