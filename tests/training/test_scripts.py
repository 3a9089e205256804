"""Training with Python modules of the bundle's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from support.trainings import check_data, tiny_bundle, write_dataset
from tomoseg import TrainingOptions, find_bundle
from tomoseg.training.training import train


def test_scripts_of_a_bundle_are_importable_while_it_trains(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    bundle = tiny_bundle(data, tmp_path / "bundle")
    (bundle / "scripts").mkdir()
    (bundle / "scripts" / "__init__.py").write_text("")
    (bundle / "scripts" / "late.py").write_text("from torch.optim import Adam as Rule\n")
    (bundle / "scripts" / "rules.py").write_text(
        "def make_optimizer(**options):\n    from scripts.late import Rule\n    return Rule(**options)\n"
    )
    path = bundle / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["optimizer"] = {"_target_": "scripts.rules.make_optimizer", "params": "$@network.parameters()", "lr": 0.001}
    path.write_text(json.dumps(config))
    options = TrainingOptions(fold=0, epochs=1, device="cpu")
    assert train(find_bundle(bundle), check_data(data), options, tmp_path / "out", hidden=True).epochs == 1
    assert not [name for name in sys.modules if name.partition(".")[0] == "scripts" and "late" in name]
