"""Training runs through main(): exact resumption, distillation, refused input, logs, checkpoints."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from bnext_jax.config import DataConfig
from bnext_jax.data import pipeline, splits
from bnext_jax.errors import UserError
from bnext_jax.io import checkpoint
from bnext_jax.io.logs import read_metrics
from bnext_jax.training import memory, records
from tests.helpers.checkpoints import saved_state

STEPS = 44  # two epochs of 1437 // 64 = 22 batches


@pytest.fixture(scope="module")
def words(digits):
    """The flags that all command lines of these tests share."""
    return [f"--config.data.directory={digits}", "--config.tensorboard=False"]


@pytest.fixture
def train(run, words):
    """train(form, workdir, words...): trains and returns (exit code, result, standard error)."""

    def call(form, workdir, *more):
        name = "digits_teacher" if form == "teacher" else "digits_student"
        form = "smoke" if form == "teacher" else form
        return run("train", f"--config=configs/{name}.py:{form}", f"--workdir={workdir}", *words, *more)

    return call


@pytest.fixture(scope="module")
def whole(digits, words, tmp_path_factory):
    """A finished smoke run: (work directory, result)."""
    import io

    from bnext_jax import cli as program

    folder, out = tmp_path_factory.mktemp("runs") / "whole", io.StringIO()
    relative = os.path.relpath(folder)  # users often type relative paths
    arguments = ["main.py", "train", "--config=configs/digits_student.py:smoke", f"--workdir={relative}", *words]
    assert program.main(arguments, out) == 0
    return folder, json.loads(out.getvalue())


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_a_run_stopped_twice_inside_epochs_ends_bit_for_bit_as_the_whole_run(train, whole, tmp_path):
    for stop in (10, 30, 0):
        code, result, _ = train("smoke", tmp_path / "run", f"--config.stop_at_step={stop}")
        assert code == 0 and result["steps"] == (stop or STEPS) and result["finished"] == (not stop)
    (step, ours), (whole_step, theirs) = saved_state(tmp_path / "run"), saved_state(whole[0])
    assert step == whole_step == STEPS and ours.keys() == theirs.keys() and len(ours) > 200
    for key in ours:
        assert ours[key].tobytes() == theirs[key].tobytes(), key
    assert {k: result[k] for k in ("top1", "top5", "loss", "binary")} == {k: whole[1][k] for k in ("top1", "top5", "loss", "binary")}


def test_a_short_run_ends_with_exactly_binary_weights_and_reports_it(whole):
    workdir, result = whole
    assert result["binary"] is True and result["temperature"] == 0 and result["examples"] == 360
    last = read_metrics(workdir)[-1]
    assert last["binary_share"] == 1 and 0 < last["flip_ratio"] < 1
    model, metadata = checkpoint.load_network(workdir)
    assert float(model.temperature[...]) == metadata["temperature"] == 0


def test_each_epoch_logs_all_metrics(whole):
    lines = read_metrics(whole[0])
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 22), (2, 44)]
    for key in ("train_loss", "train_top1", "test_top1", "learning_rate", "temperature", "images_per_second", "data_wait_seconds"):
        assert all(key in line for line in lines), key
    assert lines[0]["learning_rate"] == pytest.approx(1e-3)  # the first epoch of the warm-up
    assert lines[0]["temperature"] == 1


def test_all_parameters_are_listed_in_the_work_directory(whole):
    lines = (whole[0] / "parameters.txt").read_text().splitlines()
    row = next(line for line in lines if "blocks/1/unit3x3/conv/kernel" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == ["(3, 3, 8, 8)", "float32", "576"]
    listed = sum(int(line.strip("|").split("|")[-1].replace(",", "")) for line in lines if line.startswith("| ") and "Size" not in line)
    assert lines[-1] == f"Total: {listed:,} -- {4 * listed:,} bytes"


def test_a_checkpoint_describes_its_network_classes_and_preprocessing(whole):
    described = checkpoint.describe(whole[0])
    assert described["model"] == {"name": "bnext", "num_classes": 10, "arguments": {"widths": [8, 8, 16, 16]}}
    assert (described["step"], described["epoch"], described["temperature"]) == (STEPS, 2, 0)
    assert described["class_names"] == list("0123456789")
    assert described["preprocessing"]["image_shape"] == [16, 16, 3] and described["preprocessing"]["orientation"] == "upright"


def test_evaluate_needs_only_the_work_directory_and_repeats_trains_results(run, whole):
    code, result, _ = run("evaluate", f"--checkpoint={whole[0]}")
    assert code == 0
    assert {k: result[k] for k in ("top1", "top5", "loss", "examples", "binary")} == {
        k: whole[1][k] for k in ("top1", "top5", "loss", "examples", "binary")
    }
    assert result["precision"] == "float32" and result["step"] == STEPS


def test_evaluate_refuses_a_dataset_with_other_classes(run, whole, monkeypatch):
    other = splits.Source("animals", "test", [], ("cat", "dog"))
    monkeypatch.setattr(splits, "open_source", lambda data, split: other)
    code, _, error = run("evaluate", f"--checkpoint={whole[0]}")
    assert code == 2 and "was trained on 10 classes, which are not the 2 classes of digits" in error


def test_norms_layer_statistics_and_a_profile_are_recorded_on_request(train, tmp_path):
    words = ["--config.watch_layers=True", "--config.profile_at_step=2", "--config.stop_at_step=8"]
    assert train("smoke", tmp_path / "run", *words)[0] == 0
    (line,) = read_metrics(tmp_path / "run")
    groups = ("latent", "weights", "rest")
    assert np.hypot.reduce([line[f"grad_norm/{group}"] for group in groups]) == pytest.approx(line["grad_norm"], rel=1e-5)
    assert all(0 < line[f"update_norm/{group}"] < line[f"param_norm/{group}"] for group in groups)
    sizes = {"blocks/0/unit3x3": 9 * 64, "blocks/0/units1x1/0": 64, "blocks/1/unit3x3": 9 * 64, "blocks/1/units1x1/0": 64,
             "blocks/1/units1x1/1": 64, "blocks/2/unit3x3": 9 * 256, "blocks/2/units1x1/0": 256}  # fmt: skip
    flipped = sum(size * line[f"flip_ratio/{name}/conv"] for name, size in sizes.items())
    assert flipped / sum(sizes.values()) == pytest.approx(line["flip_ratio"])
    assert all(0.3 < line[f"plus_share/{name}/conv"] < 0.7 for name in sizes)  # weights are drawn around zero
    assert line["step_seconds"] > 0 and line["compile_seconds"] > 0 and line["evaluation_seconds"] > 0
    assert list((tmp_path / "run/profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_a_student_also_trains_in_bfloat16_with_float32_weights(train, tmp_path, precision):
    code, result, _ = train("smoke", tmp_path / "run", f"--config.precision={precision}", "--config.stop_at_step=22")
    assert code == 0 and np.isfinite(result["loss"])
    model, metadata = checkpoint.load_network(tmp_path / "run")
    assert metadata["precision"] == precision and model.classifier.kernel[...].dtype == np.float32
    assert read_metrics(tmp_path / "run")[-1]["train_top1"] > 15  # chance is 10 %


def test_count_takes_a_work_directory(run, whole):
    code, result, _ = run("count", f"--checkpoint={whole[0]}")
    # each block has one 3x3 unit and one, two and one 1x1 units, with 8, 8 and 16 channels
    assert code == 0 and result["bnext"]["binary_weights"] == (9 + 1) * 64 + (9 + 2) * 64 + (9 + 1) * 256


def test_a_student_learns_from_two_teachers_and_the_step_compiles_once(train, tmp_path, monkeypatch):
    for role, extra in (("main", ()), ("assistant", ("--config.seed=5",))):
        code, result, _ = train("teacher", tmp_path / role, *extra)
        assert code == 0 and result["binary"] is False
    compiled = []
    compile_within = memory.compile_within
    monkeypatch.setattr(memory, "compile_within", lambda *args: compiled.append(compile_within(*args)) or compiled[-1])
    distilled = [f"--config.distill.main={tmp_path / 'main'}", f"--config.distill.assistants=('{tmp_path / 'assistant'}',)"]
    code, result, _ = train("smoke", tmp_path / "student", *distilled)
    assert code == 0 and result["binary"] is True
    assert len(compiled) == 1  # a step that is compiled ahead of time never compiles again
    first, last = read_metrics(tmp_path / "student")
    # Half the weighted cross-entropies with two teachers over ten classes: at most (ln 10) / 2 plus half the distance to the teachers.
    assert last["train_loss"] < first["train_loss"] < 2.0


def test_the_assistant_changes_at_its_epoch(train, tmp_path, monkeypatch):
    from bnext_jax.distill import schedule

    for role in ("a", "b"):
        assert train("teacher", tmp_path / role, "--config.stop_at_step=1", f"--config.seed={ord(role)}")[0] == 0
    appointed, held = [], []
    update = schedule.TeacherSchedule.update

    def noted(self, epoch):
        changed = update(self, epoch)
        appointed.append(self._roles)
        held.extend((role, array) for role, arrays in self.variables.items() for array in arrays.values())
        return changed

    monkeypatch.setattr(schedule.TeacherSchedule, "update", noted)
    distilled = [f"--config.distill.main={tmp_path / 'a'}", f"--config.distill.assistants=('{tmp_path / 'b'}','{tmp_path / 'a'}')"]
    assert train("smoke", tmp_path / "student", *distilled)[0] == 0
    assert appointed == [{"main": str(tmp_path / "a"), "assistant": str(tmp_path / "b")}, {"main": str(tmp_path / "a")}]
    assert {role for role, array in held if array.is_deleted()} == {"assistant"}  # the assistant's memory is freed
    first, second = read_metrics(tmp_path / "student")
    assert {"train_top1/main", "train_top1/assistant"} <= first.keys() and "train_top1/assistant" not in second


def test_a_nan_stops_the_run_names_the_step_and_keeps_the_last_good_checkpoint(train, digits, tmp_path, monkeypatch):
    assert train("smoke", tmp_path / "run", "--config.stop_at_step=10")[0] == 0
    compile_within = memory.compile_within

    def diverging(*arguments):
        step = compile_within(*arguments)

        def call(state, *rest):
            broken = np.nan if int(state["step"]) == 13 else 1
            return step({**state, "params": jax.tree.map(lambda x: x * broken, state["params"])}, *rest)

        return call

    monkeypatch.setattr(memory, "compile_within", diverging)
    code, result, error = train("smoke", tmp_path / "run", "--config.checkpoint.every_steps=1")
    assert code == 2 and result is None
    assert "not finite at step 13" in error.strip().splitlines()[-1] and "not_finite.json" in error.strip().splitlines()[-1]
    assert checkpoint.committed_steps(tmp_path / "run")[-1] == 13  # steps 0 to 12 are saved; the save after step 13 waits for its loss
    noted = json.loads((tmp_path / "run/not_finite.json").read_text())
    source = splits.open_source(DataConfig(directory=digits), "train")
    batches = pipeline.TrainBatches(source, "resize(16)", batch_size=64, epochs=2, rows=range(64), seed=0)
    assert (noted["step"], noted["epoch"], noted["images"]) == (13, 0, batches.image_indices(13)[1])
    monkeypatch.undo()
    assert np.isfinite(train("smoke", tmp_path / "run", "--config.stop_at_step=14")[1]["loss"])


def test_a_truncated_checkpoint_is_skipped_and_written_again(train, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    data = max((tmp_path / "run/checkpoints/44/network").rglob("d/*"), key=lambda p: p.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert checkpoint.describe(tmp_path / "run")["step"] == 44  # the description is whole, the arrays are not
    _model, metadata = checkpoint.load_network(tmp_path / "run")
    assert metadata["step"] == 22
    code, result, _ = train("smoke", tmp_path / "run")
    assert code == 0 and result["steps"] == STEPS and result["top1"] == whole[1]["top1"]
    assert checkpoint.load_network(tmp_path / "run")[1] == checkpoint.load_network(whole[0])[1]  # the run wrote checkpoint 44 again


def cut_copy(whole, folder, name):
    """Copies the whole run and truncates one file of checkpoint 44 to ten bytes. Returns the path of the file."""
    shutil.copytree(whole[0], folder)
    path = folder / "checkpoints/44" / name
    path.write_bytes(path.read_bytes()[:10])
    return path


def test_a_checkpoint_without_its_description_is_skipped(run, whole, tmp_path, caplog):
    cut_copy(whole, tmp_path / "run", "_CHECKPOINT_METADATA")
    assert checkpoint.describe(tmp_path / "run")["step"] == checkpoint.load_network(tmp_path / "run")[1]["step"] == 22
    assert run("count", f"--checkpoint={tmp_path / 'run'}")[0] == 0
    assert "checkpoint 44" in caplog.text and "the description in" in caplog.text


def test_an_unreadable_top1_of_a_checkpoint_does_not_stop_a_run(train, whole, tmp_path, caplog):
    path = cut_copy(whole, tmp_path / "run", "metrics/metrics")
    code, result, _ = train("smoke", tmp_path / "run")
    assert code == 0 and result["steps"] == STEPS and result["top1"] == whole[1]["top1"]
    assert f"{path} is damaged and removed" in caplog.text and not path.exists()


def test_logs_that_cannot_be_written_are_reported(tmp_path):
    writer = records.Writer(tmp_path, 0, tensorboard=False)
    writer.write(1, {"loss": 2.5})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"the log .* cannot be written: .*is a directory; free space or choose another --workdir"):
        writer.write(2, {"loss": 2.0})


def test_a_checkpoint_with_a_flipped_bit_is_skipped_with_a_warning(whole, tmp_path, caplog):
    shutil.copytree(whole[0], tmp_path / "run")
    (data,) = (tmp_path / "run/checkpoints/44/network/ocdbt.process_0/d").iterdir()
    content = bytearray(data.read_bytes())
    content[len(content) // 4] ^= 1  # not in the index at the end, which has its own checksum
    data.write_bytes(content)
    assert checkpoint.load_network(tmp_path / "run")[1]["step"] == 22
    assert "has changed since it was saved (sha256 differs)" in caplog.text


def test_the_checkpoints_of_a_run_in_a_bucket_are_in_the_bucket():
    assert str(checkpoint.checkpoints_folder("gs://bucket/runs/tiny")) == "gs://bucket/runs/tiny/checkpoints"


def test_the_digest_changes_with_one_bit_one_key_one_type_or_one_shape():
    tree = {"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 2), np.float32)}
    flipped = {**tree, "a": (tree["a"].view(np.uint32) ^ np.array([0, 0, 0, 1, 0, 0], np.uint32)).view(np.float32)}
    others = [flipped, {"a": tree["a"], "c": tree["b"]}, {**tree, "b": tree["b"].astype(np.float64)}, {**tree, "b": tree["b"].reshape(4)}]
    assert checkpoint.digest(tree) == checkpoint.digest({k: v.copy() for k, v in tree.items()})
    assert len({checkpoint.digest(t) for t in (tree, *others)}) == 5
