"""Several trained nnU-Nets as one set of bundles with one label table."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tomoseg.bundle.configs import as_text
from tomoseg.bundle.folder import new_bundle, require_free
from tomoseg.bundle.metadata import Bundle
from tomoseg.convert.nnunet.bundle import ImportedModel, import_nnunet
from tomoseg.core.errors import UsageError
from tomoseg.data.labels import same_name
from tomoseg.planning.metadata import describe_bundle


def import_set(
    models: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    on_step: Callable[[str], None] | None = None,
    **options: Any,
) -> list[ImportedModel]:
    """Write several trained nnU-Nets as one set, which `tomoseg segment -b SET` runs one after the other.

    Labels are numbered from 1 in the order of the models; a name that occurs twice is one label.

    Args:
        models: as for `import_nnunet`, in the order in which they run; the later one wins a voxel that two claim.
        output: the set's folder, which is made.
        overwrite: replace a set that is there.
        on_step: gets a line about each step.
        **options: as for `import_nnunet`, for all models.

    Raises:
        UsageError: the models take scans of different kinds.

    Example:
        >>> [model.title for model in import_set(["organs.zip", "bones.zip"], "body")]
        ['Dataset291_organs', 'Dataset292_bones']
    """
    target = Path(output)
    name = require_free(target, overwrite)
    with new_bundle(target) as staging:
        made, members = [], []
        for index, model in enumerate(models):
            say = (lambda step, index=index: on_step(f"model {index + 1}: {step}")) if on_step else None
            folder = staging / "members" / f"{index + 1}"
            made.append(import_nnunet(model, folder, on_step=say, **options))
            members.append(Bundle(folder.name, folder))
        kinds = {(member.modality, tuple(member.input_names.values())) for member in members}
        if len(kinds) > 1:
            listed = " and ".join(sorted(f"{kind} ({', '.join(channels)})" for kind, channels in kinds))
            raise UsageError(f"{target}: the models take {listed}. Put models of one kind of scan into a set")
        values: dict[str, int] = {}
        names: dict[int, str] = {}
        for label in (label for member in members for label in member.labels.values()):
            value = values.setdefault(same_name(label), len(values) + 1)
            names.setdefault(value, label)
        first = members[0]
        patch = first.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        channels = list(first.input_names.values())
        metadata = describe_bundle(names, patch, first.modality, channels, name) | {
            "changelog": {"0.1.0": "imported from nnU-Net by tomoseg"},
            "copyright": "; ".join(dict.fromkeys(str(member.metadata["copyright"]) for member in members)),
            "data_source": "; ".join(str(member.metadata["data_source"]) for member in members),
            "members": [
                {
                    "folder": member.name,
                    "dataset": one.title,
                    "labels": {str(own): values[same_name(label)] for own, label in member.labels.items()},
                }
                for member, one in zip(members, made, strict=True)
            ],
        }
        (staging / "configs").mkdir()
        (staging / "configs" / "metadata.json").write_text(as_text(metadata), encoding="utf-8")
    return made
