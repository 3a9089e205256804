"""How the files of a dataset are found and read by a config that names nothing but MONAI and Python."""

from dataclasses import dataclass
from itertools import takewhile

from tomoseg.core.errors import DatasetError
from tomoseg.data.channels import FIRST_CHANNEL
from tomoseg.data.datasets import DESCRIPTION, FOLDERS, Dataset, Pair
from tomoseg.data.formats import is_nifti, missing_reader, strip_suffix
from tomoseg.data.nifti import load_nifti
from tomoseg.data.packed import max_expansion

NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Layout:
    """Where scans and label maps lie.

    Attributes:
        listed: dataset.json lists the pairs; the rest is empty then.
        has_validation: it lists some for validation, too.
        image_folder, label_folder: names of the folders.
        image_ending, label_ending: what follows the name that scan and label map have in common; of several files, in
            the first one's name.
        files: how many each scan has: one for each channel, or a single one.
        itk: whether MONAI needs that package to read them.
    """

    listed: bool
    has_validation: bool = False
    image_folder: str = ""
    label_folder: str = ""
    image_ending: str = ""
    label_ending: str = ""
    files: int = 1
    itk: bool = False

    @property
    def default_fold(self) -> int | str:
        """Default validation cases."""
        return "validation" if self.has_validation else 0

    @property
    def datalist(self) -> str:
        """Expression for the list of scans in `dataset_dir`."""
        found = f"for f in sorted(os.listdir(@dataset_dir)) if f.endswith({NIFTI_SUFFIXES}) and not f.startswith('.')"
        if self.files == 1:
            return f"$[{{'image': os.path.join(@dataset_dir, f)}} {found}]"
        firsts = tuple(FIRST_CHANNEL + suffix for suffix in NIFTI_SUFFIXES)
        part = "os.path.join(@dataset_dir, '_{:04}'.format(c).join(f.rsplit('_0000', 1)))"
        return (
            f"$[{{'image': [{part} for c in range({self.files})]}} {found.replace(str(NIFTI_SUFFIXES), str(firsts))}]"
        )


def find_layout(dataset: Dataset, listed: bool) -> Layout:
    """Return how the pairs of a dataset are named.

    Args:
        dataset: the dataset.
        listed: whether dataset.json lists the pairs.

    Raises:
        DatasetError: the names do not follow one pattern, or MONAI cannot read the files.
    """
    itk = _needs_itk(dataset)
    files = 1 + len(dataset.pairs[0].other_channels)
    if listed:
        return Layout(True, any(pair.part == "validation" for pair in dataset.pairs), files=files, itk=itk)
    endings = sorted({_endings(pair) for pair in dataset.pairs})
    folders = sorted({(pair.image.parent.name, pair.label.parent.name) for pair in dataset.pairs})
    if len(endings) > 1 or len(folders) > 1:
        shown = ", ".join(f"CASE{image} with CASE{label}" for image, label in endings[:3])
        raise DatasetError(
            f"{dataset.root}: expected files named alike, or listed in {DESCRIPTION}; got {shown}: rename them"
        )
    if not dataset.has_scans:  # where the scans of an evaluation are
        folders = [names for names in FOLDERS if names[1] == folders[0][1]]
    return Layout(False, False, *folders[0], *endings[0], files, itk)


def _needs_itk(dataset: Dataset) -> bool:
    paths = [path for pair in dataset.pairs for path in (pair.image, *pair.other_channels, pair.label)]
    for path in paths:
        if why := missing_reader(path):
            raise DatasetError(f"{path}: {why}")
        shape = load_nifti(path).shape if is_nifti(path) else ()
        if path.name.lower().endswith(".gz") and max_expansion(path) == 1:
            raise DatasetError(f"{path}: expected a file packed by gzip, as MONAI does by its name. Rename it to .nii")
        if len(shape) > 4:
            got = "×".join(map(str, shape))
            raise DatasetError(f"{path}: expected a 3D or 4D file, which MONAI can read, got {got} voxels. Convert it")
    return not all(map(is_nifti, paths))


def _endings(pair: Pair) -> tuple[str, str]:
    """Return what follows the name of the case: the channel's number or `_seg`, and the suffix."""
    image, label = (strip_suffix(path.name) for path in (pair.image, pair.label))
    common = len(list(takewhile(lambda letters: letters[0] == letters[1], zip(image, label, strict=False))))
    return pair.image.name[common:], pair.label.name[common:]
