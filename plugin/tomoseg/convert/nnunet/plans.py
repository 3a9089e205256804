"""What nnU-Net's plans.json says of a configuration, checked value by value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from tomoseg.convert.nnunet.entry import Entry
from tomoseg.core.errors import BundleError

Triple = tuple[int, int, int]
Value = TypeVar("Value")

MAX_STAGES, MAX_FEATURES, MAX_CONVOLUTIONS, MAX_EDGE = 12, 4096, 64, 4096
# networks by their class; PlainConvUNet and ResidualEncoderUNet only, whose weights lie as their arguments say
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
# nnU-Net's readers that turn a scan to RAS first
REORIENTING = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")
READERS = {name: "RAS" if name in REORIENTING else None for name in ("SimpleITKIO", "NibabelIO", *REORIENTING)}
SCHEMES = (
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)


@dataclass(frozen=True)
class Channel:
    """How a channel of the scan is normalised.

    Attributes:
        scheme: nnU-Net's name, one of `SCHEMES`.
        masked: by the voxels inside only, which are not 0.
        mean, std, low, high: of the voxels that were trained on, for CTNormalization: mean, standard deviation, 0.5th
            and 99.5th percentile.
    """

    scheme: str
    masked: bool = False
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @property
    def in_mask(self) -> bool:
        """Whether only the voxels inside are normalised; nnU-Net looks at the mask for this scheme alone."""
        return self.masked and self.scheme == "ZScoreNormalization"


@dataclass(frozen=True)
class Resampling:
    """How scans are brought to the network's grid.

    Attributes:
        resamples: whether they are at all.
        order: of the interpolation.
        max_anisotropy: ratio of the voxel sizes above which the coarsest axis is resampled by itself; None for never.
    """

    resamples: bool = True
    order: int = 3
    max_anisotropy: float | None = 3.0


@dataclass(frozen=True)
class Architecture:
    """A network of nnU-Net, along its own axes.

    Attributes:
        name: one of `NETWORKS`.
        features: of each stage.
        kernels, strides: of each stage.
        encoder: convolutions or blocks of each stage.
        decoder: convolutions of each stage but the last.
        bias: whether convolutions have one.
        epsilon: of the norms.
        slope: of the leaky ReLU below 0.
    """

    name: str
    features: tuple[int, ...]
    kernels: tuple[Triple, ...]
    strides: tuple[Triple, ...]
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    bias: bool
    epsilon: float
    slope: float


@dataclass(frozen=True)
class Plans:
    """One configuration of nnU-Net; what belongs to axes is along the network's.

    Attributes:
        spacing: voxel size of the network's grid, in mm.
        patch: size of the window, in voxels.
        transpose: for each axis of the network that of the scan as nnU-Net reads it, whose order is z, y, x.
        axcodes: orientation to which nnU-Net turns a scan; None where it takes it as its file has it.
        channels: of the scan.
        resampling: of the scan.
        architecture: of the network.
    """

    spacing: tuple[float, float, float]
    patch: Triple
    transpose: Triple
    axcodes: str | None
    channels: tuple[Channel, ...]
    resampling: Resampling
    architecture: Architecture

    @property
    def axes(self) -> Triple:
        """For each axis of a scan's file, i, j, k, that of the network: nnU-Net reads files in the order k, j, i."""
        i, j, k = (self.transpose.index(2 - axis) for axis in range(3))
        return i, j, k

    def along_file(self, values: Sequence[Value]) -> list[Value]:
        """Return values of the network's axes, in the order of the file's axes i, j, k."""
        return [values[axis] for axis in self.axes]


