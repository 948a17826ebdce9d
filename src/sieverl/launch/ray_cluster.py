"""A Ray cluster to run on: one that is there, or a local one of this command's own. Every wait has a deadline."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

from sieverl.errors import UsageError, first_line

STARTS = 3  # Ray gives a local cluster 30 s to start, which a busy machine may exceed
DEADLINE_S = 30.0  # to reach a cluster, and for it to have room
# What Ray reads when it is imported; what the user has set stays.
ALWAYS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{DEADLINE_S:.0f}",
}
LOCAL = {
    "RAY_worker_niceness": "0",  # ranks are not background work: under torchrun they have it too
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # loopback only, what Ray does by itself on macOS and Windows
}
CONNECTING = {"RAY_gcs_server_port_wait_time_s": "1"}  # one try, which takes up to 40 s


@contextmanager
def cluster(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at `address`, or to a local one that ends with this context.

    Raises a UsageError when Ray is not installed, when no cluster is at the address, or when it refuses the token.
    """
    set_up(ALWAYS | (CONNECTING if address else LOCAL))
    if address:
        check_address(address, DEADLINE_S)
    ray = import_ray()
    try:
        if address:
            connect(ray, address)
        else:
            start(ray)
        yield ray
    finally:
        ray.shutdown()


def start(ray: ModuleType) -> None:
    """A local cluster, with a token that is gone with it. Raises a UsageError if Ray does not get it to run."""
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for left in reversed(range(STARTS)):
        try:
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray has no class for it
            ray.shutdown()
            if not left:
                raise UsageError(
                    f"a local Ray cluster did not start: {first_line(error)} Its logs are in the newest session of "
                    "Ray's temporary folder (/tmp/ray); without Ray, leave --launcher ray out"
                ) from error


def set_up(defaults: Mapping[str, str]) -> None:
    """Environment variables that are not set yet."""
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def import_ray() -> ModuleType:
    """Ray with Ray Train. Raises a UsageError with the command that installs it."""
    try:
        import ray
        import ray.train.torch
    except ImportError as error:
        raise UsageError(
            f"--launcher ray needs Ray Train ({first_line(error)}); install it with pip install 'sieverl[ray]'"
        ) from error
    return ray


def check_address(address: str, deadline_s: float) -> None:
    """Whether something listens there. Raises a UsageError after the deadline; Ray itself would try for 20 minutes."""
    if "://" in address:
        raise UsageError(
            f"--address {address} would run from outside the cluster; start the command on a node of it, such as with "
            "ray job submit -- sieverl train ... --launcher ray --address auto"
        )
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--address is {address!r}; it takes HOST:PORT (Ray's own port is 6379) or auto")
    until = time.monotonic() + deadline_s
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=deadline_s).close()
            return
        except OSError as error:
            left = until - time.monotonic()
            if left <= 0 or isinstance(error, ConnectionRefusedError | socket.gaierror):
                raise not_there(address, str(error)) from error
            time.sleep(min(1.0, left))


def not_there(address: str, why: str) -> UsageError:
    """What to do about it."""
    return UsageError(
        f"no Ray cluster answers at {address} ({why}); start one with ray start --head, or leave --address out for a "
        "local one"
    )


def connect(ray: ModuleType, address: str) -> None:
    """Join the cluster at `address`."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ray.exceptions.AuthenticationError as error:
        raise UsageError(
            f"the Ray cluster at {address} asks for a token: {first_line(error)} Set RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to that of the cluster (ray get-auth-token there), or RAY_AUTH_MODE=disabled for one "
            "without"
        ) from error
    except Exception as error:  # Ray has no class for it: a ConnectionError, RuntimeError or a plain Exception
        raise not_there(address, f"{first_line(error)}; is it a Ray cluster, of the same version and token?") from error


def wait_for_room(ray: ModuleType, workers: int, each: Mapping[str, float], deadline_s: float) -> None:
    """Wait until the cluster has `workers` times what `each` needs. Raises a UsageError with the arithmetic.

    A cluster of another's may grow, or end what runs there; nodes join it one after the other.
    """
    until = time.monotonic() + deadline_s
    while short := too_few(workers, each, ray.available_resources(), ray.cluster_resources()):
        if time.monotonic() > until:
            raise UsageError(f"{short}; use fewer --workers, or more nodes (waited {deadline_s:.0f} s)")
        time.sleep(0.5)


def too_few(workers: int, each: Mapping[str, float], free: Mapping[str, float], has: Mapping[str, float]) -> str:
    """What is missing, or an empty string.

    >>> too_few(4, {"CPU": 2}, {"CPU": 3.0}, {"CPU": 6.0})
    '--workers 4 need 4 x 2 = 8 CPU, and the cluster has 6, of which 3 are free'
    >>> too_few(3, {"CPU": 1}, {"CPU": 3.0}, {"CPU": 6.0})
    ''
    """
    for name, one in each.items():
        if workers * one > free.get(name, 0.0):
            return (
                f"--workers {workers} need {workers} x {one:g} = {workers * one:g} {name}, and the cluster has "
                f"{has.get(name, 0.0):g}, of which {free.get(name, 0.0):g} are free"
            )
    return ""
