"""The work directory of a run: made, recognised, and refused where it belongs to another run."""

import json

from etils import epath

from bnext_jax.config import changed_fields, to_json
from bnext_jax.errors import UserError
from bnext_jax.io.files import write_whole
from bnext_jax.training import cluster

CONFIG_FILE = "config.json"


def claim(workdir, config):
    """Makes a work directory, or checks that it holds the same run; writes the configuration into it. Returns its epath.Path.

    It may lie in a bucket (gs://...). Of several processes the first one does it all.

    A run without any checkpoint yet has nothing to lose and may change all its settings.

    Raises:
      UserError: it cannot be made or written to, holds files of something else, or a run with checkpoints whose
        configuration differs in fields that may not change (all are named).
    """
    if not workdir:
        raise UserError("--workdir is missing; name the folder for checkpoints and logs")
    root = epath.Path(workdir)
    path = root / CONFIG_FILE
    if not cluster.is_first():
        return root
    try:
        root.mkdir(parents=True, exist_ok=True)
        if path.exists() and any(entry.name.isdigit() for entry in root.glob("checkpoints/*")):
            changed = changed_fields(json.loads(path.read_text()), config)
            if changed:
                raise UserError(
                    f"{workdir} holds a run with other settings: {', '.join(changed)}; take another --workdir or the old settings"
                )
        elif not path.exists() and any(entry.name != f".{CONFIG_FILE}.partial" for entry in root.iterdir()):
            raise UserError(f"{workdir} is not empty and holds no run of ours; take a new or empty folder as --workdir")
        write_whole(path, json.dumps(to_json(config), indent=1), "configuration")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"the work directory {workdir} cannot be used: {error}") from error
    return root


def check_shared(root, config):
    """Raises UserError in a process that does not find in the work directory what the first one has claimed it for."""
    path = root / CONFIG_FILE
    if not path.exists() or json.loads(path.read_text()) != to_json(config):
        raise UserError(f"the work directory {root} is not the same folder in all processes; name one that all of them reach (gs://...)")