def read_plans(plans: Entry, configuration: str) -> Plans:
    """Return a configuration of plans.json.

    Raises:
        BundleError: something is missing, contradicts itself, or cannot be run here.
    """
    chosen = _inherit(plans["configurations"], configuration, ())
    patch = _triple(chosen["patch_size"], MAX_EDGE)
    if "previous_stage" in chosen:
        raise BundleError(f"{chosen.where}: is the second stage of a cascade, which cannot be imported. Choose another")
    i, j, k = (entry.number(1e-3, 1e3) for entry in chosen["spacing"].elements(3))
    transpose = _triple(plans["transpose_forward"], 2, low=0)
    if sorted(transpose) != [0, 1, 2]:
        raise plans["transpose_forward"].error("an order of the axes 0, 1, 2")
    return Plans(
        spacing=(i, j, k),
        patch=patch,
        transpose=transpose,
        axcodes=plans["image_reader_writer"].choice(READERS),
        channels=_channels(plans, chosen),
        resampling=_resampling(chosen),
        architecture=_architecture(chosen),
    )


def _inherit(configurations: Entry, name: str, before: tuple[str, ...]) -> Entry:
    """Return a configuration with its inherited entries."""
    if name in before:
        raise BundleError(
            f"{configurations.where}: {name!r} inherits from itself. Give the plans as nnU-Net wrote them"
        )
    entry = configurations[name]
    if "inherits_from" not in entry:
        return entry
    parent = _inherit(configurations, entry["inherits_from"].text(), (*before, name))
    return Entry({**parent.value, **entry.value}, entry.where)


def _triple(entry: Entry, high: int, low: int = 1) -> Triple:
    elements = entry.elements()
    if len(elements) == 2:
        raise BundleError(f"{entry.where}: is of a 2D network, which cannot be imported. Choose a 3D configuration")
    if len(elements) != 3:
        raise entry.error("a list of 3")
    i, j, k = (element.whole(low, high) for element in elements)
    return i, j, k


def _channels(plans: Entry, chosen: Entry) -> tuple[Channel, ...]:
    schemes = [entry.choice({name: name for name in SCHEMES}) for entry in chosen["normalization_schemes"].elements()]
    masks = [entry.flag() for entry in chosen["use_mask_for_norm"].elements(len(schemes))]
    by = "foreground_intensity_properties_per_channel"
    properties = plans[by if by in plans else "foreground_intensity_properties_by_modality"]
    channels = []
    for index, (scheme, masked) in enumerate(zip(schemes, masks, strict=True)):
        if scheme != "CTNormalization":
            channels.append(Channel(scheme, masked))
            continue
        one = properties[str(index)]
        low, high = one["percentile_00_5"].number(), one["percentile_99_5"].number()
        if low >= high:
            raise one["percentile_99_5"].error(f"more than {low:g}")
        channels.append(Channel(scheme, masked, one["mean"].number(), one["std"].number(0), low, high))
    return tuple(channels)


def _resampling(chosen: Entry) -> Resampling:
    names = {"resample_data_or_seg_to_shape": True, "resample_torch_fornnunet": False, "no_resampling_hack": None}
    splines = chosen["resampling_fn_data"].choice(names)
    back = chosen["resampling_fn_probabilities"]
    if back.choice(names) is not splines:
        raise back.error(f"the function of the scan, {chosen['resampling_fn_data'].value}")
    if splines is None:
        return Resampling(resamples=False)
    options, options_back = chosen["resampling_fn_data_kwargs"], chosen["resampling_fn_probabilities_kwargs"]
    order = (options["order"].whole(0, 5) if "order" in options else 3) if splines else 1
    if splines and (options_back["order"].whole(0, 5) if "order" in options_back else 3) != 1:
        raise options_back["order"].error("order 1")
    for one in (options, options_back):
        if "order_z" in one and splines:
            one["order_z"].whole(0, 0)
    separate = _max_anisotropy(options, splines)
    if _max_anisotropy(options_back, splines) != separate:
        raise options_back.error("the rule of the scan for a coarsest axis")
    return Resampling(order=order, max_anisotropy=separate)


def _max_anisotropy(options: Entry, splines: bool) -> float | None:
    """Return the largest ratio of voxel sizes without a coarsest axis; where nothing is said, splines have none."""
    key, threshold = "force_separate_z", "separate_z_anisotropy_threshold"
    if key in options:
        return 0.0 if options[key].flag() else None
    if splines and key not in options.items():
        return None
    return options[threshold].number(1) if threshold in options else 3.0


