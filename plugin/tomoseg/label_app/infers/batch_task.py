"""MONAI Label's task that segments many images of the studies, whatever becomes of one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from tomoseg.core.errors import UsageError, VolumeError, one_line
from tomoseg.label_app.request import number


class IsolatedBatch(BatchInferTask):  # type: ignore[misc]
    """Segments one image after the other; a bad one is told, and the others are done.

    MONAI Label's own starts four threads on one GPU, and ends with the first bad image where it does not.
    """

    def __call__(
        self, request: Mapping[str, Any], datastore: Datastore, infer: Callable[..., dict[str, Any]]
    ) -> dict[str, Any]:
        """Segment the images of a request, and keep each result under a tag.

        Args:
            request: `model`; `images` ("all", "labeled", "unlabeled" or ids); `label_tag`, "original" if absent;
                `max_batch_size`, 0 for all of them; and the options of the model.
            datastore: the studies.
            infer: segments one.

        Returns:
            For each image id its `label` and `warnings`, or the `error` that was met.

        Raises:
            UsageError: final labels, which annotators have made, would be overwritten.
        """
        tag = str(request.get("label_tag") or DefaultLabelTag.ORIGINAL.value)
        if tag == DefaultLabelTag.FINAL.value:
            raise UsageError("label_tag: expected another tag than final, which is for what annotators save")
        images = sorted(self.get_images(request, datastore))
        images = images[: int(number(request, "max_batch_size", 0) or 0) or len(images)]
        known = set(datastore.list_images())
        results: dict[str, Any] = {}
        for count, image in enumerate(images, 1):
            asked = {**request, "image": image, "save_label": True, "label_tag": tag}
            try:
                if image not in known:  # a path, say, of another file of this computer
                    raise VolumeError(f"image {image!r}: no such image in the studies")
                answer = infer(asked, datastore)
                Path(answer["file"]).unlink(missing_ok=True)
                results[image] = {"label": answer["label"], "tag": tag, "warnings": answer["params"]["warnings"]}
                print(f"{count}/{len(images)} {image}: done", flush=True)
            except Exception as error:  # whatever it is, it is this image's
                results[image] = {"error": one_line(error)}
                print(f"{count}/{len(images)} {image}: failed: {one_line(error)}", flush=True)
        failed = sum("error" in result for result in results.values())
        print(f"{len(results) - failed} of {len(results)} images segmented, {failed} failed", flush=True)
        return results
