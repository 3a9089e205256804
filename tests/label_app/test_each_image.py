"""Work on many images: one after the other, a bad one is reported."""

from __future__ import annotations

from typing import Any

import pytest

from tomoseg.core.errors import UsageError
from tomoseg.label_app.each_image import for_each_image, limit_images


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({}, "abc"), ({"limit": 0}, "abc"), ({"limit": "2"}, "ab"), ({"limit": 9}, "abc"), ({"limit": ""}, "abc")],
)
def test_a_request_limits_the_images(asked: dict[str, Any], expected: str) -> None:
    assert limit_images(list("abc"), asked, "limit") == list(expected)


def test_a_limit_is_a_number() -> None:
    with pytest.raises(UsageError, match="limit: expected a number"):
        limit_images(["a"], {"limit": "many"}, "limit")


def test_a_bad_image_is_reported_and_the_others_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    done = []

    def work(image: str) -> None:
        if image == "bad":
            raise RuntimeError("no\nsuch image")
        done.append(image)

    assert for_each_image(["a", "bad", "b"], work, "scored") == {"bad": "no such image"}
    assert done == ["a", "b"]
    assert capsys.readouterr().out.splitlines() == ["1/3 a: scored", "2/3 bad: failed: no such image", "3/3 b: scored"]
