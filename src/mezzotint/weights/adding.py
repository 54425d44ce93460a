"""Adding a weight file to a model folder that exists."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from mezzotint.configs import Spec, to_dict
from mezzotint.weights.io import SPEC_FILE, WeightSet, fill_model, replacing, write_text


def add_weights(folder: Path | str, spec: Spec, held: WeightSet | None, *, of: str | None, instead: str) -> Spec:
    """Adds a weight file to a model folder, in the place of an older one, and writes its spec anew, atomically.

    Args:
        folder: The model folder.
        spec: The spec to be written; its list of weight files is kept, and added to.
        held: The weights, or None to change the spec alone.
        of: Name of the weight file that the new one belongs to.
        instead: Name of the weight file that goes, if it is there.

    Returns:
        The spec as written.

    Raises:
        CheckpointError: The file system refuses; what was there is unchanged.
    """
    folder = Path(folder).resolve()
    with replacing(folder) as temporary:
        shutil.copytree(folder, temporary, copy_function=_link, dirs_exist_ok=True)
        (temporary / instead).unlink(missing_ok=True)
        added = {} if held is None else fill_model(temporary, spec, [held]).weights
        for info in added.values():
            info["of"] = of
        spec = replace(spec, weights={**{k: v for k, v in spec.weights.items() if k != instead}, **added})
        write_text(temporary / SPEC_FILE, json.dumps(to_dict(spec), indent=2) + "\n")
    return spec


def _link(source: str, target: str) -> str:
    """Links a file, or copies it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
