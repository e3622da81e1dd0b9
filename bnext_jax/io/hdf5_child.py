"""The process that opens an HDF5 file with h5py: python -P hdf5_child.py PATH. It lists what the file holds; it reads no array.

The HDF5 library trusts its files: on a damaged one it may crash, take all memory, or never end. So it runs in a process of its own with
limits, and the parent (io.hdf5) judges the list and reads the arrays from the file itself. Nothing of bnext_jax is imported here.

Standard output is one JSON list with an entry for each link that is found, the root's first. An entry is [path, kind, facts]:
  path: the names from the root on.
  kind: "group", "dataset", "again" (an object that another link reached before), or what is neither listed nor followed: "named type",
    "soft link", "external link", "user-defined link".
  facts: of a group, {attribute: names} for the attributes with the names of layers and weights; names is None if it holds no names. Of a
    dataset, see `facts_of`. Else None.
If the file cannot be listed, the output is the reason, as a JSON text.
"""

import json
import re
import resource
import sys

MISSING = 3  # exit code: h5py is not installed
SECONDS, MEMORY, LISTED, DEEPEST = 20, 2**30, 2**26, 32  # processor time, bytes, bytes of the list, groups inside each other
NAMES = re.compile(r"(layer|weight)_names\d*")  # Keras cuts a long list into parts with numbers


def names_in(group, name):
    """The texts in an attribute of a group, or None if it does not hold texts."""
    import h5py

    attribute = h5py.h5a.open(group.id, name.encode())
    if 0 in attribute.shape:  # Keras writes the names of a layer without weights as an empty list of numbers
        return []
    if attribute.get_type().get_class() != h5py.h5t.STRING or len(attribute.shape) != 1:
        return None
    return [text.decode() if isinstance(text, bytes) else text for text in group.attrs[name].tolist()]


def facts_of(dataset):
    """What the parent must know to read a dataset.

    Returns:
      {"type": numpy's name of the numbers' type, or None for all else; "shape": None if it has none; "layout": "contiguous" if its bytes
      stand in one place of this file, else how they are kept; "offset": that place, None if nothing was ever written there}.
    """
    from h5py import h5d, h5s, h5t

    plain = {
        name: (getattr(h5t, f"{family}{size * 8}{order}E"))
        for family, letter, sizes in (("IEEE_F", "f", (2, 4, 8)), ("STD_I", "i", (1, 2, 4, 8)), ("STD_U", "u", (1, 2, 4, 8)))
        for size in sizes
        for order, name in (("L", f"<{letter}{size}"), ("B", f">{letter}{size}"))
    }
    kind, space, plan = dataset.get_type(), dataset.get_space(), dataset.get_create_plist()
    layouts = {h5d.CONTIGUOUS: "contiguous", h5d.CHUNKED: "in chunks", h5d.COMPACT: "in its header", h5d.VIRTUAL: "in other datasets"}
    layout = "in other files" if plan.get_external_count() else layouts.get(plan.get_layout(), "in an unknown way")
    return {
        "type": next((name for name, known in plain.items() if kind.equal(known)), None),
        "shape": None if space.get_simple_extent_type() == h5s.NULL else space.get_simple_extent_dims(),
        "layout": layout,
        "offset": dataset.get_offset() if layout == "contiguous" else None,
    }


def listed(path):
    """The list of the module's docstring."""
    import h5py
    from h5py import h5g, h5l, h5o

    kinds = {h5l.TYPE_SOFT: "soft link", h5l.TYPE_EXTERNAL: "external link"}
    with h5py.File(path, "r", locking=False) as file:
        root = h5g.open(file.id, b"/")
        seen = {h5o.get_info(root).addr}
        found: list[tuple] = []
        waiting: list[tuple[list[str], h5g.GroupID]] = [([], root)]
        while waiting:
            place, group = waiting.pop()
            if len(place) > DEEPEST:
                raise ValueError(f"more than {DEEPEST} groups inside each other")
            high = h5py.Group(group)
            found.append((place, "group", {name: names_in(high, name) for name in high.attrs if NAMES.fullmatch(name)}))
            for name in group:
                inside, link = [*place, name.decode()], group.links.get_info(name).type
                if link != h5l.TYPE_HARD:
                    found.append((inside, kinds.get(link, "user-defined link"), None))
                    continue
                held = h5o.open(group, name)
                address = h5o.get_info(held).addr
                if address in seen:
                    found.append((inside, "again", None))
                elif isinstance(held, h5g.GroupID):
                    waiting.append((inside, held))
                elif isinstance(held, h5py.h5d.DatasetID):
                    found.append((inside, "dataset", facts_of(held)))
                else:
                    found.append((inside, "named type", None))
                seen.add(address)
    return found


def main(path):
    """Prints the list, or the reason why there is none."""
    try:
        import h5py  # noqa: F401, before the limits: loading takes address space
    except ImportError:
        sys.exit(MISSING)
    with open("/proc/self/statm") as file:
        memory = int(file.read().split()[0]) * resource.getpagesize()
    for kind, limit in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_AS, memory + MEMORY), (resource.RLIMIT_CORE, 0)):
        allowed = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if allowed == resource.RLIM_INFINITY else min(limit, allowed), allowed))
    try:
        text = json.dumps(listed(path), ensure_ascii=False).encode()
        if len(text) > LISTED:
            raise ValueError(f"its names take more than {LISTED} bytes")
    except Exception as error:  # h5py has many types
        text = json.dumps(f"{type(error).__name__}: {error}").encode()
    sys.stdout.buffer.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
