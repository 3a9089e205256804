"""Errors of other code become one line of ours; ours pass unchanged."""

import pytest
from torch._utils import ExceptionWrapper

from tomoseg.core.errors import (
    GeometryError,
    MissingPackageError,
    TomosegError,
    UsageError,
    VolumeError,
    errors_as,
    import_package,
    one_line,
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


def raised_in_a_worker(error: Exception, cause: Exception | None = None) -> Exception:
    """Return an error as a loader of torch raises it again that a worker process has met."""
    try:
        raise error from cause if cause is None else caught_from(cause)
    except Exception:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 1")  # type: ignore[no-untyped-call]
    with pytest.raises(type(error)) as caught:
        wrapper.reraise()  # type: ignore[no-untyped-call]
    return caught.value


def caught_from(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "cause", "line"),
    [
        (ValueError("wrong\n\nvalue"), None, "ValueError: wrong value"),
        (RuntimeError("applying transform X"), ValueError("negative"), "ValueError: negative"),
        (VolumeError("a.nii: damaged"), None, "tomoseg.core.errors.VolumeError: a.nii: damaged"),
        (OSError(28, "No space left"), None, "OSError: [Errno 28] No space left"),
        (ValueError(), None, "ValueError"),
    ],
)
def test_an_error_of_a_worker_process_is_its_last_line(error: Exception, cause: Exception | None, line: str) -> None:
    assert one_line(raised_in_a_worker(error, cause)) == line


def test_a_package_that_is_missing_is_named_with_its_extra() -> None:
    assert import_package("json.decoder", "json").JSONDecoder
    with pytest.raises(MissingPackageError, match=r'^none is not installed. .*"tomoseg\[clean\]"$') as caught:
        import_package("tomoseg_has_no_such_module", "none", "clean")
    assert isinstance(caught.value, TomosegError)
