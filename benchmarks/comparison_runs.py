"""The runs of benchmarks/comparison.py: which networks are trained on Fashion-MNIST, how, and with which run each one is compared.

One recipe for all (`recipe`): AdamW, learning rate RATE with one epoch of warm-up and a cosine to 0, batch 64, labels alone, crops after
zero padding of two pixels, and flips. Only the runs of the group "own recipe" and the losses of the group "distillation" differ from it.

All networks see images of 28x28 pixels and halve them in the stem, so that their first blocks work on maps of 14x14. WIDTHS and the
arguments of the ancestors make their binary multiply-accumulates equal within 10 %: BNext 11.5 million an image.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from bnext_jax import config as c
from bnext_jax import recipes, recipes_zoo

PIXELS, CLASSES, BATCH = 28, 10, 64  # of the dataset; images of a step
RATE = 5e-3
WIDTHS = (24, 48, 48, 96, 96)
SMALL_STEM = {"stem_stride": 2, "stem_pool": False}
FRAME = {"widths": (24, 48), **SMALL_STEM}  # in the frame of ResNet-18: six binary convolutions a stage
EXACT_FROM = 0.75  # share of the epochs after which BNext's signs are exact, as in the repository's short recipes
PAPER_EXACT_FROM = 0.3  # of the paper: 153 of 512 epochs


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the pilot decides, and where the runs lie.

    Attributes:
      images: number of training images.
      epochs: epochs of each run; a recipe of several steps divides them among its steps.
      folder: folder of all work directories.
      data: folder of the prepared dataset.
    """

    images: int
    epochs: int
    folder: str
    data: str = ""

    def place(self, key: str, seed: int = 0, step: int | None = None) -> str:
        """The work directory of a run, or of one step of it."""
        return f"{self.folder}/{key}-{seed}" + ("" if step is None else f"-step{step}")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
      group: "BNext", "ablation", "distillation", "ancestor", "own recipe" or "real-valued" (the twin and the teachers).
      title: what the row shows.
      steps: makes the configurations of the run's steps, in order. The last one's accuracy counts.
      against: key of the run that it is compared with; "" = none.
      needs: keys of the runs that must be there before, the teachers.
    """

    group: str
    title: str
    steps: Callable[[Plan, int], list[c.Config]]
    against: str = "bnext"
    needs: tuple[str, ...] = ()


def recipe(plan: Plan, seed: int, name: str, arguments: dict[str, Any]) -> c.Config:
    """The common recipe for a network. arguments: see create_model."""
    base = recipes.fashion("labels")
    base.model = modelled(name, arguments)
    base.data.directory, base.data.train_split = plan.data, f"train[:{plan.images}]"
    base.optimizer = c.OptimizerConfig(learning_rate=RATE, schedule="cosine", warmup_epochs=1, warmup_rate=RATE / 10, final_rate=0.0)
    base.temperature = c.TemperatureConfig(exact_from=EXACT_FROM) if name == "bnext" else c.TemperatureConfig()
    base.epochs = base.eval_every_epochs = plan.epochs
    base.seed, base.tensorboard, base.eval_batch_size = seed, False, 500
    base.checkpoint.keep_latest = 1
    return base


def modelled(name: str, arguments: dict[str, Any]) -> c.ModelConfig:
    """A ModelConfig from the arguments of create_model."""
    known = {field.name for field in dataclasses.fields(c.ModelConfig)} - {"extra"}
    extra = {key: value for key, value in arguments.items() if key not in known}
    return c.ModelConfig(name=name, extra=extra, **{key: value for key, value in arguments.items() if key in known})


def network(name: str, **arguments: Any) -> Callable[[Plan, int], list[c.Config]]:
    """A run of one step under the common recipe."""
    return lambda plan, seed: [recipe(plan, seed, name, arguments)]


def bnext(**arguments: Any) -> Callable[[Plan, int], list[c.Config]]:
    """The same for the narrow BNext."""
    return network("bnext", **{"widths": WIDTHS, "stem_stride": 2, **arguments})


def varied(part: str, **values: Any) -> Callable[[Plan, int], list[c.Config]]:
    """The narrow BNext with other values in one part of its configuration, such as "optimizer"."""

    def steps(plan, seed):
        (config,) = bnext()(plan, seed)
        setattr(config, part, dataclasses.replace(getattr(config, part), **values))
        return [config]

    return steps


def taught(main: str, *assistants: str, form: str = "product_of_means") -> Callable[[Plan, int], list[c.Config]]:
    """BNext with teachers, which are runs of this table."""

    def steps(plan, seed):
        (config,) = bnext()(plan, seed)
        config.distill = c.DistillConfig(main=plan.place(main), assistants=tuple(plan.place(key) for key in assistants), form=form)
        return [config]

    return steps


def poke(plan: Plan, seed: int) -> list[c.Config]:
    """PokeBNN. Its phases begin after the same share of the run as in the paper: bounds after 6 %, quantized weights after 1/16."""
    steps_an_epoch = plan.images // BATCH
    phases = {"bounds_from_step": round(0.06 * plan.epochs * steps_an_epoch), "quantized_from_epoch": max(1, round(plan.epochs / 16))}
    return network("pokebnn", **ANCESTORS["pokebnn"][1], **phases)(plan, seed)


def own(name: str, *published: Callable[[], c.Config], teacher: str = "") -> Callable[[Plan, int], list[c.Config]]:
    """A network under its published recipe: optimizer, schedule, loss, smoothing. The epochs are this table's, divided among the steps."""

    def steps(plan, seed):
        found = []
        for i, make in enumerate(published):
            source, epochs = make(), plan.epochs // len(published)
            epochs += plan.epochs % len(published) if i == len(published) - 1 else 0
            config = recipe(plan, seed, name, {**ANCESTORS[name][1], **source.model.extra})
            config.optimizer, config.label_smoothing = recipes_zoo.shortened(source, epochs), source.label_smoothing
            config.epochs = config.eval_every_epochs = epochs
            if teacher:
                config.distill = c.DistillConfig(main=plan.place(teacher), form=source.distill.form)
            if i:
                config.init = plan.place(f"own_{name}", seed, i - 1)
            found.append(config)
        return found

    return steps


