"""Imports that wait until something of the module is used.

`import monai` imports every optional package that is installed, scipy and matplotlib among them: nearly 2 s for what
most bundles never use.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Defer the modules `names`, and all below them, for imports inside the `with`.

    Those that are imported already, or are not installed, are left alone. The others are stand-ins that import the real
    module as soon as something of it is called, subclassed, looked into or used in `isinstance`; they cannot stand in
    an `except` or for the value of a constant. Imports after the `with` are not deferred.
    """
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget_stand_ins()


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from looking, again and again, through imports that stay for good."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor look through them at exit
        if was_enabled:
            gc.enable()


class _Finder(MetaPathFinder, Loader):
    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(fullname == name or fullname.startswith(f"{name}.") for name in self._names):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _StandInModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name == "__version__":  # MONAI compares it at once
            return _resolve(self.__name__, name)
        if name.startswith("__"):  # asked for by the import system
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if sys.modules.get(self.__name__) is self:
            return _StandIn(self.__name__, name)
        return getattr(import_module(self.__name__), name)


class _StandIn:
    """A function, class or object of a deferred module; what MONAI's stand-in for a missing one allows, it allows."""

    def __init__(self, module: str, name: str) -> None:
        self._home = (module, name)

    def __getattr__(self, name: str) -> Any:
        # the first is not there yet in a copy; Generic[…] asks for the others
        if name in ("_home", "__parameters__") or name.startswith("__typing_"):
            raise AttributeError(name)
        return getattr(_resolve(*self._home), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _resolve(*self._home)(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return _resolve(*self._home)[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(_resolve(*self._home))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_resolve(*self._home),)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, _resolve(*self._home))

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, _resolve(*self._home))

    def __reduce__(self) -> tuple[Any, ...]:  # copied and pickled as the real thing
        return _resolve, self._home


def _resolve(module: str, name: str) -> Any:
    """Return the real module of a name; inside a `with deferred(…)`, too."""
    finders = [finder for finder in sys.meta_path if isinstance(finder, _Finder)]
    if finders:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder not in finders]
        _forget_stand_ins()
    try:
        home = import_module(module)
        return getattr(home, name) if hasattr(home, name) else import_module(f"{module}.{name}")
    finally:
        sys.meta_path[:0] = finders


def _forget_stand_ins() -> None:
    """Take the stand-ins out of the import system; who holds one is served by it."""
    for name, module in list(sys.modules.items()):
        if isinstance(module, _StandInModule):
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if vars(sys.modules.get(parent, module)).get(child) is module:
                delattr(sys.modules[parent], child)
