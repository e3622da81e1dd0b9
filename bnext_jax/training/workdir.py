"""The work directory of a run: makes it, or checks that it belongs to the same run."""

import json
import os

from etils import epath

from bnext_jax.config import Config, changed_fields, to_json
from bnext_jax.errors import UserError
from bnext_jax.io.files import write_whole
from bnext_jax.training import cluster

CONFIG_FILE = "config.json"


def claim(workdir: os.PathLike | str, config: Config) -> epath.Path:
    """Makes a work directory, or checks that it holds the same run. Then writes the configuration into it.

    With several processes, only process 0 does this. A run without a checkpoint has nothing to lose, so all its settings may change.

    Args:
      workdir: the folder, on a disk or in a bucket (gs://...).
      config: the run's configuration.
    Returns:
      The folder's path.
    Raises:
      UserError: no folder is given, it cannot be made or written, it holds other files, or it holds a run with checkpoints and other
        values in fields that may not change (the message names all of them).
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
            raise UserError(f"{workdir} is not empty and holds no bnext run; take a new or empty folder as --workdir")
        write_whole(path, json.dumps(to_json(config), indent=1), "configuration")
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"the work directory {workdir} cannot be used: {error}") from error
    return root


def check_shared(root: epath.Path, config: Config) -> None:
    """Checks that this process sees the same work directory as process 0, by the configuration in it.

    Args:
      root: from `claim`.
      config: the run's configuration.
    Raises:
      UserError: the configuration is missing there or is another one.
    """
    path = root / CONFIG_FILE
    if not path.exists() or json.loads(path.read_text()) != to_json(config):
        raise UserError(f"the work directory {root} is not the same folder in all processes; name one that all of them reach (gs://...)")