ANCESTORS: dict[str, tuple[str, dict[str, Any]]] = {
    "bnn18": ("BNN", {**FRAME, "depth": 3}),
    "xnornet18": ("XNOR-Net", {**FRAME, "depth": 3}),
    "birealnet18": ("Bi-Real Net", {**FRAME, "depth": 6}),
    "real_to_binary": ("Real-to-Binary", {**FRAME, "depth": 3}),
    "meliusnet": (
        "MeliusNet",
        {"blocks": (2, 2), "transitions": (32,), "growth": 24, "stem_width": 32, "stem": "grouped", "stem_pool": False},
    ),
    "reactnet18": ("ReActNet-18", {**FRAME, "depth": 6}),
    "reactnet_a": ("ReActNet-A", {"widths": WIDTHS, "stem_stride": 2}),
    "pokebnn": ("PokeBNN", {"depths": (2, 3), "widths": (16, 64), "stem_stride": 2}),
}
TWIN = ("resnet", {**FRAME, "depths": (3, 3)})

ENTRIES: dict[str, Entry] = {
    "bnext": Entry("BNext", "BNext, narrow", bnext(), against=""),
    "no_elm": Entry("ablation", "without ELM attention", bnext(elm_attention=False)),
    "no_recoupling": Entry("ablation", "without info-recoupling", bnext(info_recoupling=False)),
    "neither": Entry("ablation", "without both", bnext(elm_attention=False, info_recoupling=False)),
    "window_1": Entry("ablation", "STE window 1 in place of 1.5", bnext(ste_window=1.0)),
    "window_3": Entry("ablation", "STE window 3 in place of 1.5", bnext(ste_window=3.0)),
    "early": Entry("ablation", "exact signs after 30 % of the epochs", varied("temperature", exact_from=PAPER_EXACT_FROM)),
    "hard": Entry("ablation", "exact signs from the start, not annealed", varied("temperature", exact_from=0.0)),
    "forgetful": Entry("ablation", "AdamW with beta2 0.99 in place of 0.999", varied("optimizer", beta2=0.99)),
    "twin": Entry("real-valued", "ResNet in the ancestors' widths: their twin", network(TWIN[0], **TWIN[1])),
    "small": Entry(
        "real-valued", "small ResNet: a teacher", network("resnet", **{**TWIN[1], "widths": (16, 32), "depths": (1, 1)}), against=""
    ),
    "wide": Entry(
        "real-valued", "wide ResNet: a teacher", network("resnet", **{**TWIN[1], "widths": (48, 96), "depths": (2, 2)}), against=""
    ),
    "one_teacher": Entry("distillation", "one teacher (wide)", taught("wide"), needs=("wide",)),
    "two_product": Entry("distillation", "two teachers, product of means", taught("wide", "small"), needs=("wide", "small")),
    "two_instance": Entry(
        "distillation", "two teachers, per instance", taught("wide", "small", form="per_instance"), needs=("wide", "small")
    ),
    "consecutive": Entry(
        "distillation", "consecutive assistants (small, then twin)", taught("wide", "small", "twin"), needs=("wide", "small", "twin")
    ),
    **{
        key: Entry("ancestor", title, poke if key == "pokebnn" else network(key, **arguments))
        for key, (title, arguments) in ANCESTORS.items()
    },
    "own_birealnet18": Entry(
        "own recipe", "Bi-Real Net: Adam, linear, label smoothing", own("birealnet18", recipes_zoo.birealnet18), against="birealnet18"
    ),
    "own_meliusnet": Entry("own recipe", "MeliusNet: RAdam, cosine", own("meliusnet", recipes_zoo.meliusnet), against="meliusnet"),
    "own_reactnet18": Entry(
        "own recipe",
        "ReActNet-18: two steps, teacher alone",
        own(
            "reactnet18",
            lambda: recipes_zoo.reactnet("reactnet18", "step1"),
            lambda: recipes_zoo.reactnet("reactnet18", "step2"),
            teacher="wide",
        ),
        against="reactnet18",
        needs=("wide",),
    ),
}
