"""The commands and their flags, as data: what `bnext` reads, explains and calls. Importing this imports no command."""

import dataclasses
import os
from collections.abc import Callable

from bnext_jax.errors import UserError


def whole(name, text):
    """The whole number in a flag's text. Raises UserError where it is none."""
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"--{name} {text!r} is no whole number") from error


def words(name, text):
    """The words of a flag's text, joined by ",": a tuple. name: of the flag."""
    del name
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def wholes(name, text):
    """The whole numbers of a flag's text, joined by ",", with or without brackets: a tuple. Raises UserError where one is none."""
    return tuple(whole(name, part) for part in words(name, text.strip("()[]")))


def path(name, text):
    """A path, "~" expanded. Raises UserError where it is empty."""
    if not text:
        raise UserError(f"--{name} is empty; name a path")
    return os.path.expanduser(text)


def as_it_is(name, text):
    """The text itself. name: of the flag."""
    del name
    return text


CONFIG, SWITCH = "config", "switch"  # kinds of flags that are no text: a configuration file, a flag without a value


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a command.

    Attributes:
      name: as it is typed behind "--".
      meaning: one sentence.
      value: what stands for its value in the help.
      kind: (flag's name, text) -> the command's argument; or CONFIG or SWITCH.
      default: the command's argument where the flag is not given.
      needed: whether it must be given.
      repeated: whether it may be given several times; the argument is then a tuple.
    """

    name: str
    meaning: str
    value: str = ""
    kind: Callable | str = as_it_is
    default: object = None
    needed: bool = False
    repeated: bool = False


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      summary: one line. does: a paragraph. flags: its Flags. files: what stands for its file names in the help, "" where it takes none.
      examples: lines to type, without the program's name.
      module, function: what is called, with the flags' names (and "files") as keyword arguments.
      several: whether it may run as one of several processes.
    """

    summary: str
    does: str
    flags: tuple
    examples: tuple
    module: str
    function: str
    files: str = ""
    several: bool = False


def _config(needed=True, meaning="the run's configuration: a Python file with get_config(), and a form of it behind a colon"):
    return Flag("config", meaning, "FILE.py[:FORM]", CONFIG, needed=needed)


CHECKPOINT = Flag("checkpoint", "a work directory, of which the newest readable checkpoint counts, or a PyTorch file", "PATH", path)
NEEDED_CHECKPOINT = dataclasses.replace(CHECKPOINT, needed=True)
GATE_BITS = Flag("gate_bits", "take the network as its quantized edition with gates of 4 or 8 bits; else as it is", "4|8", whole)

COMMANDS = {
    "train": Command(
        "trains a network, or goes on with a run",
        "Trains the network of a configuration, with or without teachers, and evaluates it. On a work directory with checkpoints it goes on"
        " from the newest whole one, bit for bit as if it had never stopped. SIGTERM or Ctrl-C saves and ends with code 75: the same"
        " command goes on. Every field of the configuration is a flag: --config.FIELD=VALUE; with --config=FILE --help they are listed.",
        (
            _config(),
            Flag("workdir", "folder of checkpoints, logs and configuration; new, empty or of the same run", "DIR", path, needed=True),
        ),
        (
            "train --config=configs/digits_student.py:labels --workdir=runs/digits",
            "train --config=configs/imagenet_bnext_tiny.py --workdir=runs/tiny --config.accumulate=4",
            "train --config=configs/digits_student.py --help",
        ),
        "bnext_jax.training.loop",
        "train",
        several=True,
    ),
    "evaluate": Command(
        "top-1 and top-5 over every image of a split",
        "Evaluates a network over the evaluation split, every image counted once. An image that cannot be decoded is named, and no accuracy"
        " is given.",
        (
            NEEDED_CHECKPOINT,
            _config(needed=False, meaning="whose dataset and batch size to use; else those of the checkpoint"),
            Flag("predictions", "write one row an image: label, prediction, probability, the five likeliest", "FILE.csv", path),
            GATE_BITS,
        ),
        ("evaluate --checkpoint=runs/tiny", "evaluate --checkpoint=bnext_tiny.pth.tar --config=configs/imagenet_bnext_tiny.py"),
        "bnext_jax.commands.evaluate",
        "evaluate",
        several=True,
    ),
    "predict": Command(
        "the five likeliest classes of photos",
        "Classifies photos, with the preprocessing that the network was evaluated with.",
        (
            CHECKPOINT,
            Flag("model", "without --checkpoint: weights that an installed package carries; with it: a check of its name", "NAME"),
        ),
        ("predict --checkpoint=runs/tiny cat.jpg dog.jpg", "predict --model=tf_efficientnet_lite0 cat.jpg"),
        "bnext_jax.commands.predict",
        "predict",
        files="IMAGE [IMAGE ...]",
    ),
    "convert": Command(
        "PyTorch files to work directories and back",
        "Converts; the direction follows from --output: a PyTorch file by its suffix (.pth.tar, .pth, .safetensors), else a work directory."
        " Nothing in a file is run.",
        (
            Flag("source", "a PyTorch file, a work directory, or the tag of a teacher, which is fetched", "PATH", path, needed=True),
            Flag("output", "what to write; it must not exist", "PATH", path, needed=True),
            Flag("model", "a check of the network's name", "NAME"),
            GATE_BITS,
        ),
        (
            "convert --source=bnext_large.pth.tar --output=runs/bnext_large",
            "convert --source=efficientnet_b2.ra_in1k --output=b2.safetensors",
        ),
        "bnext_jax.commands.convert",
        "convert",
    ),
    "prepare": Command(
        "writes a dataset once, in the form that training reads",
        "Writes the configuration's dataset as array_record, with counts, class names and checksums beside it. Started again,"
        " an interrupted preparation begins anew.",
        (
            _config(),
            Flag("source", "a folder of class folders: DIR/train/CLASS/IMAGE, and DIR/val or DIR/test", "DIR", path),
            Flag("manual_dir", "folder of files that cannot be downloaded, for ImageNet its two tar files", "DIR", path),
        ),
        (
            "prepare --config=configs/cifar10_bnext18.py",
            "prepare --config=configs/imagenet_bnext_tiny.py --manual_dir=DOWNLOADS",
        ),
        "bnext_jax.data.prepare",
        "prepare_config",
    ),
    "count": Command(
        "multiply-accumulates, OPs, degree of binarization, sizes",
        "Counts networks by tracing them: binary, 8-bit, 4-bit and float multiply-accumulates, OPs, degree of binarization, parameters and"
        " sizes, with the published figures beside.",
        (
            CHECKPOINT,
            Flag("model", "names of models, joined by commas; the published BNexts where nothing is named", "NAME[,NAME]", words, ()),
            Flag("widths", "of a BNext of your own: the stem's, then one a block", "32,64,...", wholes, ()),
            Flag("classes", "outputs of the classifier; 1000 where it is not given", "N", whole),
            Flag("resolution", "pixels a side; 224, or a checkpoint's own", "N", whole),
            GATE_BITS,
            Flag("per_layer", "a table of layers instead of one of networks", kind=SWITCH, default=False),
            Flag("output", "write the table too", "FILE.md|.csv", path),
        ),
        ("count --model=bnext_tiny", "count --widths=32,64,128 --classes=10 --resolution=32 --per_layer"),
        "bnext_jax.commands.count",
        "count",
    ),
    "plan": Command(
        "does a run fit a TPU slice, and how fast is it at most?",
        "Compiles the training step and the evaluation of a configuration for TPU slices that are not here. Exit code 3 where one does not"
        " fit.",
        (
            _config(),
            Flag("topology", "the slice, GENERATION:AxB; may be repeated", "v5e:4x4", needed=True, repeated=True),
            Flag("fit", "also find the largest batch that fits, or what would make the run fit", kind=SWITCH, default=False),
            Flag("quick", "compile with less effort, in a minute instead of several", kind=SWITCH, default=False),
        ),
        ("plan --config=configs/imagenet_bnext_tiny.py --topology=v5e:2x4 --quick",),
        "bnext_jax.commands.plan",
        "plan",
    ),
    "plot": Command(
        "curves, feature maps, augmentation, comparison, a report",
        "Draws: `curves DIR [DIR ...]` the log of one or several runs; `features IMAGE` what binary convolutions are given; `augmentation`"
        " what the recipe makes of images; `comparison` published binary networks; `report [IMAGE]` a run as one HTML page.",
        (
            Flag("workdir", "of curves and report", "DIR", path),
            _config(needed=False, meaning="of augmentation"),
            dataclasses.replace(CHECKPOINT, meaning="of features: a work directory or a PyTorch file"),
            Flag(
                "layers",
                "of features: names of binary convolutions, joined by commas; else five of those with 3x3 kernels",
                "NAME[,NAME]",
                words,
                (),
            ),
            Flag("output", "the file to write; else a name of its own", "FILE.png|.svg|.pdf|.html", path),
        ),
        ("plot curves runs/a runs/b", "plot report --workdir=runs/tiny", "plot features --checkpoint=runs/tiny cat.jpg"),
        "bnext_jax.commands.plot",
        "plot",
        files="WHAT [FILE ...]",
    ),
    "quickstart": Command(
        "see it work in five minutes, without a dataset",
        "Trains two small real-valued teachers on scanned digits, distils a binary network from both, evaluates all three, draws the"
        " curves. Started again, it goes on where it was.",
        (
            Flag("workdir", "folder of the three runs", "DIR", path, "runs/quickstart"),
            Flag("seed", "of initial weights, order and augmentation", "N", whole, 0),
        ),
        ("quickstart", "quickstart --workdir=/tmp/quickstart --seed=1"),
        "bnext_jax.commands.quickstart",
        "quickstart",
    ),
}
