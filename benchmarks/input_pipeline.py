"""Measures the input pipeline in images per second and core: ours, Pillow as timm uses it, and tf.data, side by side in one run.

    python benchmarks/input_pipeline.py [--rate=19462]

The JPEGs are photographs of scikit-image and scikit-learn at ImageNet's typical 500x375 pixels, at three qualities.

- One process, pinned to one core: from bytes in memory to a uint8 image. The contenders take turns in many short rounds; the result is
  each contender's median round.
- Grain: whole batches of 64 through pipeline.iterate, one worker a core, on all cores; the rate is divided by the number of cores.

--rate: images per second that a host must deliver. The default is the upper bound that `plan` gives for BNext-T on eight v5e chips
(results/plan.json).
"""

import argparse
import io
import math
import os
import pathlib
import random
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks import record
from bnext_jax.data import pipeline, splits
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.decode.photo import Photo
from tests.helpers.photographs import jpegs

QUALITIES = (75, 90, 95)
ROUNDS, BATCH, GRAIN_BATCHES = 25, 64, 40
RECIPES = {False: "random_resized_crop(224)|flip", True: "random_resized_crop(224)|flip|randaugment(rand-m7-mstd0.5-inc1)"}
FILL, BICUBIC = (124, 116, 104), Image.Resampling.BICUBIC


def _signed(value):
    return -value if random.random() > 0.5 else value


def _factor(m):
    return max(0.1, 1 + _signed(0.09 * m))


def _affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=BICUBIC, fillcolor=FILL)


def _solarize_add(image, m):
    table = [min(255, i + min(128, int(11 * m))) if i < 128 else i for i in range(256)]
    return image.point(table * 3)


PILLOW = (
    lambda image, m: ImageOps.autocontrast(image),
    lambda image, m: ImageOps.equalize(image),
    lambda image, m: ImageOps.invert(image),
    lambda image, m: image.rotate(_signed(3 * m), resample=BICUBIC, fillcolor=FILL),
    lambda image, m: ImageOps.posterize(image, max(1, 4 - int(0.4 * m))),
    lambda image, m: ImageOps.solarize(image, 256 - int(25.6 * m)),
    _solarize_add,
    lambda image, m: ImageEnhance.Color(image).enhance(_factor(m)),
    lambda image, m: ImageEnhance.Contrast(image).enhance(_factor(m)),
    lambda image, m: ImageEnhance.Brightness(image).enhance(_factor(m)),
    lambda image, m: ImageEnhance.Sharpness(image).enhance(_factor(m)),
    lambda image, m: _affine(image, 1, _signed(0.03 * m), 0, 0, 1, 0),
    lambda image, m: _affine(image, 1, 0, 0, _signed(0.03 * m), 1, 0),
    lambda image, m: _affine(image, 1, 0, _signed(0.045 * m) * image.width, 0, 1, 0),
    lambda image, m: _affine(image, 1, 0, 0, 0, 1, _signed(0.045 * m) * image.height),
)


