"""Imports go one way: a module may import only modules that stand before it in LINES."""

import ast
import pathlib
import subprocess
import sys

import bnext_jax

LINES = """
errors bounds host.process host.cache host.machine_code host.progress io.paths io.buckets io.files io.compiled io.logs io.digest
io.reading io.hdf5_child
analysis.tables nn.variables
nn.lowering nn.convolution nn.grouped nn.kbit nn.layers nn.batch_norm nn.quantizers nn.aqt nn.weight_quantizers nn.real_rules
nn.poke_layers
nn.binary_conv nn.shortcut nn.epilogue nn.depthwise nn.bnext_units nn.normalise nn.network
models.base models.bnext models.bnext18 models.convnext models.efficientnet models.meliusnet models.pokebnn
models.stages models.frame18 models.bnn models.xnornet models.birealnet models.reactnet models.real_to_binary models.resnet
models.table
config config_json
distill.losses distill.roster
data.datasets.imagenet data.preprocessing
data.augment.kernels data.decode.jpeg_blocks data.decode.jpeg_codes data.decode.jpeg data.decode.reading data.decode.photo
data.augment.operations data.augment.randaugment data.augment.transforms
data.store data.datasets.digits data.datasets.folders data.datasets.idx
data.prepare data.splits data.faults data.pipeline
io.names.entry io.names.bnext io.names.teachers io.names.frame18 io.names.reactnet_a io.names.real_to_binary io.names.pokebnn
io.names.meliusnet io.names.rules io.names.recognise io.torch.state_dict io.torch.inference
io.torch.objects io.torch.pickles io.torch.pickled io.torch.choice io.torch.torch_files
io.hdf5 io.flax_files io.foreign
io.checkpoint
packed.file packed.layout packed.program packed.pack packed.xla packed.unpack packed.build packed.engine packed.network
io.sidecar io.untold io.load io.save distill.schedule recipes recipes_zoo
analysis.macs analysis.count analysis.count_rows analysis.degrees
tpu.collectives tpu.traffic
training.cluster training.mesh training.preemption training.optimizers training.schedules training.memory training.watch training.records
training.lock training.workdir training.checkpoints
training.step training.evaluator training.programs training.init training.run training.loop
tpu.abstract tpu.aot
plot.figures plot.page plot.curves plot.comparison plot.augmentation
plot.features commands.predict commands.evaluate plot.report
bench.contenders bench.measure bench.child
commands.convert commands.pack commands.bench commands.count commands.plan commands.plot commands.quickstart
commands.machine commands.flags commands.table commands.help_texts cli __main__
"""
ORDER = LINES.split()
ROOT = pathlib.Path(bnext_jax.__file__).parent
# packages and modules that must work without bnext_jax.training
WITHOUT_TRAINING = ("nn", "models", "data", "io", "analysis", "distill", "host", "config", "errors", "recipes", "recipes_zoo")


def name_of(path):
    """The dotted name of a module below bnext_jax, from its file. An __init__.py has the name of its folder, "" for bnext_jax itself."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imported(path):
    """The modules of bnext_jax that a file imports, also those imported inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module)]
        else:
            continue
        found |= {name.removeprefix("bnext_jax.") for name in dotted if name.startswith("bnext_jax.")} & MODULES.keys()
    return found


def test_every_module_imports_only_modules_that_stand_before_it():
    assert not (set(ORDER) - MODULES.keys()) and len(set(ORDER)) == len(ORDER)
    wrong = []
    for name, path in MODULES.items():
        if path.name == "__init__.py":
            assert not imported(path), f"{name}: an __init__.py imports nothing"
            continue
        assert name in ORDER, f"{name} has no place in the order"
        rooms = {other for other in imported(path) if MODULES[other].name == "__init__.py"}
        wrong += [f"{name} imports {other}" for other in imported(path) - rooms if ORDER.index(other) >= ORDER.index(name)]
    assert not wrong


def test_networks_files_and_counting_do_not_import_training():
    alone = {name: path for name, path in MODULES.items() if name.split(".")[0] in WITHOUT_TRAINING}
    assert len(alone) > 50
    assert not [name for name, path in alone.items() for other in imported(path) if other.split(".")[0] == "training"]
    for name in ("commands.predict", "commands.convert", "commands.count"):
        assert not [other for other in imported(MODULES[name]) if other.startswith("training")]


def test_no_file_is_longer_than_three_hundred_lines():
    files = [p for folder in ("bnext_jax", "configs", "tests", "benchmarks") for p in (ROOT.parent / folder).rglob("*.py")]
    assert len(files) > 40
    assert not {str(p): n for p in files if (n := len(p.read_text().splitlines())) > 300}


def test_no_test_module_imports_another():
    for path in (ROOT.parent / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("tests.") and ".test_" in name], path


def test_test_names_are_shorter_than_eighty_characters():
    for path in (ROOT.parent / "tests").rglob("test_*.py"):
        names = [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
        assert not [name for name in names if len(name) >= 80], path


def test_all_public_names_exist_and_import_no_heavy_package():
    code = "import bnext_jax as b, sys; [getattr(b, name) for name in b.__all__ if name not in ('train', 'evaluate')]"
    code += "; print(*sorted({'tensorflow', 'torch', 'matplotlib', 'clu', 'grain'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    both = "from bnext_jax import evaluate, train; import bnext_jax.training.loop; print(callable(train) and callable(evaluate))"
    done = subprocess.run([sys.executable, "-c", both], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.stdout.split() == ["True"], done.stderr
    light = "import bnext_jax, sys; print('jax' in sys.modules, bnext_jax.__version__)"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, cwd=ROOT.parent, check=False)
    assert done.stdout.split() == ["False", bnext_jax.__version__]
