from __future__ import annotations

from pathlib import Path

import pytest

from tomoseg.core.memory import free_bytes, is_out_of_memory


@pytest.mark.parametrize(
    ("group", "files", "free"),
    [
        ("0::/", {"memory.max": "3000", "memory.current": "1000"}, 2000),
        (
            "0::/a/b",
            {"a/b/memory.max": "max", "a/b/memory.current": "5", "a/memory.max": "9", "a/memory.current": "4"},
            5,
        ),
        ("4:memory:/a", {"memory/a/memory.limit_in_bytes": "7", "memory/a/memory.usage_in_bytes": "9"}, 0),
        ("4:cpu:/a", {"memory/a/memory.limit_in_bytes": "7", "memory/a/memory.usage_in_bytes": "9"}, None),
        ("0::/", {"memory.max": "max", "memory.current": "1000"}, None),
    ],
)
def test_a_container_has_less_than_its_machine(
    tmp_path: Path, group: str, files: dict[str, str], free: int | None
) -> None:
    for name, text in [("proc/self/cgroup", group), *((f"sys/fs/cgroup/{key}", text) for key, text in files.items())]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    found = free_bytes(tmp_path)
    assert found == free if free is not None else found > 10**8


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("Failed to allocate memory for image."), RuntimeError("std::bad_alloc")]
)
def test_libraries_say_that_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)
