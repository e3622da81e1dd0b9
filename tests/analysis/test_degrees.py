"""The binary networks that BNext's paper compares itself with: their counts and their table, against figures that are written out here."""

import csv
import re

import pytest

from bnext_jax.analysis import tables
from bnext_jax.analysis.degrees import ROWS, degree_rows, degrees
from bnext_jax.commands import count
from bnext_jax.plot.comparison import read_published
from tests.helpers.commands import ROOT

# At 224 pixels and 1000 classes: parameters, binary weights, MACs: binary, stem, real shortcuts or transitions, gates, classifier
STEM, SHORTCUTS = 112 * 112 * 7 * 7 * 3 * 64, 28 * 28 * 64 * 128 + 14 * 14 * 128 * 256 + 7 * 7 * 256 * 512
BINARY_18 = 4 * 56 * 56 * 9 * 64 * 64 + 3 * (28 * 28 * 9 * (64 * 128 + 3 * 128 * 128))  # each later stage costs what the second costs
GROUPED = 112 * 112 * 9 * (3 * 32 + 32 * 8 + 64 * 4)
COUNTS = {
    "BNN-18": (11_689_512, 11_157_504, BINARY_18 + SHORTCUTS, STEM, 0, 0, 512_000),
    "XNOR-Net-18": (11_689_512, 10_985_472, BINARY_18, STEM, SHORTCUTS, 0, 512_000),
    "XNOR-Net-18, binary shortcuts": (11_689_512, 11_157_504, BINARY_18 + SHORTCUTS, STEM, 0, 0, 512_000),
    "Bi-Real-18": (11_689_512, 10_985_472, BINARY_18, STEM, SHORTCUTS, 0, 512_000),
    "ReActNet-18": (11_704_424, 10_985_472, BINARY_18, STEM, SHORTCUTS, 0, 512_000),
    "Real-to-Binary": (11_986_920, 10_985_472, BINARY_18, STEM, SHORTCUTS, 294_400, 512_000),
    "ReActNet-A": (29_343_592, 28_253_184, 4_816_896_000, 112 * 112 * 9 * 3 * 32, 0, 0, 1_024_000),
    "MeliusNet-22": (6_944_584, 6_119_424, 4_624_220_160, GROUPED, 67_235_840, 0, 512_000),
    "MeliusNet-22, 7x7 stem": (6_948_392, 6_119_424, 4_624_220_160, STEM, 67_235_840, 0, 512_000),
    "MeliusNet-29": (11_328_328, 10_321_920, 5_469_585_408, GROUPED, 60_211_200, 0, 640_000),
    "MeliusNet-29, 7x7 stem": (11_332_136, 10_321_920, 5_469_585_408, STEM, 60_211_200, 0, 640_000),
    "PokeBNN-1.0x": (26_567_424, 20_676_608, 3_609_460_736, 56 * 56 * (16 * 3 * 32 + 9 * 64), 0, 3_632_640, 2_048_000),
    "PokeBNN-2.0x": (101_738_896, 82_698_240, 14_412_152_832, 56 * 56 * (16 * 3 * 32 + 9 * 64), 0, 14_528_000, 4_096_000),
}
# degree in percent: in the published table, as built, with 8 and 4 bits
DEGREES = {
    "BNN-18": ("18.07", "18.27", "64.13"),
    "XNOR-Net-18": ("18.07", "15.97", "60.33"),
    "XNOR-Net-18, binary shortcuts": ("18.07", "18.27", "64.13"),
    "Bi-Real-18": ("17.86", "15.97", "60.33"),
    "MeliusNet-22": ("16.76", "34.63", "80.91"),
    "MeliusNet-22, 7x7 stem": ("16.76", "28.00", "75.68"),
    "MeliusNet-29": ("16.76", "39.76", "84.08"),
    "MeliusNet-29, 7x7 stem": ("16.76", "32.33", "79.26"),
    "Real-to-Binary": ("14.34", "15.94", "60.30"),
    "ReActNet-18": ("13.89", "15.97", "60.33"),
    "ReActNet-A": ("86.50", "86.39", "98.07"),
    "PokeBNN-2.0x": ("97.15", "99.01", "99.01"),
    "PokeBNN-1.0x": ("-", "97.73", "97.73"),
    "BNext-18": ("61.04", "15.94", "60.30"),
    "BNext-T": ("97.81", "84.94", "97.95"),
    "BNext-S": ("98.47", "88.91", "98.58"),
    "BNext-M": ("99.02", "92.82", "99.17"),
    "BNext-L": ("99.49", "95.39", "99.52"),
}
# batch norm, PReLU, gates, low-bit layers, teacher
PARTS = {
    "BNN-18": "yes, no, no, no, no",
    "XNOR-Net-18": "yes, no, no, no, no",
    "Bi-Real-18": "yes, no (table: yes), no, no, no",
    "MeliusNet-22": "yes, no, no, no, no",
    "MeliusNet-29": "yes, no, no, no, no",
    "Real-to-Binary": "yes, yes, yes, no, yes",
    "ReActNet-18": "yes, yes, no, no, yes",
    "ReActNet-A": "yes, yes, no, no, yes",
    "PokeBNN": "yes, yes, yes, 8 and 4, yes",
    "BNext": "yes, yes, yes, no, yes",
}


