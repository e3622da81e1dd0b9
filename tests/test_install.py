"""The wheel: its contents, and its use outside the clone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import numpy as np
import pytest
from PIL import Image

import bnext_jax
from tests.helpers.commands import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The path of the wheel. It is built from a copy, so that the clone stays clean, with the setuptools of requirements-dev.txt."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "bnext_jax", folder / "bnext_jax", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs", ignore=shutil.ignore_patterns("__pycache__"))
    words = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check", "--wheel-dir", "dist", "."]
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=folder, check=True)
    (path,) = (folder / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder into which the wheel is installed. The environment provides all other packages."""
    target = tmp_path_factory.mktemp("installed")
    words = ["install", "--no-deps", "--no-index", "--quiet", "--disable-pip-version-check", "--target", str(target), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    return target


def outside(installed, tmp_path, *words, code=0):
    """Runs a command outside the clone. Returns its standard output, or its standard error if the expected `code` is not 0."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stderr if code else done.stdout


def test_the_wheel_holds_its_data_and_no_other_package(wheel):
    assert wheel.name == f"bnext_jax-{bnext_jax.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"bnext_jax", f"bnext_jax-{bnext_jax.__version__}.dist-info"}
    data = {"py.typed", "data/datasets/imagenet_classes.txt", "plot/comparison.csv", "plot/report.css"}
    assert {f"bnext_jax/{name}" for name in data} <= set(names)
    engine = {str(path.relative_to(ROOT)) for path in (ROOT / "bnext_jax/packed/runtime").glob("*.[ch]")}
    assert len(engine) > 10 and engine <= set(names)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "bnext_jax").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_the_installed_program_prints_help_and_counts_outside_the_clone(installed, tmp_path):
    assert "usage: bnext COMMAND" in outside(installed, tmp_path, sys.executable, "-m", "bnext_jax", "--help")
    text = outside(installed, tmp_path, sys.executable, installed / "bin/bnext", "count", "--model=bnext_tiny")
    assert json.loads(text)["bnext_tiny"]["parameters"] == 30_862_236
    code = "import bnext_jax; print(bnext_jax.__file__); bnext_jax.create_model; from bnext_jax import recipes"
    code += "; print(recipes.digits_student().check().epochs)"
    file, epochs = outside(installed, tmp_path, sys.executable, "-c", code).split()
    assert pathlib.Path(file).is_relative_to(installed) and epochs == "30"


def test_the_restart_with_huge_pages_keeps_the_flags_of_the_interpreter(installed, tmp_path):
    (tmp_path / "probe.py").write_text(
        "import sys, bnext_jax.cli as c; c.main = lambda *_: print(*sys.orig_argv[1:], file=sys.stderr) or 0; c.run()"
    )
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"} | {"PYTHONPATH": f"{installed}:{tmp_path}"}
    words = [sys.executable, "-X", "utf8", "-m", "probe", "count"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.stderr.split() == ["-X", "utf8", "-m", "probe", "count"]


def test_the_ranges_of_pyproject_contain_the_versions_that_ci_uses():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    lines = [line for name in ("requirements.txt", "requirements-convert.txt", "requirements-plan.txt", "requirements-dev.txt")
             for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-"))]  # fmt: skip
    pinned = {canonicalize_name(Requirement(line).name): next(iter(Requirement(line).specifier)).version for line in lines}
    ranged = [Requirement(line) for part in (project["dependencies"], *project["optional-dependencies"].values()) for line in part]
    for requirement in ranged:
        name = canonicalize_name(requirement.name)
        if name in pinned:
            assert requirement.specifier.contains(pinned[name]), f"{requirement} does not hold {pinned[name]}"
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= pinned.keys()


def test_networks_load_predict_and_count_without_the_packages_of_the_extras(installed, tmp_path):
    """Simulates an environment with the core packages only: importing a package of an extra fails."""
    from bnext_jax.host.process import EXTRAS

    (tmp_path / "core.py").write_text(
        f"import sys\nfor name in {sorted(EXTRAS)}: sys.modules[name] = None\nfrom bnext_jax.cli import run\nrun()\n"
    )
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    run = [sys.executable, tmp_path / "core.py"]
    text = outside(installed, tmp_path, *run, "predict", f"--checkpoint={ROOT / 'tests/fixtures/workdir_0_1'}", "photo.png")
    assert len(json.loads(text)["images"][0]["top5"]) == 5
    assert json.loads(outside(installed, tmp_path, *run, "count", "--model=bnext18"))["bnext18"]["parameters"] == 12_064_648
    told = outside(installed, tmp_path, *run, "quickstart", code=2)
    assert "quickstart needs" in told and "extra [train]" in told and "Traceback" not in told
