"""Names of the formats that a network can be exported to, without what writes them."""

from typing import Final, Literal

FormatName = Literal["onnx", "torchscript", "torch-export", "openvino", "openvino-int8", "tensorrt"]
MAX_DICE_LOSS: Final = 0.01  # of int8 labels
