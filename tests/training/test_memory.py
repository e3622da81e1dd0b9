"""The memory of a training step, and the settings that are proposed if the step does not fit."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from bnext_jax import config as c
from bnext_jax.errors import UserError
from bnext_jax.training import memory


def shapes(*given):
    """A tree of array shapes without data, on one device."""
    place = SingleDeviceSharding(jax.devices()[0])
    return {str(i): jax.ShapeDtypeStruct(shape, dtype, sharding=place) for i, (shape, dtype) in enumerate(given)}


def test_planned_bytes_are_products_of_shapes_and_item_sizes():
    state = {
        "params": shapes(((3, 3, 8, 8), jnp.float32), ((8,), jnp.float32)),
        "batch_stats": shapes(((), jnp.int32)),
        "opt_state": shapes(((3, 3, 8, 8), jnp.float32)),
    }
    planned = memory.planned(state, shapes(((4, 16, 16, 3), jnp.uint8)), shapes(((5, 7), jnp.bfloat16)))
    assert planned == {"parameters": 4 * (576 + 8), "statistics": 4, "optimizer": 4 * 576, "batch": 4 * 16 * 16 * 3, "teachers": 2 * 35}


def test_the_compiled_step_holds_its_arguments_and_at_least_one_large_temporary():
    function = jax.jit(lambda a: jnp.sort(a @ a) @ a, donate_argnums=0)
    found = memory.compiled_bytes(function.lower(jnp.ones((256, 256))).compile())
    assert found["arguments"] == 4 * 256 * 256 and found["temporaries"] >= 4 * 256 * 256
    assert found["peak"] == found["arguments"] + found["temporaries"]  # the output reuses the donated argument's memory


@pytest.mark.parametrize(
    ("batch", "group", "accumulate", "free", "told"),
    [
        # 512 images on 8 devices: 64 images per device, 1 MiB each. 20 of them fit, so 4 pieces of 16 images; each piece holds one group
        (512, 16, 1, 20, "--config.accumulate=4, which gives the same result, or --config.batch_size=128"),
        (512, 64, 1, 20, "--config.batch_size=128"),  # a piece of 16 images would split a batch-norm group of 64
        (512, None, 1, 33, "--config.batch_size=256"),
        (512, 16, 1, 0.5, "--config.mesh=data=1,shard=N"),
        (512, 16, 1, None, "--config.accumulate=2, which gives the same result, or --config.batch_size=256"),
        (512, 8, 4, None, "--config.accumulate=8, which gives the same result"),
    ],
)
def test_the_largest_piece_that_keeps_the_batch_norm_groups_is_proposed(batch, group, accumulate, free, told):
    config = c.Config(batch_size=batch, batch_norm_group=group, accumulate=accumulate)
    free = free and free * 2**20
    assert memory.what_fits(config, 8, 2**20, free).startswith(told)


def test_a_step_that_does_not_fit_is_refused_and_smaller_settings_proposed(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 8 * 2**20)
    words = [f"--config.data.directory={digits}", "--config.tensorboard=False", "--config.batch_norm_group=4"]
    code, result, error = run("train", "--config=configs/digits_student.py:smoke", f"--workdir={tmp_path / 'run'}", *words)
    assert (code, result) == (2, None)
    assert "MiB on each device, which has 8 MiB; what would fit: --config.accumulate=" in error.strip().splitlines()[-1]


def test_exhausted_memory_in_the_compiler_is_reported_in_one_sentence(monkeypatch):
    class Lowered:
        def compile(self):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.11G of 15.75G hbm.")

    class Jitted:
        def lower(self, *arguments):
            return Lowered()

    arguments = ({"params": {}, "batch_stats": {}, "opt_state": {}}, {}, None, {})
    with pytest.raises(UserError, match=r"does not fit into a device's memory \(RESOURCE_EXHAUSTED: .*what may fit: --config.accumulate=2"):
        memory.compile_within(Jitted(), arguments, c.Config(batch_size=64, batch_norm_group=4), 1)
