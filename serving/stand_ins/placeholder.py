"""A module that imports as anything and runs as nothing.

`import gpu_package.some.module` and `from gpu_package import Name` succeed; names are created when
asked for. A lower-case name is again a module (so that ``triton.language.load`` resolves) which
also works as a decorator and returns its function unchanged; a capitalised name is an empty class,
fit to be a base class. Nothing here computes: reaching such a kernel at run time fails.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any


class Placeholder(types.ModuleType):
    """One such module; `path` is its dotted name."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.__package__ = path
        self.__path__: list[str] = []
        self.__file__ = __file__
        self.__spec__ = importlib.machinery.ModuleSpec(path, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} is a CPU stand-in and has no {name}")
        value = _empty_class(self.__name__, name) if name[0].isupper() else submodule(self, name)
        setattr(self, name, value)
        return value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Act as a decorator, plain or with arguments.

        ``@triton.jit`` is plain, ``@triton.autotune(configs=...)`` has arguments.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType | type):
            return args[0]
        return _unchanged

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every submodule of one stand-in package."""

    def __init__(self, package: str) -> None:
        self.prefix = package + "."

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname.startswith(self.prefix):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return sys.modules.get(spec.name) or Placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        parent, _, child = module.__name__.rpartition(".")
        setattr(sys.modules[parent], child, module)


def stand_in_for(package: str, version: str) -> Placeholder:
    """Replace `package` and everything under it by placeholders; SGLang compares `version` with
    what it needs."""
    module = Placeholder(package)
    module.__version__ = version
    sys.modules[package] = module
    sys.meta_path.insert(0, _Importer(package))
    return module


def submodule(parent: Placeholder, name: str) -> Placeholder:
    """The placeholder ``parent.name``, made once."""
    path = f"{parent.__name__}.{name}"
    module = sys.modules.setdefault(path, Placeholder(path))
    setattr(parent, name, module)
    assert isinstance(module, Placeholder)
    return module


def _empty_class(module: str, name: str) -> type:
    def accept_subclass_arguments(cls: type, **kwargs: Any) -> None:
        """GPU base classes take class keywords; ignore them."""

    return type(
        name,
        (),
        {"__module__": module, "__init_subclass__": classmethod(accept_subclass_arguments)},
    )


def _unchanged(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
