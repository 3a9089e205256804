"""Pictures that become part of a page."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

from tomoseg.core.files import require_regular
from tomoseg.core.threads import choose_threads

# (pictures, pixels across): a preview has 1080, which take about 65 kB; 540 take 22 kB, 270 take 7 kB. A browser would
# have to hold too much beyond these numbers.
PICTURE_SIZES = ((250, 1080), (1500, 540), (6000, 270))
JPEG_QUALITY = 75


def embed(paths: Sequence[str | None]) -> list[str]:
    """Return pictures as `data:` URIs (JPEG), the smaller the more there are.

    Args:
        paths: None where there is no picture.

    Returns:
        "" where there is no picture, it cannot be read, there are more than 6000, or Pillow is not installed.
    """
    count = sum(path is not None for path in paths)
    across = next((size for limit, size in PICTURE_SIZES if count <= limit), 0)
    if not count or not across:
        return [""] * len(paths)
    # Pillow lets other threads work while it decodes the PNG, which takes 7 ms of a picture's 9
    with ThreadPoolExecutor(choose_threads(None)) as pool:
        return list(pool.map(lambda path: _encode(path, across) if path else "", paths))


def _encode(path: str, across: int) -> str:
    try:
        from PIL import Image  # comes with matplotlib, without which there are no previews

        with Image.open(require_regular(Path(path))) as picture:
            image = picture.convert("RGB")
        factor = -(-image.width // across)
        buffer = BytesIO()
        (image.reduce(factor) if factor > 1 else image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    except Exception:  # Pillow raises many kinds for a damaged file; the page is good without it
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
