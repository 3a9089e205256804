"""How pytest-xdist shares tests out: whole modules, and a test that kills its worker is not tried again."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling

    class EachTestOnce(LoadFileScheduling):  # type: ignore[misc]
        def remove_node(self, node: Any) -> str | None:
            """Take the test that killed a worker out of its module; pytest-xdist's own would run it again and again."""
            left = [(tests, name) for tests in self.assigned_work[node].values() for name in tests if not tests[name]]
            if left:
                tests, killer = left[0]
                tests[killer] = True
            super().remove_node(node)
            return killer if left else None

    return EachTestOnce(config, log) if config.getvalue("dist") == "loadfile" else None
