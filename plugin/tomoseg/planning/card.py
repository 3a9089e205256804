"""The model card of a planned bundle, docs/README.md, and what stands beside it."""

from importlib.resources import files

from tomoseg.bundle.card import EMPTY_RESULTS
from tomoseg.planning.fingerprint import Fingerprint
from tomoseg.planning.layout import Layout
from tomoseg.planning.presets import Budget
from tomoseg.planning.rules import TrainingPlan


def read_template(name: str) -> str:
    """Return a text that every planned bundle has, or the card with places for what is planned."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def data_license(title: str, source: str) -> str:
    """Return docs/data_license.txt."""
    return f"Data: {title}\nSource and licence, as its dataset.json says: {source}\n"


def write_card(
    plan: TrainingPlan, fingerprint: Fingerprint, budget: Budget, layout: Layout, name: str, title: str, source: str
) -> str:
    """Return docs/README.md.

    Args:
        plan: what was decided, and why.
        fingerprint: what the dataset is like.
        budget: what was allowed.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        title, source: what the dataset calls itself, and where it comes from.
    """
    loss = str(plan.choices()["loss"])
    held_out = "the cases that the dataset keeps for validation" if layout.has_validation else "fold 0"
    return read_template("card.md").format(
        plan=plan,
        budget=budget,
        name=name,
        title=title,
        source=source,
        labels=", ".join(f"{label} ({value})" for value, label in plan.labels.items()),
        memory_gb=budget.memory / 1e9,
        data_table=_data_table(fingerprint),
        label_rows=_label_rows(plan, fingerprint),
        choice_rows=_choice_rows(plan),
        loss=loss[0].upper() + loss[1:],
        levels=plan.network.heads + 1,
        held_out=held_out,
        results=EMPTY_RESULTS,
    )


def _data_table(fingerprint: Fingerprint) -> str:
    rows = {
        "training cases": str(fingerprint.cases),
        "validation cases of its own": str(fingerprint.validation_cases),
        "median shape": "×".join(map(str, fingerprint.median_shape)),
        "median spacing (mm)": "×".join(f"{mm:g}" for mm in fingerprint.median_spacing_mm),
        "foreground intensities": f"mean {fingerprint.intensity_mean:g}, SD {fingerprint.intensity_sd:g}, "
        f"0.5th to 99.5th percentile {fingerprint.intensity_low:g} to {fingerprint.intensity_high:g}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _label_rows(plan: TrainingPlan, fingerprint: Fingerprint) -> str:
    return "\n".join(
        f"| {value} | {name} | {label.cases} | {label.annotated} | {label.median_ml:g} |"
        for (value, name), label in zip(plan.labels.items(), fingerprint.labels, strict=True)
    )


def _choice_rows(plan: TrainingPlan) -> str:
    rows = []
    for choice, value in plan.choices().items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            shown = "×".join(map(str, value)) or "none"
        else:
            shown = str(value)
        rows.append(f"| {choice.replace('_', ' ')} | {shown} | {plan.reasons[choice]} |")
    return "\n".join(rows)
