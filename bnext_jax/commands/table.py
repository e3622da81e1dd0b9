"""The commands of `bnext` and their flags, as data: for parsing, for help, and for calling. This module imports no command.

The texts here are what users read in `bnext --help` and `bnext COMMAND --help`.
"""

import dataclasses

from bnext_jax.commands.flags import CONFIG, SWITCH, Command, Flag, mapping, path, seed, side, whole, wholes, words


def _config(
    needed: bool = True, meaning: str = "configuration: a Python file with get_config(); FORM is the argument of get_config"
) -> Flag:
    return Flag("config", meaning, "FILE.py[:FORM]", CONFIG, needed=needed)


CHECKPOINT = Flag(
    "checkpoint",
    "a work directory (its newest readable checkpoint is used), a file of PyTorch, Keras (.h5) or Flax (.msgpack), or a packed file",
    "PATH",
    path,
)
NEEDED_CHECKPOINT = dataclasses.replace(CHECKPOINT, needed=True)
GATE_BITS = Flag(
    "gate_bits", "use the quantized edition of the network, with gates of 4 or 8 bits; default: the network as it is", "4|8", whole
)
WEIGHTS = Flag(
    "weights",
    "which weights to use if a PyTorch file holds several: ema, raw, or the name of an entry; default: of two, the averaged ones (EMA)",
    "ema|raw|NAME",
)
PREPROCESSING = Flag(
    "preprocessing",
    "how images were scaled for these weights: words like 'mean=0.5 std=0.5 input_size=224 crop_pct=0.9', or a config.json of timm, or a"
    " preprocessor_config.json of transformers; default: what the weights, a known checksum or such a file beside them say",
    "TEXT|FILE.json",
)

