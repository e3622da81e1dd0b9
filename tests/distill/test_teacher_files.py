"""Teachers given by tag and file, fine-tuning from a file, and downloads from a local server that stands in for the hub."""

import hashlib
import http.server
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from bnext_jax.config import DataConfig
from bnext_jax.distill import roster
from bnext_jax.distill.schedule import read
from bnext_jax.errors import UserError
from bnext_jax.io.load import load
from bnext_jax.io.names.recognise import timm_names
from bnext_jax.io.torch import torch_files
from bnext_jax.io.torch.state_dict import to_state_dict
from bnext_jax.models.table import create_model
from bnext_jax.nn.network import split
from bnext_jax.training import run as run_module
from bnext_jax.training.init import start_from
from tests.helpers.commands import ROOT, SMOKE, refused, result_of
from tests.helpers.torch_tools import WIDTHS, drawn, save_bare, save_training

B0, LITE0 = "efficientnet_b0.ra_in1k", "tf_efficientnet_lite0.in1k"


@pytest.fixture
def student(run, digits, tmp_path):
    """student(words...): starts a smoke run with these flags."""
    shared = [SMOKE, f"--workdir={tmp_path / 'run'}", f"--config.data.directory={digits}", "--config.tensorboard=False"]
    return lambda *words: run("train", *shared, *words)


def noted(path):
    """Writes the checksum of a file beside it, in the format of sha256sum. Returns the path of the file."""
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{checksum}  {path.name}\n")
    return path


def test_a_teacher_file_is_checked_before_the_student_is_created(student, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "create_model", None)  # creating the student would fail
    plain = save_bare(tmp_path / "plain.pth", drawn())
    known = noted(save_bare(tmp_path / "known.pth", drawn()))
    other = noted(save_bare(tmp_path / "other.pth", drawn(classes=7)))
    packaged = roster.packaged("tf_efficientnet_lite0")
    for word, parts in {
        f"{B0}={tmp_path / 'absent.pth'}": ("absent.pth of teacher efficientnet_b0.ra_in1k does not exist", f"--source={B0}"),
        f"{tmp_path / 'absent.pth'}": ("absent.pth does not exist",),
        f"resnet50={plain}": ("there is no teacher 'resnet50'; one of: efficientnet_b0.ra_in1k",),
        f"{B0}={plain}": ("its sha256 is", "not 3dd342df"),
        f"convnext_tiny.fb_in1k={plain}": ("no checksum is known", "sha256sum"),
        f"{B0}={known}": ("holds bnext, not the efficientnet_b0 of teacher",),
        f"{other}": ("knows 7 classes, the dataset has 10",),
        f"{LITE0}={packaged}": ("knows 1000 classes, the dataset has 10",),
    }.items():
        refused(student(f"--config.distill.main={word}"), *parts)
    known.write_bytes(known.read_bytes() + b"x")
    refused(student(f"--config.distill.main={B0}={known}"), "is not the file of teacher")
    refused(student(f"--config.distill.main={known}"), "known.pth has sha256", "known.pth.sha256 says")
    refused(student(f"--config.distill.main={B0}={tmp_path}"), "is a work directory, which has no checksum")
    assert not list((tmp_path / "run/checkpoints").glob("*"))


def test_a_resnet_of_torchvision_teaches_by_its_tag(student, tmp_path):
    model = create_model("resnet18", 10, widths=(4, 4, 8, 8), rngs=nnx.Rngs(0))
    path = save_bare(tmp_path / "r18.pth", to_state_dict(model))  # says nothing of itself
    refused(student(f"--config.distill.main=resnet34.tv_in1k={path}"), "is not the file of teacher resnet34.tv_in1k", "not b627a593")
    refused(student(f"--config.distill.main={path}"), "r18.pth: the file has the names of a ResNet-18", "--model=resnet18 (of convert)")
    noted(path)
    refused(student(f"--config.distill.main=resnet34.tv_in1k={path}"), "holds resnet18, not the resnet34 of teacher resnet34.tv_in1k")
    teacher, variables = read(f"resnet18.tv_in1k={path}", DataConfig(), [str(digit) for digit in range(10)])
    assert teacher.has_taps and variables["classifier/kernel"].shape == (8, 10)
    np.testing.assert_array_equal(variables["conv/kernel"], model.conv.kernel[...])


def test_a_pytorch_file_teaches_and_its_own_top1_is_reported_first(student, run, digits, tmp_path, caplog):
    teacher = save_training(tmp_path / "teacher.pth.tar", drawn())
    code, result, _ = student(f"--config.distill.main={teacher}", "--config.distill.measure=True", "--config.stop_at_step=1")
    assert code == 0 and np.isfinite(result["loss"])
    told = re.search(r"teacher \S+teacher.pth.tar: test top-1 ([\d.]+) %", caplog.text)
    own = run("evaluate", f"--checkpoint={teacher}", SMOKE, f"--config.data.directory={digits}")[1]
    assert told and float(told[1]) == pytest.approx(own["top1"], abs=0.005)


def fresh(classes, **arguments):
    """(description, params, batch_stats) of a network with random weights."""
    arguments = {"widths": WIDTHS, **arguments}
    model = create_model("bnext", classes, rngs=nnx.Rngs(3), **arguments)
    return {"name": "bnext", "num_classes": classes, "arguments": arguments}, *split(model, training=True)[1:]


