"""`predict`: real weights on real photographs, and files that are not photographs."""

import importlib.util
import pathlib

import numpy as np
import pytest
from PIL import Image

from bnext_jax.commands import predict as module
from bnext_jax.commands.predict import read_photo
from bnext_jax.data.augment.transforms import Transform
from bnext_jax.data.datasets import imagenet
from bnext_jax.data.preprocessing import CIFAR
from bnext_jax.distill import roster
from bnext_jax.io.load import load
from tests.helpers.commands import command, refused, result_of
from tests.helpers.torch_tools import drawn, save_training

LITE0 = "--model=tf_efficientnet_lite0"


def installed(package, inside):
    """The path of a file inside an installed package."""
    return pathlib.Path(importlib.util.find_spec(package).origin).parent / inside


PHOTOS = [
    installed("skimage", "data/chelsea.png"),
    installed("skimage", "data/coffee.png"),
    installed("sklearn", "datasets/images/china.jpg"),
]
EXIF_6 = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # one tag, the orientation: 6
CATS, ESPRESSO, PALACE = {281, 282, 283, 284, 285}, 967, 698  # class numbers of ImageNet


def test_the_packaged_lite0_recognizes_a_cat_an_espresso_and_a_palace():
    done = command("predict", LITE0, *PHOTOS)
    cat, cup, house = result_of(done)["images"]
    assert {best["class"] for best in cat["top5"][:3]} <= CATS and cat["file"] == str(PHOTOS[0])
    assert cup["top5"][0]["class"] == ESPRESSO and cup["top5"][0]["name"] == "espresso"
    assert PALACE in {best["class"] for best in house["top5"]}
    for image in (cat, cup, house):
        chances = [best["probability"] for best in image["top5"]]
        assert chances == sorted(chances, reverse=True) and 0 < sum(chances) < 1 and len(chances) == 5
    table = done.stderr.splitlines()
    assert str(PHOTOS[1]) in table and any("% " in line and "967  espresso" in line for line in table)


def test_bnext_predicts_alike_from_both_formats_and_assumptions_are_logged(run, tmp_path, caplog):
    source = save_training(tmp_path / "half.pth.tar", drawn())
    run("convert", f"--source={source}", f"--output={tmp_path / 'flax'}")
    found = [run("predict", f"--checkpoint={path}", *PHOTOS[:2])[1]["images"] for path in (source, tmp_path / "flax")]
    assert found[0] == found[1]
    assert 0.5 < sum(best["probability"] for best in found[0][0]["top5"]) <= 1  # the best five of ten classes
    assert found[0][0]["top5"][0]["name"] == f"class {found[0][0]['top5'][0]['class']}"  # the file has no class names
    assert "does not say how its images were scaled; assuming 32 pixels" in caplog.text


def test_more_photographs_than_a_batch_keep_their_order(run, tmp_path, monkeypatch):
    monkeypatch.setattr("bnext_jax.commands.predict.BATCH", 2)
    source = save_training(tmp_path / "half.pth.tar", drawn())
    many = run("predict", f"--checkpoint={source}", *PHOTOS)[1]["images"]
    for path, row in zip(PHOTOS, many, strict=True):
        alone = run("predict", f"--checkpoint={source}", path)[1]["images"][0]
        assert [best["class"] for best in row["top5"]] == [best["class"] for best in alone["top5"]] and row["file"] == str(path)


def cut(path, tmp_path):
    """A copy of the first 3000 bytes of a file."""
    target = tmp_path / f"cut{path.suffix}"
    target.write_bytes(path.read_bytes()[:3000])
    return target


def test_unreadable_images_and_missing_flags_are_refused(run, tmp_path):
    (tmp_path / "notes.txt").write_text("no pixels")
    refused(run("predict", LITE0), "predict needs one image or more")
    refused(run("predict", PHOTOS[0]), "predict needs --checkpoint=PATH, or --model=NAME")
    refused(
        run("predict", LITE0, tmp_path / "notes.txt"),
        "notes.txt is not a readable image: its bytes are not in a known image format; save it as JPEG or PNG",
    )
    refused(run("predict", LITE0, tmp_path / "absent.png"), "absent.png cannot be read: No such file")
    refused(run("predict", LITE0, tmp_path), "cannot be read: Is a directory")
    refused(run("predict", LITE0, cut(PHOTOS[2], tmp_path)), "cut.jpg is not a readable image: ")
    refused(run("predict", "--model=bnext_tiny", PHOTOS[0]), "no package carries weights of bnext_tiny", LITE0)
    refused(run("predict", f"--checkpoint={tmp_path / 'absent.pth'}", PHOTOS[0]), "absent.pth does not exist")


def test_a_package_with_a_wrong_checksum_is_not_used(run, tmp_path, monkeypatch):
    package, inside, _ = roster.PACKAGED["tf_efficientnet_lite0"]
    monkeypatch.setitem(roster.PACKAGED, "tf_efficientnet_lite0", (package, inside, "00000000"))
    refused(run("predict", LITE0, PHOTOS[0]), "has sha256 57934424", f"install {package} again")
    monkeypatch.setitem(roster.PACKAGED, "tf_efficientnet_lite0", ("no-such-package", inside, "00000000"))
    refused(run("predict", LITE0, PHOTOS[0]), "`pip install no-such-package`")


def test_a_network_with_oblong_input_sees_the_middle_of_a_photograph(tmp_path):
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[:, 40:60] = 255  # a vertical white bar in the middle
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = read_photo(tmp_path / "a.png", Transform(""), (30, 20, 3))  # crops to 40 of the 100 columns, then halves both sides
    assert seen.shape == (30, 20, 3) and (seen[:, 7:13] == 255).all() and (seen[:, :3] == 0).all() and (seen[:, -3:] == 0).all()


@pytest.mark.parametrize("known", [{}, {"orientation": "upright"}, {"orientation": "stored"}])
def test_a_network_sees_photographs_as_it_saw_them_in_training(run, tmp_path, monkeypatch, caplog, known):
    source = save_training(tmp_path / "half.pth.tar", drawn())
    network, metadata = load(source)
    monkeypatch.setattr(module, "load", lambda *words, **more: (network, {**metadata, "preprocessing": {**CIFAR, **known}}))
    photo = Image.open(PHOTOS[1]).convert("RGB").resize((48, 32))
    files = {"plain.png": {}, "turned.png": {"exif": EXIF_6}, "by hand.png": {}}
    for name, options in files.items():
        (photo.transpose(Image.Transpose.ROTATE_270) if name == "by hand.png" else photo).save(tmp_path / name, **options)
    plain, turned, by_hand = run("predict", f"--checkpoint={source}", *(tmp_path / name for name in files))[1]["images"]
    stored = known == {"orientation": "stored"}
    assert turned["top5"] == (plain if stored else by_hand)["top5"] != (by_hand if stored else plain)["top5"]
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING" and "orientation" in record.getMessage()]
    expected = f"{tmp_path}/turned.png is not turned upright (EXIF orientation 6): the network was trained on photos as they are stored"
    assert told == ([expected] if stored else [])


def test_the_1000_class_names_are_in_the_order_of_imagenet():
    names = imagenet.names()
    assert len(names) == len(set(names.values())) == 1000
    order = list(names)
    assert order == sorted(order)  # ImageNet's class order is the sorted order of its synsets
    assert order[0] == "n01440764" and names["n01440764"] == "tench" and order[698] == "n03877845" and order[967] == "n07920052"
    assert imagenet.readable(["n01440764", "mine"], 2) == ["tench", "mine"]