COMMANDS = {
    "train": Command(
        "train a network, or resume a run",
        "Trains the network of a configuration, with or without teachers, and evaluates it. If the work directory holds checkpoints, the"
        " run resumes from the newest undamaged one, and the result is bit for bit the same as without the interruption. On SIGTERM or"
        " Ctrl-C the run saves a checkpoint and exits with code 75; the same command resumes it. Every field of the configuration is a"
        " flag: --config.FIELD=VALUE. `train --config=FILE --help` lists the fields.",
        (
            _config(),
            Flag(
                "workdir",
                "folder for checkpoints, logs and configuration: a new or empty folder, or the folder of the same run",
                "DIR",
                path,
                needed=True,
            ),
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
        "measure top-1 and top-5 on the evaluation split",
        "Evaluates a network on the evaluation split. Every image counts once. If an image cannot be decoded, the command names it and"
        " reports no accuracy.",
        (
            NEEDED_CHECKPOINT,
            _config(needed=False, meaning="configuration with the dataset and the batch size; default: the checkpoint's own"),
            Flag(
                "predictions",
                "write a CSV file, one row per image: label, prediction, its probability, the five most probable classes",
                "FILE.csv",
                path,
            ),
            GATE_BITS,
            WEIGHTS,
            PREPROCESSING,
        ),
        ("evaluate --checkpoint=runs/tiny", "evaluate --checkpoint=bnext_tiny.pth.tar --config=configs/imagenet_bnext_tiny.py"),
        "bnext_jax.commands.evaluate",
        "evaluate",
        several=True,
    ),
    "predict": Command(
        "print the five most probable classes of photos",
        "Classifies photos with the preprocessing of the network's evaluation.",
        (
            CHECKPOINT,
            Flag(
                "model",
                "without --checkpoint: use the weights of this model from an installed package; with --checkpoint: check the model's name",
                "NAME",
            ),
            WEIGHTS,
            PREPROCESSING,
        ),
        ("predict --checkpoint=runs/tiny cat.jpg dog.jpg", "predict --model=tf_efficientnet_lite0 cat.jpg"),
        "bnext_jax.commands.predict",
        "predict",
        files="IMAGE [IMAGE ...]",
    ),
    "convert": Command(
        "convert files of PyTorch, Keras and Flax to work directories, and back to PyTorch",
        "Converts a trained network. The suffix of --output selects the direction: .pth.tar, .pth, .pt, .bin, .ckpt or .safetensors writes"
        " a PyTorch file, any other path a work directory. Keras and Flax files are only read. No code in a file is executed.",
        (
            Flag(
                "source",
                "a file of PyTorch, Keras (.h5) or Flax (.msgpack), a work directory, a packed file, or the tag of a teacher, whose weights"
                " are then downloaded",
                "PATH",
                path,
                needed=True,
            ),
            Flag("output", "the file or folder to write; it must not exist", "PATH", path, needed=True),
            Flag("model", "check that the source holds this model", "NAME"),
            GATE_BITS,
            WEIGHTS,
            PREPROCESSING,
        ),
        (
            "convert --source=bnext_large.pth.tar --output=runs/bnext_large",
            "convert --source=efficientnet_b2.ra_in1k --output=b2.safetensors",
        ),
        "bnext_jax.commands.convert",
        "convert",
    ),
    "pack": Command(
        "write a binary network as a small file, one bit a weight",
        "Packs a trained network into a file for fast inference. Its binary weights must be exactly +1 and -1: the temperature of the"
        " run must be low enough. Other commands take the file in place of a checkpoint. Prints the sizes, and compares the packed network"
        " with the float network on random images.",
        (
            dataclasses.replace(NEEDED_CHECKPOINT, meaning="a work directory or a PyTorch file"),
            Flag("output", "the file to write; it must not exist", "NAME.bnext", path, needed=True),
            GATE_BITS,
            WEIGHTS,
        ),
        ("pack --checkpoint=runs/tiny --output=tiny.bnext", "pack --checkpoint=bnext_tiny.pth.tar --output=tiny4.bnext --gate_bits=4"),
        "bnext_jax.commands.pack",
        "pack",
    ),
    "bench": Command(
        "measure how fast a network runs on this machine, packed and in floats",
        "Runs the packed network in C and in XLA, and the same network in floats: in bnext_jax, and in PyTorch and onnxruntime where they"
        " are installed. The contenders take turns in one process; there is one process with one processor, and one with all.",
        (
            dataclasses.replace(CHECKPOINT, meaning="a packed file, a work directory or a PyTorch file, with exactly binary weights"),
            Flag("model", "without --checkpoint: measure this model with random weights", "NAME"),
            WEIGHTS,
            Flag("resolution", "height and width of an image, in pixels; default: the network's own, or 224", "N", side),
            Flag("batch", "numbers of images in one call, joined by commas", "N[,N]", wholes, (1, 8)),
            Flag("threads", "processors and threads to use; default: one, then all", "N", whole),
            Flag("rounds", "measurements of each contender", "N", whole, 7),
        ),
        ("bench --checkpoint=tiny.bnext", "bench --model=bnext_tiny --batch=1 --threads=1"),
        "bnext_jax.commands.bench",
        "bench",
    ),
    "prepare": Command(
        "prepare a dataset for training, once",
        "Writes the configuration's dataset as array_record files, and a file with its counts, class names and checksums. Downloads the"
        " dataset if necessary. An interrupted preparation must run again; it starts from the beginning.",
        (
            _config(),
            Flag("source", "folder of images in class folders: DIR/train/CLASS/IMAGE, and DIR/val or DIR/test", "DIR", path),
            Flag(
                "manual_dir",
                "folder of files that you have already: for ImageNet its two tar files; for any other dataset the four IDX files that make"
                " it, plain or .gz (MNIST and its like); if the folder has no IDX file, the files that TFDS asks for",
                "DIR",
                path,
            ),
        ),
        (
            "prepare --config=configs/cifar10_bnext18.py",
            "prepare --config=configs/imagenet_bnext_tiny.py --manual_dir=DOWNLOADS",
            "prepare --config=configs/fashion.py --manual_dir=/usr/share/datasets/fashion-mnist",
        ),
        "bnext_jax.data.prepare",
        "prepare_config",
    ),
    "count": Command(
        "count operations, degree of binarization, parameters and sizes",
        "Traces networks and counts their binary, 8-bit, 4-bit and float multiply-accumulates, OPs, degree of binarization, parameters and"
        " sizes. Shows the published figures below its own.",
        (
            CHECKPOINT,
            Flag("model", "names of models, joined by commas; default: the published BNext networks", "NAME[,NAME]", words, ()),
            Flag("widths", "channels of your own BNext: of the stem, then of each block", "32,64,...", wholes, ()),
            Flag(
                "arguments",
                "arguments of the named models, as in config.model.extra: \"{'stem': 'imagenet'}\" for the MeliusNets with a 7x7 stem",
                "{'NAME': VALUE}",
                mapping,
            ),
            Flag("classes", "number of classes; default: 1000", "N", whole),
            Flag("resolution", "height and width of the image, in pixels; default: 224, or the checkpoint's own size", "N", side),
            GATE_BITS,
            WEIGHTS,
            Flag("per_layer", "print a table of layers instead of a table of networks", kind=SWITCH, default=False),
            Flag(
                "table",
                "print the degrees of binarization of eight published binary networks and of BNext: published, as built, with 8 and 4 bits",
                kind=SWITCH,
                default=False,
            ),
            Flag("output", "also write the table to a file", "FILE.md|.csv", path),
        ),
        (
            "count --model=bnext_tiny",
            "count --widths=32,64,128 --classes=10 --resolution=32 --per_layer",
            "count --model=xnornet18 --arguments=\"{'binary_shortcut': True}\"",
            "count --table",
        ),
        "bnext_jax.commands.count",
        "count",
    ),
    "plan": Command(
        "check whether a run fits a TPU slice, and estimate its highest speed",
        "Compiles the training step and the evaluation step of a configuration for TPU slices, on a machine without TPUs. Prints the memory"
        " of each device and lower bounds of the times. Exits with code 3 if the run does not fit one of the slices.",
        (
            _config(),
            Flag(
                "topology",
                "TPU slice, GENERATION:AxB or GENERATION:AxBxC; may be given several times",
                "v5e:4x4",
                needed=True,
                repeated=True,
            ),
            Flag(
                "fit",
                "also find the largest batch that fits; if the run does not fit, try settings that may make it fit",
                kind=SWITCH,
                default=False,
            ),
            Flag("quick", "compile with less effort: about one minute instead of several", kind=SWITCH, default=False),
        ),
        ("plan --config=configs/imagenet_bnext_tiny.py --topology=v5e:2x4 --quick",),
        "bnext_jax.commands.plan",
        "plan",
    ),
    "plot": Command(
        "draw curves, feature maps, augmentation, a comparison or a report",
        "WHAT is one of: `curves DIR [DIR ...]`, the logs of one or more runs; `features IMAGE`, the binary feature maps of an image;"
        " `augmentation`, training images before and after the transforms; `comparison`, published binary networks; `report [IMAGE]`, a run"
        " as one HTML page.",
        (
            Flag("workdir", "for curves and report: the run's folder", "DIR", path),
            _config(needed=False, meaning="for augmentation: the configuration"),
            dataclasses.replace(
                CHECKPOINT,
                meaning="for features: a work directory, a PyTorch file or a packed file; for report: the packed file of the run, which is"
                " then evaluated",
            ),
            Flag(
                "layers",
                "for features: names of binary convolutions, joined by commas; default: five of those with 3x3 kernels",
                "NAME[,NAME]",
                words,
                (),
            ),
            Flag("output", "the file to write; each picture has a default name", "FILE.png|.svg|.pdf|.html", path),
        ),
        ("plot curves runs/a runs/b", "plot report --workdir=runs/tiny", "plot features --checkpoint=runs/tiny cat.jpg"),
        "bnext_jax.commands.plot",
        "plot",
        files="WHAT [FILE ...]",
    ),
    "quickstart": Command(
        "train a binary network in five minutes, without a dataset",
        "Trains two small real-valued teachers on scanned digits, distills a binary network from both, evaluates all three networks, and"
        " draws the curves. The same command resumes an interrupted run.",
        (
            Flag("workdir", "folder for the three runs", "DIR", path, "runs/quickstart"),
            Flag("seed", "random seed of initialization, image order and augmentation", "N", seed, 0),
        ),
        ("quickstart", "quickstart --workdir=/tmp/quickstart --seed=1"),
        "bnext_jax.commands.quickstart",
        "quickstart",
    ),
}