@pytest.mark.parametrize("classes", [10, 7])
def test_fine_tuning_takes_all_weights_except_a_classifier_of_other_classes(tmp_path, classes):
    path = save_bare(tmp_path / "a.pth", drawn())
    described, params, batch_stats = fresh(classes)
    if classes != 10:
        with pytest.raises(UserError, match=r"knows 10 classes, the dataset has 7; --config.init_new_head=True starts with a fresh"):
            start_from(path, described, params, batch_stats)
    started, statistics = start_from(path, described, params, batch_stats, new_head=True)
    assert started.keys() == params.keys() and statistics.keys() == batch_stats.keys()
    _, trained, trained_statistics = split(load(path)[0], training=False)
    for key in params:
        expected = params if classes != 10 and key.startswith("classifier/") else trained
        np.testing.assert_array_equal(started[key], expected[key], err_msg=key)
    for key in batch_stats:
        np.testing.assert_array_equal(statistics[key], trained_statistics[key])


def test_fine_tuning_refuses_another_network_and_takes_the_weights_of_the_same(student, digits, tmp_path):
    from configs.digits_student import get_config

    path = save_bare(tmp_path / "a.pth", drawn())
    words = "holds a network with widths (8, 8, 16, 16) (config.model: (8, 8, 16, 32))"
    refused(student(f"--config.init={path}", "--config.model.widths=(8,8,16,32)"), words)
    config = get_config("smoke")
    config.init, config.data.directory = str(path), digits
    run = run_module.Run(config.check(), tmp_path / "run")
    np.testing.assert_array_equal(run.state["params"]["classifier/kernel"], drawn()["fc.weight"].T)


def test_fine_tuning_refuses_differences_that_tensor_shapes_do_not_show(tmp_path):
    thousand = save_bare(tmp_path / "a.pth", drawn(classes=1000))  # with 1000 classes the stem has stride 2
    for differing in ({"elm_attention": False, "stem_stride": 2}, {}):
        with pytest.raises(UserError, match=r"holds a network with (elm_attention True|stem_stride 2) \(config.model: (False|1)\)"):
            start_from(thousand, *fresh(10, **differing), new_head=True)
    params, _ = start_from(thousand, *fresh(10, stem_stride=2), new_head=True)
    np.testing.assert_array_equal(params["prelu/slope"], drawn(classes=1000)["prelu.weight"])


@pytest.fixture
def hub(tmp_path):
    """A server with the hub's paths and headers for Lite0's safetensors file. Yields (address, path of the file, {"etag": sha256})."""
    served = tmp_path / "served.safetensors"
    tensors = timm_names(torch_files.read(roster.packaged("tf_efficientnet_lite0")).tensors)
    torch_files.write(served, tensors, epoch=0, temperature=None, described=None)
    announced = {"etag": hashlib.sha256(served.read_bytes()).hexdigest()}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            found = self.path == f"/timm/{LITE0}/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("ETag", f'"{announced["etag"]}"')
            self.send_header("X-Repo-Commit", "a" * 40)
            self.send_header("Content-Length", str(served.stat().st_size if found else 0))
            self.end_headers()
            return found

        def do_GET(self):
            if self.do_HEAD():
                self.wfile.write(served.read_bytes())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", served, announced
        server.shutdown()
        thread.join()


def fetched(address, tag, output):
    """Runs `convert --source=TAG --output=FILE` as a process, with the server at `address` as the hub."""
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(output.parent / "cache"), "HF_HUB_DISABLE_XET": "1"}
    words = [sys.executable, "main.py", "convert", f"--source={tag}", f"--output={output}"]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_a_teacher_is_fetched_from_the_hub_by_its_tag_with_its_checksum(hub, tmp_path):
    address, served, announced = hub
    output = tmp_path / "lite0.safetensors"
    assert result_of(fetched(address, LITE0, output))["model"] == "tf_efficientnet_lite0"
    assert output.read_bytes() == served.read_bytes()
    roster.check_file(LITE0, output)  # uses the checksum file beside it
    announced["etag"] = "0" * 64
    done = fetched(address, LITE0, tmp_path / "again.safetensors")
    assert done.returncode == 2 and f"arrived with sha256 {hashlib.sha256(served.read_bytes()).hexdigest()}" in done.stderr
    assert not list(tmp_path.glob("again*"))


def test_a_downloaded_file_of_another_network_is_refused_and_removed(run, tmp_path, monkeypatch):
    def fetch(tag, target):
        noted(save_file(drawn(), target) or pathlib.Path(target))

    monkeypatch.setattr(roster, "fetch", fetch)
    words = ["convert", f"--source={B0}", f"--output={tmp_path / 'b0.safetensors'}"]
    refused(run(*words), "b0.safetensors holds bnext (10 classes), not efficientnet_b0")
    refused(run(*words, "--gate_bits=8"), "leave --model, --gate_bits and --weights out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "b0.safetensors.sha256").write_text("mine")
    refused(run(*words), "b0.safetensors.sha256 exists; remove it")
    assert (tmp_path / "b0.safetensors.sha256").read_text() == "mine"


def test_an_unreachable_hub_gives_a_message_with_the_file_to_provide(tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", offline)
    with pytest.raises(
        UserError, match=r"could not be fetched from the hub \(no route to host\); give the path of efficientnet_b0_ra-3dd342df.pth"
    ):
        roster.fetch(B0, tmp_path / "b0.safetensors")
    assert list(tmp_path.iterdir()) == []