def _architecture(chosen: Entry) -> Architecture:
    """Return the network; plans from before nnU-Net 2.2 describe it by other names."""
    if "architecture" in chosen:
        name, arguments = chosen["architecture"]["network_class_name"], chosen["architecture"]["arch_kwargs"]
    else:
        name, arguments = chosen["UNet_class_name"], _from_old(chosen)
    short = name.text().rpartition(".")[2]
    if short not in NETWORKS:
        raise BundleError(f"{name.where}: the network {short!r} cannot be imported, only {' and '.join(NETWORKS)}")
    _require_known(arguments)
    features = arguments["features_per_stage"]
    stages = len(features.elements())
    if not 2 <= stages <= MAX_STAGES:
        raise features.error(f"2 to {MAX_STAGES} stages")
    blocks = arguments["n_conv_per_stage" if short == "PlainConvUNet" else "n_blocks_per_stage"]
    strides = tuple(_triple_or_one(entry, 8) for entry in arguments["strides"].elements(stages))
    if strides[0] != (1, 1, 1):
        raise arguments["strides"].error("[1, 1, 1] at the first stage")
    norm, activation = arguments["norm_op_kwargs"], arguments["nonlin_kwargs"]
    return Architecture(
        name=short,
        features=tuple(entry.whole(1, MAX_FEATURES) for entry in features.elements()),
        kernels=tuple(_triple_or_one(entry, 15) for entry in arguments["kernel_sizes"].elements(stages)),
        strides=strides,
        encoder=_each(blocks, stages),
        decoder=_each(arguments["n_conv_per_stage_decoder"], stages - 1),
        bias=arguments["conv_bias"].flag() if "conv_bias" in arguments else False,
        epsilon=norm["eps"].number(0, 1) if "eps" in norm else 1e-5,
        slope=activation["negative_slope"].number(0, 1) if "negative_slope" in activation else 0.01,
    )


def _from_old(chosen: Entry) -> Entry:
    base = chosen["UNet_base_num_features"].whole(1, MAX_FEATURES)
    most = chosen["unet_max_num_features"].whole(1, MAX_FEATURES)
    encoder = chosen["n_conv_per_stage_encoder"]
    count = len(encoder.elements())
    blocks = "n_conv_per_stage" if chosen["UNet_class_name"].text() == "PlainConvUNet" else "n_blocks_per_stage"
    arguments = {
        "features_per_stage": [min(base * 2 ** min(stage, MAX_STAGES), most) for stage in range(count)],
        "kernel_sizes": chosen["conv_kernel_sizes"].value,
        "strides": chosen["pool_op_kernel_sizes"].value,
        blocks: encoder.value,
        "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"].value,
        "conv_bias": True,
        "norm_op_kwargs": {"affine": True},
        "nonlin_kwargs": {},
    }
    return Entry(arguments, chosen.where)


def _require_known(arguments: Entry) -> None:
    """Refuse what would make another network of the same weights."""
    known = {
        "conv_op": ("Conv3d",),
        "norm_op": ("InstanceNorm3d", "BatchNorm3d"),
        "nonlin": ("LeakyReLU",),
    }
    for key, names in known.items():
        if key in arguments and arguments[key].text().rpartition(".")[2] not in names:
            raise arguments[key].error(f"{' or '.join(names)} of torch")
    if "affine" in arguments["norm_op_kwargs"] and not arguments["norm_op_kwargs"]["affine"].flag():
        raise arguments["norm_op_kwargs"].error("norms with 'affine': true")
    for key in ("nonlin_first", "block", "bottleneck_channels", "stem_channels"):
        if key in arguments and arguments[key].value is not False:
            raise arguments[key].error("nothing, as in nnU-Net's own plans")


def _triple_or_one(entry: Entry, high: int) -> Triple:
    if isinstance(entry.value, list):
        return _triple(entry, high)
    return (entry.whole(1, high),) * 3


def _each(entry: Entry, stages: int) -> tuple[int, ...]:
    if isinstance(entry.value, list):
        return tuple(element.whole(1, MAX_CONVOLUTIONS) for element in entry.elements(stages))
    return (entry.whole(1, MAX_CONVOLUTIONS),) * stages
