"""Dumps trained networks for ``tobiuo-builder``.

A dump is a directory with ``model.json`` and weight files, in the intermediate format of
chainer-trt (``docs/dump-format.md`` in the project). It does not go through ONNX, so any
function of the network can be described.

Chainer: run the network once, in test mode, under :class:`RetainHook`, and give its output to
:class:`ModelRetriever`. PyTorch: :func:`dump_torch`. A framework is imported only when one of
its names is used.
"""

import importlib
from typing import Any

from .dump import DumpError

__version__ = "0.1.0"

_LAZY = {
    "ModelRetriever": ("tobiuo.chainer.retriever", "ModelRetriever"),
    "RetainHook": ("tobiuo.chainer.hooks", "RetainHook"),
    "MarkPrefixHook": ("tobiuo.chainer.hooks", "MarkPrefixHook"),
    "TracebackHook": ("tobiuo.chainer.hooks", "TracebackHook"),
    "functions": ("tobiuo.chainer.functions", None),
    "TorchDumper": ("tobiuo.torch.dumper", "TorchDumper"),
    "dump_torch": ("tobiuo.torch.dumper", "dump_torch"),
}

__all__ = ["DumpError", *_LAZY]


def __getattr__(name: str) -> Any:
    try:
        module_name, attribute = _LAZY[name]
    except KeyError:
        raise AttributeError(f"module 'tobiuo' has no attribute '{name}'") from None
    module = importlib.import_module(module_name)
    value = module if attribute is None else getattr(module, attribute)
    globals()[name] = value
    return value


def __dir__() -> list:
    return sorted(set(globals()) | set(__all__))
