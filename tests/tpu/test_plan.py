"""`plan`: programs compiled for TPUs that are not here, the numbers that follow from them, refused input."""

import dataclasses
import json
import math
import re

import pytest

from bnext_jax.commands import plan
from bnext_jax.config import Config, DataConfig, DistillConfig, ModelConfig
from bnext_jax.errors import UserError
from bnext_jax.tpu import abstract, aot
from bnext_jax.tpu.collectives import each_collective
from bnext_jax.tpu.traffic import hbm_bytes
from tests.helpers.commands import ROOT, command, refused


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keeps the cached results of each test in a temporary folder."""
    monkeypatch.setenv("BNEXT_CACHE", str(tmp_path / "cache"))


def narrow(**changes):
    """A config with one block and one real-valued teacher, given by its tag, on CIFAR-10."""
    config = Config(
        model=ModelConfig(name="bnext", widths=(8, 16)),
        data=DataConfig(name="cifar10", train_transform="pad_crop(4)|flip"),
        distill=DistillConfig(main="convnext_tiny.fb_in1k=nowhere.safetensors"),
        epochs=2, batch_size=32, eval_batch_size=32, batch_norm_group=8,
    )  # fmt: skip
    return dataclasses.replace(config, **changes).check()


@pytest.fixture
def small_teacher(monkeypatch):
    """Replaces the teacher of the roster by a narrow network. The tests need a teacher in the step, but not its size."""
    made = abstract.abstract_model

    def narrower(name, classes, **arguments):
        if name == "convnext_tiny":
            return made("convnext", classes, widths=(8,), depths=(1,), patch=4)
        return made(name, classes, **arguments)

    monkeypatch.setattr(abstract, "abstract_model", narrower)


# batch-norm groups lie on one chip, so only gradients are all-reduced: once for each type in which gradients are computed
@pytest.mark.parametrize(("topology", "precision", "pieces"), [("v5e:2x2", "auto", 2), ("v6e:2x2", "float32", 1)])
def test_a_distillation_step_has_one_all_reduce_for_all_gradients_of_a_type(topology, precision, pieces, small_teacher):
    config = narrow(precision=precision)
    found = plan.plan(config, [topology], quick=True)
    verdict = found["topologies"][topology]
    assert "exit_code" not in found and verdict["fits"] and (verdict["chips"], verdict["hosts"]) == (4, 1)
    assert verdict["teachers"] == ["convnext_tiny"]
    train = verdict["train"]
    assert train["gradient_all_reduces"] == pieces
    # with effort -1 the program keeps nothing in VMEM between operations, so hbm_bytes equals the compiler's count
    assert math.isclose(train["hbm_bytes"], train["bytes_accessed"], rel_tol=0.02)
    # a lower bound in bytes: 8 * 16 parameters and their two moments in float32
    student = 4 * 3 * 8 * 16
    assert train["peak"] > train["arguments"] > student and train["flops"] > 0 and train["cached"] is False
    assert plan.plan(config, [topology], quick=True)["topologies"][topology]["train"] == {**train, "cached": True}


def test_a_batch_that_is_too_large_gives_exit_code_3_and_both_sizes():
    words = [
        "plan", "--config=configs/cifar10_bnext18.py", "--config.model.name=bnext", "--config.model.widths=(8,16)", "--topology=v5e:2x2",
        f"--config.batch_size={4 * 200_000}", "--config.batch_norm_group=200000", "--config.eval_batch_size=4", "--quick",
    ]  # fmt: skip
    done = command(*words)
    assert done.returncode == 3 and len(done.stdout.splitlines()) == 1, done.stderr
    train = json.loads(done.stdout)["topologies"]["v5e:2x2"]["train"]
    assert train["fits"] is False and re.search(r"[0-9.]+G\b.*[0-9.]+G\b", train["told"])
    assert "does not fit" in done.stderr and f"v5e:2x2, train: {train['told']}" in done.stderr and "INVALID_ARGUMENT" not in done.stderr


def test_lower_bounds_follow_from_the_published_peaks():
    found = {"flops": 197e12, "hbm_bytes": 2 * 819e9}
    assert aot.bounds(found, aot.CHIPS["v5e"]) == {"flops_seconds": 1.0, "bytes_seconds": 2.0, "limit": "memory bandwidth", "seconds": 2.0}
    found = {"flops": 3 * 137.5e12, "hbm_bytes": 614e9}  # the two cores of a v4 chip share its peaks
    assert aot.bounds(found, aot.CHIPS["v4"], 2) == {"flops_seconds": 3.0, "bytes_seconds": 1.0, "limit": "arithmetic", "seconds": 3.0}


def test_hours_and_rates_follow_from_the_bound(monkeypatch):
    """An invented dataset: 2,000,000 images per epoch in batches of 32. Memory bandwidth limits a step to 10 ms."""
    train = {"fits": True, "flops": 1e9, "bytes_accessed": 9e9, "hbm_bytes": 8.19e9, "peak": 1, "arguments": 1, "temporaries": 0}
    monkeypatch.setattr(aot, "compiled", lambda what, *_: train if "training" in what else {"fits": True})
    monkeypatch.setattr(plan, "CORE_RATE", 500.0)
    known = abstract.Facts(10, 2_000_000, (32, 32, 3), (32, 32, 3))
    config = narrow(distill=DistillConfig())
    found = plan.verdict(config, aot.topology("v5e:2x2"), known, plan.QUICK)
    assert math.isclose(found["images_per_second_at_most"], 3200) and math.isclose(found["images_per_second_per_chip_at_most"], 800)
    assert math.isclose(found["hours_per_epoch_at_least"], 62_500 * 0.01 / 3600) and math.isclose(found["hours_at_least"], 2 * 625 / 3600)
    assert (found["host_images_per_second"], found["host_cores"]) == (3200, 7)
    assert (found["gigaflops_per_image"], found["megabytes_per_image"], found["hbm_megabytes_per_image"]) == (1 / 8, 9000 / 8, 8190 / 8)


def test_the_rate_of_a_core_is_the_measured_rate():
    rates = json.loads((ROOT / "results/input_pipeline.json").read_text())["images_per_second_per_core"].values()
    assert min(quality["grain_workers_randaugment"]["ours"] for quality in rates) == plan.CORE_RATE


def test_collectives_are_read_from_the_program_text():
    text = """
      %all-reduce.1 = (f32[10,3]{1,0:T(8,128)}, bf16[5]{0}) all-reduce(%a, %b), replica_groups={{0,1}}
      %all-gather-start.2 = (f32[2]{0}, f32[4]{0}) all-gather-start(%c)
      %all-gather-done.2 = f32[4]{0} all-gather-done(%all-gather-start.2)
      %all-reduce-start.3 = (f32[7]{0}, f32[]) all-reduce-start(%d, %e)
      %add = f32[3]{0} add(%all-reduce.1, %x)
    """
    assert each_collective(text) == [("all-reduce", 130, 35), ("all-gather", 16, 4), ("all-reduce", 32, 8)]


def test_hbm_bytes_count_whole_tiles_and_leave_out_vmem():
    """The expected bytes, operation by operation.

    - The first copy reads 8x128 bfloat16 (2048 bytes) from HBM once and writes them to VMEM.
    - The fusion reads %big twice, for itself and for its nested fusion. %big is 3x5 float32 in one tile of 8x128 (4096 bytes).
      It reads the first copy from VMEM, which does not count. It writes 4096 bytes.
    - The slice reads 1024 bytes of the fusion's result and writes them to VMEM.
    - The last copy reads 4096 bytes and writes 4096: the other order of axes needs a tile of the same size.
    """
    text = """HloModule made_up
