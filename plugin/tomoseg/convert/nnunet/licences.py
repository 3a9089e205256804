"""Models whose weights may not be used freely, known by the name of their dataset."""

import re

# TotalSegmentator's tasks whose weights need a licence, by the name of the dataset that a model was trained on; from
# its public tables `map_tasks_config.py` and `map_to_binary.py`, as of November 2026
RESTRICTED: dict[str, str] = {
    "heartchambers_highres": r"Dataset0*301_heart_highres",
    "appendicular_bones": r"Dataset0*304_appendicular_bones",
    "appendicular_bones_mr": r"Dataset0*855_TotalSegMRI_appendicular_bones",
    "tissue_types": r"Dataset0*481_tissue",
    "tissue_4_types": r"Dataset0*485_tissue_4types",
    "tissue_types_mr": r"Dataset0*925_MRI_tissue",
    "face": r"Dataset0*303_face",
    "face_mr": r"Dataset0*856_TotalSegMRI_face",
    "brain_structures": r"Dataset0*409_neuro",
    "thigh_shoulder_muscles": r"Dataset0*857_TotalSegMRI_thigh_shoulder",
    "coronary_arteries": r"Dataset0*50[79]_coronary_arteries",
    "aortic_sinuses": r"Dataset0*920_aortic_sinuses",
    "renal_arteries": r"Dataset0*710_renal_arteries",
    "aorta_annulus": r"Dataset0*713_annulus_proper",
    "aortic_dissection": r"Dataset0*716_aorta_true_false_lumen",
    "pulmonary_artery_landmarks": r"Dataset0*514_annulus_pulmonary",
    "brain_aneurysm": r"Dataset0*615_MAXIMUS",
}


def restricted_task(dataset: str) -> str | None:
    """Return the task of TotalSegmentator that a dataset's name stands for and that needs a licence, if any."""
    return next((task for task, pattern in RESTRICTED.items() if re.search(pattern, dataset, re.IGNORECASE)), None)
