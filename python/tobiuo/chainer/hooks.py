"""Function hooks for the forward pass that is going to be dumped.

Hooks leave what they saw on the function nodes, where the retriever finds it.
"""

import traceback
from typing import Any, Optional, Tuple

import chainer

_INPUTS = "_tobiuo_inputs"
_PREFIX = "_tobiuo_prefix"
_TRACEBACK = "_tobiuo_traceback"


class RetainHook(chainer.FunctionHook):
    """Keeps the input arrays of every function, which Chainer else frees. The retriever needs
    them for constants, and in verbose mode for the output of each layer."""

    name = "RetainHook"

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        setattr(function, _INPUTS, tuple(in_data))


class MarkPrefixHook(chainer.FunctionHook):
    """Puts a prefix before the names of the layers made while it is on. Nested hooks add
    up, the innermost first."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # Chainer knows hooks by name; one prefix may be nested in itself.
        self.name = f"MarkPrefixHook-{prefix}-{id(self)}"

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        outer = getattr(function, _PREFIX, None)
        prefix = self._prefix if outer is None else f"{self._prefix}-{outer}"
        setattr(function, _PREFIX, prefix)


class TracebackHook(chainer.FunctionHook):
    """Notes the line of Python that called each function, for ``model.json``."""

    name = "TracebackHook"

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        # The last two frames are this hook and Chainer's call of it.
        stack = traceback.extract_stack()[:-2]
        setattr(function, _TRACEBACK, "".join(traceback.format_list(stack)).strip())


def retained(function: Any) -> Optional[Tuple[Any, ...]]:
    """The arrays that RetainHook kept."""
    return getattr(function, _INPUTS, None)


def prefix(function: Any) -> Optional[str]:
    """The prefix that MarkPrefixHook left."""
    return getattr(function, _PREFIX, None)


def called_from(function: Any) -> Optional[str]:
    """The traceback that TracebackHook left."""
    return getattr(function, _TRACEBACK, None)