%inner (p: f32[3,5]) -> f32[3,5] {
  %p = f32[3,5]{1,0:T(8,128)} parameter(0)
  ROOT %n = f32[3,5]{1,0:T(8,128)} negate(%p)
}
%fused (p0: f32[3,5], p1: bf16[8,128]) -> f32[3,5] {
  %p0 = f32[3,5]{1,0:T(8,128)} parameter(0)
  %p1 = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  %i = f32[3,5]{1,0:T(8,128)} fusion(%p0), kind=kLoop, calls=%inner
  ROOT %a = f32[3,5]{1,0:T(8,128)} add(%p0, %i)
}
ENTRY %main (small: bf16[8,128], big: f32[3,5]) -> f32[3,5] {
  %small = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %big = f32[3,5]{1,0:T(8,128)} parameter(1)
  %start = (bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, bf16[8,128]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) copy-start(%small)
  %done = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%start)
  %f = f32[3,5]{1,0:T(8,128)} fusion(%big, %done), kind=kLoop, calls=%fused
  %part = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]{:S(2)}) slice-start(%f), slice={[0:2], [0:128]}
  ROOT %c = f32[3,5]{0,1:T(8,128)} copy(%f)
}
"""
    assert hbm_bytes(text) == 2048 + (2 * 4096 + 4096) + 1024 + 2 * 4096


def test_an_accumulated_batch_counts_all_rounds_of_the_loop(monkeypatch):
    """The expected bytes.

    The program: the body of the loop negates 8x128 float32, so it reads 4096 bytes and writes 4096, three times. The negation after the
    loop does so once.
    The plan: a chip computes two pieces of four images per step. The compiler counts one piece (24e9 bytes), hbm_bytes the whole step
    (8.19e9 bytes). So an image takes 24/4 GB by the compiler's count and 8.19/8 GB of HBM traffic.
    """
    text = """HloModule made_up
