"""Errors of other code become one line of ours; ours pass unchanged."""

import pytest

from tomoseg.core.errors import (
    GeometryError,
    MissingPackageError,
    TomosegError,
    UsageError,
    VolumeError,
    errors_as,
    import_package,
)


@pytest.mark.parametrize(
    ("raised", "named", "kind", "message"),
    [
        (OSError("disk\nfull"), (OSError,), VolumeError, "a.nii: cannot be read: disk full; try again"),
        (KeyError("x"), (OSError, KeyError), VolumeError, "a.nii: cannot be read: 'x'; try again"),
        (KeyError("x"), (OSError,), KeyError, "'x'"),  # of another kind
        (UsageError("ours"), (Exception,), UsageError, "ours"),
        (GeometryError("no volume"), (GeometryError,), VolumeError, "a.nii: cannot be read: no volume; try again"),
        (KeyboardInterrupt(), (Exception,), KeyboardInterrupt, ""),
    ],
)
def test_errors_become_ours(
    raised: BaseException, named: tuple[type[Exception], ...], kind: type[BaseException], message: str
) -> None:
    with (
        pytest.raises(kind) as caught,
        errors_as(VolumeError, "a.nii: cannot be read", *named, remedy="; try again"),
    ):
        raise raised
    assert str(caught.value) == message
    assert caught.value is raised or caught.value.__cause__ is raised


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    assert import_package("json.decoder", "json").JSONDecoder
    with pytest.raises(MissingPackageError, match=r'^none is not installed. .*"tomoseg\[clean\]"$') as caught:
        import_package("tomoseg_has_no_such_module", "none", "clean")
    assert isinstance(caught.value, TomosegError)