@pytest.fixture(scope="module")
def found():
    """All networks of the table, counted once for this file."""
    return dict(degrees(per_layer=True))


def test_the_written_products_are_those_of_the_specification():
    assert (BINARY_18, BINARY_18 + SHORTCUTS) == (1_676_279_808, 1_695_547_392)
    assert (STEM, SHORTCUTS, GROUPED) == (118_013_952, 19_267_584, 68_640_768)
    assert (COUNTS["ReActNet-A"][3], COUNTS["PokeBNN-1.0x"][3]) == (10_838_016, 6_623_232)


@pytest.mark.parametrize("name", COUNTS)
def test_a_network_is_counted_to_the_last_digit(found, name):
    parameters, weights, binary, stem, shortcuts, gates, classifier = COUNTS[name]
    values, is_poke = found[name], name.startswith("PokeBNN")
    assert (values["parameters"], values["binary_weights"]) == (parameters, weights)
    wide, narrow = ("int8", "int4") if is_poke else ("float", "float")
    assert values["macs"]["binary"] == values["edition"]["macs"]["binary"] == binary
    assert values["macs"][wide] + (values["macs"][narrow] if is_poke else 0) == stem + shortcuts + gates + classifier
    assert values["edition"]["macs"] == {"binary": binary, "int8": stem + shortcuts + classifier, "int4": gates, "float": 0}
    real = [layer["macs"] for layer in values["layers"] if layer["edition"] == "int8"]
    stems = 3 if stem == GROUPED else 2 if is_poke else 1  # convolutions
    assert (sum(real[:stems]), sum(real[stems:-1]), real[-1]) == (stem, shortcuts, classifier)
    assert sum(layer["macs"] for layer in values["layers"] if layer["kind"] == "binary") == binary


def test_another_stem_of_meliusnet_42_has_3808_more_parameters(run):
    code, result, _ = run("count", "--model=meliusnet42", "--arguments={'stem': 'imagenet'}")
    assert code == 0 and result["meliusnet42"]["parameters"] == 26_825_544 + 3808 == 26_825_544 + (7 * 7 * 3 * 64 + 2 * 64) - (
        9 * (3 * 32 + 32 * 8 + 64 * 4) + 2 * (32 + 32 + 64)
    )