%body (p: (f32[8,128])) -> (f32[8,128]) {
  %p = (f32[8,128]{1,0:T(8,128)}) parameter(0)
  %g = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=0
  %n = f32[8,128]{1,0:T(8,128)} negate(%g)
  ROOT %t = (f32[8,128]{1,0:T(8,128)}) tuple(%n)
}
ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %t = (f32[8,128]{1,0:T(8,128)}) tuple(%x)
  %w = (f32[8,128]{1,0:T(8,128)}) while(%t), condition=%cond, body=%body
  %g = f32[8,128]{1,0:T(8,128)} get-tuple-element(%w), index=0
  ROOT %n = f32[8,128]{1,0:T(8,128)} negate(%g)
}
"""
    assert hbm_bytes(text, rounds=3) == (3 + 1) * 2 * 4096
    train = {"fits": True, "flops": 1e9, "bytes_accessed": 24e9, "hbm_bytes": 8.19e9, "peak": 1, "arguments": 1, "temporaries": 0}
    monkeypatch.setattr(aot, "compiled", lambda what, *_: train if "training" in what else {"fits": True})
    config = narrow(distill=DistillConfig(), batch_norm_group=4, accumulate=2)
    found = plan.verdict(config, aot.topology("v5e:2x2"), abstract.Facts(10, 3200, (32, 32, 3), (32, 32, 3)), plan.QUICK)
    assert math.isclose(found["bounds"]["bytes_seconds"], 0.01) and math.isclose(found["bounds"]["flops_seconds"], 2e9 / 197e12)
    images = found["gigaflops_per_image"], found["megabytes_per_image"], found["hbm_megabytes_per_image"]
    assert images == (1 / 4, 24000 / 4, 8190 / 8)


def test_known_datasets_need_no_files_and_others_must_be_prepared(tmp_path):
    data = DataConfig(name="imagenet2012", directory=str(tmp_path), eval_split="validation",
                      train_transform="random_resized_crop(224)|flip", eval_transform="resize(235)|center_crop(224)")  # fmt: skip
    assert abstract.facts(data) == abstract.Facts(1000, 1_281_167, (224, 224, 3), (224, 224, 3))
    with pytest.raises(UserError, match="dataset birds is not prepared, so plan knows neither"):
        abstract.facts(dataclasses.replace(data, name="birds"))
    with pytest.raises(UserError, match=r"'train\[:9\]' of imagenet2012, which is not prepared; plan knows train, validation"):
        abstract.facts(dataclasses.replace(data, train_split="train[:9]"))


def test_the_largest_batch_is_found_in_few_compilations(monkeypatch):
    """An invented chip has 1 GiB. Eight images take 100 MiB, so 80 images fit and 88 do not."""
    calls = []

    def compiled(what, jitted, arguments, *_):
        calls.append(arguments)
        size = 100 * 2**20 * arguments / 8
        return {"fits": True, "peak": size} if size <= 2**30 else {"fits": False}

    where = aot.Topology("v5e:2x2", dataclasses.replace(aot.CHIPS["v5e"], hbm=1), (None,) * 4, 4, 1)
    monkeypatch.setattr(aot, "compiled", compiled)
    monkeypatch.setattr(
        plan, "abstract_programs", lambda config, *_: abstract.AbstractPrograms((None, config.batch_size // 4), None, 1, [])
    )
    found = plan.largest(narrow(), where, None)
    assert (found["images_per_device"], found["batch_size"]) == (80, 320) and found["compilations"] == len(calls) <= 5


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--topology=v9:2x2"], "topology 'v9:2x2' is not known; write GENERATION:SIZE with v4, v5e, v5p, v6e"),
        (["--topology=v5e"], "topology 'v5e' is not known"),
        (["--topology=v5e:3x3"], "libtpu knows no topology 'v5e:3x3'"),
        ([], "plan needs --topology"),
        (
            ["--topology=v5e:2x2", "--config.batch_size=510", "--config.batch_norm_group=51"],
            "config.batch_size 510 is not divisible by the 4",
        ),
        (["--topology=v5e:2x2", "--config.distill.main=resnet50=a.pth"], "there is no teacher resnet50; one of: efficientnet_b0.ra_in1k"),
        (
            ["--topology=v5e:2x2", "--config.distill.main=runs/none"],
            "the teacher runs/none does not exist, so plan does not know its network",
        ),
    ],
)
def test_input_that_cannot_be_planned_is_refused(run, more, told):
    refused(run("plan", "--config=configs/cifar10_bnext18.py", *more), told)


def test_a_missing_or_wrong_libtpu_is_reported_with_the_pip_command(run, monkeypatch):
    words = ["plan", "--config=configs/cifar10_bnext18.py", "--topology=v5e:2x2"]
    monkeypatch.setattr(aot.importlib.metadata, "version", lambda name: "0.0.17")
    refused(run(*words), "libtpu 0.0.17 is installed", f"works with {aot.wanted_libtpu()}", f"`pip install libtpu=={aot.wanted_libtpu()}`")
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    refused(run(*words), f"libtpu, which is not installed; `pip install libtpu=={aot.wanted_libtpu()}`")


def test_the_requirements_name_the_libtpu_of_the_pinned_jax():
    lines = (ROOT / "requirements-plan.txt").read_text().splitlines()
    assert f"libtpu=={aot.wanted_libtpu()}" in lines