def with_pillow(encoded, augment):
    """The augmentation as timm does it: Pillow's operations, one after another."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    for _ in range(10):
        area = random.uniform(0.08, 1) * image.width * image.height
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= image.width and height <= image.height:
            break
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    image = image.crop((left, top, left + width, top + height)).resize((224, 224), BICUBIC)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for operation in random.choices(PILLOW, k=2) if augment else ():
        if random.random() < 0.5:
            image = operation(image, min(max(random.gauss(7, 0.5), 0), 10))
    return np.array(image, np.uint8)


class PillowTransform(Transform):
    """with_pillow with RandAugment, as a transform for pipeline.iterate."""

    def __call__(self, image, rng):
        """Photo -> uint8 [224, 224, 3]."""
        return with_pillow(image._data, True)


def tensorflow_round(encoded):
    """Makes a function that runs tf.data once over the JPEGs, on one thread: decode_and_crop_jpeg, antialiased bicubic resize, flip."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def one(data):
        shape = tf.io.extract_jpeg_shape(data)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape, tf.zeros([1, 0, 4]), area_range=(0.08, 1), aspect_ratio_range=(3 / 4, 4 / 3), max_attempts=10,
            use_image_if_no_bounding_boxes=True, min_object_covered=0,
        )  # fmt: skip
        window = tf.stack([begin[0], begin[1], size[0], size[1]])
        image = tf.cast(tf.io.decode_and_crop_jpeg(data, window, channels=3), tf.float32)
        image = tf.image.resize(image, (224, 224), "bicubic", antialias=True)
        return tf.cast(tf.clip_by_value(tf.image.random_flip_left_right(image), 0, 255), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    dataset = tf.data.Dataset.from_tensor_slices(encoded).map(one).with_options(options)

    def run():
        for _ in dataset.as_numpy_iterator():
            pass

    return run


def in_turn(functions, images):
    """{name: images per second}, the median over rounds. Each round runs every function once."""
    seconds = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return {name: round(images / statistics.median(values), 1) for name, values in seconds.items()}


def one_process(quality, tensorflow):
    """Images per second on one core, and the ratio to Pillow: {"plain" or "randaugment": {contender: rate, "ours_over_pillow"}}."""
    encoded = list(jpegs(quality=quality)) * 4
    found = {}
    for augment, line in RECIPES.items():
        transform, numbers = Transform(line), iter(range(10**9))

        def ours(transform=transform, numbers=numbers):
            for data in encoded:
                transform(Photo(data), random.Random(next(numbers)))

        def pillow(augment=augment):
            for data in encoded:
                with_pillow(data, augment)

        contenders = {"ours": ours, "pillow": pillow}
        if not augment:
            contenders["tf.data"] = tensorflow(encoded)
        rates = in_turn(contenders, len(encoded))
        found["randaugment" if augment else "plain"] = {**rates, "ours_over_pillow": round(rates["ours"] / rates["pillow"], 2)}
    return found


class Records:
    """A dataset with the length of ImageNet that repeats a few JPEGs in memory."""

    def __init__(self, quality):
        self.encoded = jpegs(quality=quality)

    def __len__(self):
        return 1_281_167

    def __getitem__(self, index):
        return {"image": self.encoded[index % len(self.encoded)], "label": 0}


def with_workers(quality, cores):
    """Images per second and core of whole batches from Grain, one worker a core: {contender: rate, "ours_over_pillow"}."""
    source, rates = splits.Source("photographs", "train", Records(quality), ("all",)), {}
    for name, kind in (("ours", Transform), ("pillow", PillowTransform)):
        batches = pipeline.TrainBatches(source, RECIPES[True], batch_size=BATCH, epochs=1, rows=range(BATCH), seed=0)
        batches.transform = kind(RECIPES[True])
        stream = pipeline.iterate(batches, threads=1, workers=cores)
        for _ in range(2 * cores):  # warm-up: the workers start and load the compiled code
            next(stream)
        start = time.perf_counter()
        for _ in range(GRAIN_BATCHES * cores):
            next(stream)
        rates[name] = round(GRAIN_BATCHES * BATCH / (time.perf_counter() - start), 1)
        stream.close()
    return {**rates, "ours_over_pillow": round(rates["ours"] / rates["pillow"], 2)}


def main():
    """Measures, prints and writes results/input_pipeline.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=19_462)
    arguments = parser.parse_args()
    every = sorted(os.sched_getaffinity(0))
    workers = {quality: with_workers(quality, len(every)) for quality in QUALITIES}  # before TensorFlow starts its threads
    os.sched_setaffinity(0, every[:1])
    tables = {quality: one_process(quality, tensorflow_round) for quality in QUALITIES}
    found = {
        f"quality {quality}": {
            "bytes_per_image": round(statistics.mean(map(len, jpegs(quality=quality)))),
            "one_core": tables[quality],
            "grain_workers_randaugment": workers[quality],
            "cores_for_rate": math.ceil(arguments.rate / workers[quality]["ours"]),
        }
        for quality in QUALITIES
    }
    os.sched_setaffinity(0, every)
    record.write("input_pipeline", {"pixels": "500x375 -> 224x224", "rate": arguments.rate, "images_per_second_per_core": found})


if __name__ == "__main__":
    main()