def test_the_degrees_and_parts_are_those_of_the_specification(found):
    heading, *rows = degree_rows(found)
    where = [heading.index(name) for name in ("published, %", "as built, %", "with 8 and 4 bits, %")]
    assert {row[0]: tuple(row[i] for i in where) for row in rows} == DEGREES and list(DEGREES) == list(ROWS)
    for row in rows:
        assert ", ".join(row[1:6]) == next(parts for name, parts in PARTS.items() if row[0].startswith(name)), row[0]
    assert heading[1:6] == ["batch norm", "PReLU", "gates", "low-bit layers", "teacher"]


def test_the_formulas_of_the_notes_give_the_degrees_that_they_name(found):
    """a / (64 x b), in percent."""
    results = {}
    for name, values in found.items():
        for binary, ops in re.findall(r"(\d+\.\d+) / \(64 x (\d\.\d+)\)", values["note"]):
            results.setdefault(name, []).append(f"{100 * float(binary) / (64 * float(ops)):.2f}")
    assert results == {
        "BNN-18": ["18.07"], "XNOR-Net-18": ["15.91"], "Bi-Real-18": ["17.86", "16.10"], "Real-to-Binary": ["14.34"],
        "ReActNet-18": ["13.89"], "ReActNet-A": ["86.57", "86.51"], "BNext-18": ["61.05"], "BNext-T": ["97.81"], "BNext-S": ["98.47"],
        "BNext-M": ["99.02"], "BNext-L": ["99.49"],
    }  # fmt: skip
    assert "61.047" in found["BNext-18"]["note"] and DEGREES["BNext-18"][0] == "61.04"
    sums = found["PokeBNN-2.0x"]["macs"]
    binary, others = sums["binary"] / 64, sums["int8"] + sums["int4"]
    assert round(100 * 14.412 / (64 * (14.412 / 64 + 0.0066)), 2) == 97.15 == round(100 * binary / (binary + 6.6e6), 2)
    assert f"it would be {100 * binary / (binary + others):.2f}" in found["PokeBNN-2.0x"]["note"]


def test_ace_is_the_sum_of_products_of_bits(found):
    for name, ace in (("PokeBNN-1.0x", "4,222,541,824"), ("PokeBNN-2.0x", "15,330,631,680")):
        _, _, binary, stem, _, gates, classifier = COUNTS[name]
        assert f"{binary + 8 * 8 * (stem + classifier) + 4 * 4 * gates:,}" == ace and ace in found[name]["note"]
    assert [name for name, values in found.items() if "ACE" in values["note"]] == ["PokeBNN-2.0x", "PokeBNN-1.0x"]


def test_the_table_is_printed_and_written(run, found, monkeypatch, tmp_path):
    monkeypatch.setattr(count, "degrees", found.items)
    code, result, error = run("count", "--table", f"--output={tmp_path / 'a.csv'}")
    assert code == 0 and list(result) == list(ROWS) and result["BNN-18"]["degree"] == found["BNN-18"]["degree"]
    assert "MeliusNet-29, 7x7 stem" in error and "Near 4.82 / (64 x 0.087)" in error
    with (tmp_path / "a.csv").open() as file:
        assert list(csv.reader(file)) == degree_rows(found)


def test_the_page_on_counting_has_the_table_of_the_command(found):
    assert tables.markdown(degree_rows(found)) in (ROOT / "docs" / "counting.md").read_text()


def test_sizes_and_our_own_ops_in_the_comparison_are_those_of_the_counts(found):
    others = [row for row in read_published() if row["family"] == "others"]
    for row in others:
        values = found.get({"BNN": "BNN-18", "XNOR-Net": "XNOR-Net-18"}.get(row["method"], row["method"]))
        if values is None:
            assert row["method"] in ("MeliusNet-42", "MeliusNet-59")  # not in the table
            continue
        assert row["megabytes"] == round(values["bytes"] / 1e6, 1), row
        if "OPs and size: ours" in row["source"]:
            assert row["gops"] == round(values["ops"] / 1e9, 3)
    assert [row["method"] for row in others if "OPs and size: ours" in row["source"]] == ["PokeBNN-1.0x", "PokeBNN-2.0x"]
