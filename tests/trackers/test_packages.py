"""What TensorBoard, W&B offline, Trackio and MLflow hold after two starts of a run, read back with their own means."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saved_runs import make_run

from sieverl.recipe import Trackers
from sieverl.run_dir.metrics import MetricsLog
from sieverl.trackers import Tracking, chosen

# what these packages warn of is theirs
pytestmark = pytest.mark.filterwarnings("ignore")
SECRET = "5ecre7" * 7  # a key of W&B has at least 40 characters


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of three steps in an empty working directory, with a secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    return make_run(tmp_path)


def start(run: Path, name: str, *new: int) -> list[str]:
    """A start of the run that goes on from step 2 and makes the `new` ones; what is said."""
    log = MetricsLog(run / "metrics.jsonl")
    if new:
        log.rewind(2)
    for step in new:
        log.append({"step": step, "reward/accuracy": step / 10})
    said: list[str] = []
    settings = Trackers(use=(name,), project="sums", groups_every=3, groups=2, timeout_s=300)
    with Tracking(chosen(settings), run, settings, said.append):
        pass
    return said


def twice(run: Path, name: str) -> list[str]:
    """Steps 0 to 3, then a start from the checkpoint of step 2, which the tracker is ahead of: steps 3 to 5."""
    said = [*start(run, name), *start(run, name, 3, 4, 5)]
    assert not [text for text in said if "failed" in text or "did not" in text], said
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()], "the key is in a file"
    return said


ACCURACY = {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.4, 5: 0.5}  # step 3 as it was first


def test_tensorboard(run: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert "tensorboard --logdir" in twice(run, "tensorboard")[0]
    events = EventAccumulator(str(run / "tensorboard"), {"scalars": 0, "histograms": 0, "tensors": 0})
    events.Reload()
    found = [(event.step, pytest.approx(event.value)) for event in events.Scalars("reward/accuracy")]
    assert found == list(ACCURACY.items())
    assert [event.step for event in events.Scalars("eval/demo/avg@4")] == [0, 3]
    assert [event.step for event in events.Histograms("responses/reward")] == [1, 3]
    groups = events.Tensors("groups/text_summary")
    assert [event.step for event in groups] == [1, 3]
    text = groups[0].tensor_proto.string_val[0].decode()
    assert "    group 0: 0 + 1 = ?" in text
    assert all(line.startswith("    ") for line in text.splitlines()), "shown as it is, not as Markdown"
    recipe = events.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert 'algorithm = "reinforce_rej"' in recipe


def records(file: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: a LevelDB log of protobuf messages after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def test_wandb_offline(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert "wandb sync" in twice(run, "wandb")[0]
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    starts = [list(records(file)) for file in files]
    rows = []
    for found in starts:
        for record in found:
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append({key: json.loads(value) for key, value in items.items()})
    assert [row["_step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert {row["_step"]: row["reward/accuracy"] for row in rows if "reward/accuracy" in row} == ACCURACY
    assert [row["_step"] for row in rows if row.get("responses/reward/_type") == "histogram"] == [1, 3]
    assert [row["_step"] for row in rows if row.get("groups/_type") == "table-file"] == [1, 3]
    made = [record.run for found in starts for record in found if record.HasField("run")]
    assert len({one.run_id for one in made}) == 1
    assert {(one.project, one.display_name) for one in made} == {("sums", "one")}
    config = {item.key: item.value_json for item in made[0].config.update}
    assert config["algorithm"] == '"reinforce_rej"'
    ends = [record.exit.exit_code for found in starts for record in found if record.HasField("exit")]
    assert ends == [0, 0]


def test_trackio(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(run.parent / "trackio"))
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    assert twice(run, "trackio")[0] == "trackio: trackio show --project sums"
    assert capsys.readouterr().out == "", "standard output is the run's"
    (name,) = SQLiteStorage.get_runs("sums")
    assert name.startswith("one-")
    rows = SQLiteStorage.get_logs("sums", name)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert {row["step"]: row["reward/accuracy"] for row in rows if "reward/accuracy" in row} == ACCURACY
    assert [row["step"] for row in rows if "groups" in row and "responses/reward" in row] == [1, 3]
    assert SQLiteStorage.get_run_config("sums", name)["algorithm"] == "reinforce_rej"


@pytest.mark.slow  # MLflow takes its time to be imported
def test_mlflow(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    uri = f"sqlite:///{run.parent}/m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    twice(run, "mlflow")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("sums")
    (one,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(one.info.run_id, "reward/accuracy")
    assert {point.step: point.value for point in history} == ACCURACY
    assert len(history) == len(ACCURACY), "no step twice"
    assert one.data.metrics["eval/demo/avg_at_4"] == pytest.approx(0.55)
    assert one.data.metrics["responses/reward/p50"] == 0.5
    assert one.data.params["algorithm"] == "reinforce_rej"
    assert one.data.params["rollout.samples"] == "4"
    assert (one.info.run_name, one.info.status) == ("one", "FINISHED")
    tables = client.list_artifacts(one.info.run_id, "groups")
    assert [file.path for file in tables] == ["groups/step-000001.json", "groups/step-000003.json"]
