"""What a user asks of a plan: the options of `tomoseg plan`."""

from dataclasses import dataclass
from shutil import which
from typing import Annotated, Literal

from tomoseg.bundle.options import parse_size
from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option, require_choices
from tomoseg.planning.imbalance import INVERSE_VOLUME, UNIFORM, LossName, named_ratios
from tomoseg.planning.presets import PresetName

GPU_TOOL = "nvidia-smi"  # shows a GPU without torch, which takes seconds to import


@dataclass(frozen=True)
class PlanningOptions:
    """Options to plan a bundle.

    Attributes:
        memory: memory that a training may take, on a GPU of its own, in bytes or as in 6GB.
        device: what the bundle will be trained on; auto is a GPU where the computer has one.
        preset: how large the network may be.
        modality: what the scans are; by default as the dataset says, or as its values look.
        label_names: names of the labels of a dataset that does not name them, or a JSON file with them.
        loss: the last two are for labels that are rare or small.
        sampling: how often windows lie on each label: all alike, smaller ones more often, or as the ratios say (1 for
            labels left out).
        synthetic: share of the training images that is drawn from the label maps, with random contrast, in (0, 1]; 1
            needs no scans.
        overwrite: replace the configs and docs of a bundle that is there; its weights stay.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import tomoseg
        >>> tomoseg.PlanningOptions(memory="16GB", device="cuda").memory_bytes
        16000000000
    """

    memory: Annotated[int | str, Option("SIZE")] = "8GB"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    preset: PresetName = "medium"
    modality: Annotated[str | None, Option("CT|MR")] = None
    label_names: Annotated[str | None, Option("1=NAME,2=NAME|FILE")] = None
    loss: LossName = "dice-ce"
    sampling: Annotated[str, Option(f"{UNIFORM}|{INVERSE_VOLUME}|NAME=RATIO,…")] = UNIFORM
    synthetic: Annotated[float | None, Option("SHARE")] = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        require_choices(self)
        if self.synthetic is not None and not 0 < self.synthetic <= 1:
            raise UsageError(f"synthetic: expected a share above 0 and at most 1, got {self.synthetic}")
        _ = self.memory_bytes, named_ratios(self.sampling)

    @property
    def memory_bytes(self) -> int:
        """Memory that a training may take, of RAM on a CPU, of the GPU on one."""
        return parse_size(self.memory, "memory")

    @property
    def trained_on(self) -> Literal["cpu", "cuda"]:
        """The kind of device that the bundle will be trained on."""
        if self.device == "auto":
            return "cuda" if which(GPU_TOOL) else "cpu"
        return self.device
