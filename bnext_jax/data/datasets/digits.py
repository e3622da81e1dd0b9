"""scikit-learn's 1,797 scanned digits (8x8 pixels, ten classes) as a TFDS dataset.

The images are real, and the scikit-learn wheel contains them, so nothing is downloaded.
Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI machine learning repository.
Importing this module is cheap. Preparing the dataset needs TensorFlow; reading it does not.
"""

import numpy as np
import tensorflow_datasets as tfds

TRAIN_EXAMPLES = 1437  # of 1797; the other 360 are the test split
SPLIT_SEED = 0
GREY_LEVELS = 16  # the scans have values 0..16


class Digits(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder of the digits: 1,437 training and 360 test images, split by a fixed permutation."""

    name = "digits"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing is downloaded
        order = np.random.default_rng(SPLIT_SEED).permutation(1797)
        return {"train": self._generate_examples(order[:TRAIN_EXAMPLES]), "test": self._generate_examples(order[TRAIN_EXAMPLES:])}

    def _generate_examples(self, indices):
        from sklearn.datasets import load_digits

        digits = load_digits()
        for index in indices:
            grey = np.round(digits.images[index] * (255 / GREY_LEVELS)).astype(np.uint8)
            yield int(index), {"image": grey[:, :, None], "label": int(digits.target[index])}
