"""MONAI Label's task that segments many images, past those that fail."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.batch_infer import BatchInferTask

from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.core.notes import print_line
from tomoseg.label_app.each_image import for_each_image, limit_images


class IsolatedBatch(BatchInferTask):  # type: ignore[misc]
    """Segment one image after the other; a failed image is reported, and the others continue.

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
        images = limit_images(sorted(self.get_images(request, datastore)), request, "max_batch_size")
        known = set(datastore.list_images())
        results: dict[str, Any] = {}

        def segment(image: str) -> None:
            if image not in known:  # a path, say, of another file of this computer
                raise VolumeError(f"image {image!r}: no such image in the studies")
            answer = infer({**request, "image": image, "save_label": True, "label_tag": tag}, datastore)
            Path(answer["file"]).unlink(missing_ok=True)
            results[image] = {"label": answer["label"], "tag": tag, "warnings": answer["params"]["warnings"]}

        failed = for_each_image(images, segment, "done")
        print_line(f"{len(results)} of {len(images)} images segmented, {len(failed)} failed")
        return {image: results.get(image) or {"error": failed[image]} for image in images}
