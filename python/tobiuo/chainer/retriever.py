"""Walks Chainer's computational graph from the outputs back and describes it as a dump."""

from collections import deque
from typing import Any, Callable, Dict, List, Optional, Tuple

import chainer
import numpy as np
from chainer import computational_graph

from ..dump import Dump, DumpError, constant
from . import hooks
from .layers import BUILT_IN, LAYER_NAMES, LAYER_TYPES

DumpFunction = Callable[["ModelRetriever", Any, Dict[str, Any]], Tuple[Any, Any]]


class ModelRetriever:
    """Dumps a network that has been run once under :class:`tobiuo.RetainHook`, in test mode.

    Inputs are registered before or after the forward pass; every other leaf of the graph
    becomes a constant. With no input registered, every leaf that is no parameter is an input.
    What does not depend on an input is computed now and becomes a constant.

    The batch axis comes first everywhere and is not part of the dump: a function that mixes
    pictures of a batch is refused.

    ``dst_path`` is made at once, its files are written by :meth:`save`. ``verbose`` also saves
    the inputs, each layer's output and the graph (``computational_graph.dot``), and prints the
    layers' names.
    """

    def __init__(self, dst_path: Any, verbose: bool = False) -> None:
        self.dst_path = dst_path
        self.verbose = verbose
        Dump(dst_path)
        self._dump_functions: Dict[type, DumpFunction] = {}
        self._registered: Dict[Any, str] = {}
        self._registered_arrays: Dict[int, Tuple[Any, Any]] = {}
        self._declared_constants: Dict[int, Any] = {}
        self._used_inputs: Dict[Any, str] = {}
        self._constants: Dict[Any, Tuple[str, np.ndarray]] = {}
        self._names: Dict[Any, str] = {}
        self._numbers: Dict[str, int] = {}
        self._varying: Dict[Any, bool] = {}
        self._arrays: Dict[Any, Any] = {}
        self._queue: "deque[Any]" = deque()
        self._layers: List[Tuple[Any, Dict[str, Any], Any]] = []
        self._outputs: List[Tuple[Any, str, str]] = []

    # -- what the user says --------------------------------------------------------------

    def register_inputs(self, x: Any, name: Optional[str] = None) -> None:
        """Makes a variable (or the array given to the network) an input; a list registers
        each. Without a name it is ``input-N``, N counting from 0. A registered intermediate
        variable cuts the network there."""
        if isinstance(x, (list, tuple)):
            if name is not None:
                raise DumpError(f"one name ('{name}') for {len(x)} inputs; register each alone")
            for each in x:
                self.register_inputs(each)
            return
        if name is None:
            name = f"input-{len(self._registered)}"
        if name in self._registered.values():
            raise DumpError(f"two inputs are named '{name}'")
        variable = chainer.as_variable(x)
        node = variable.node
        if not node.shape:
            raise DumpError(f"input '{name}' has no axes; the first one is the batch")
        self._registered[node] = name
        # Chainer makes a variable of its own of an array, so that only the array is known again.
        self._registered_arrays[id(variable.data)] = (node, variable)
        self._arrays[node] = variable.data

    def register_constants(self, x: Any) -> None:
        """Declares that an array is the same for every picture. Needed for the condition of
        ``F.where``, which Chainer does not keep in the graph: undeclared, it could as well have
        been computed from an input."""
        for each in x if isinstance(x, (list, tuple)) else [x]:
            array = each.data if isinstance(each, chainer.Variable) else each
            self._declared_constants[id(array)] = array

    def add_dump_function(self, type: type, dump_func: DumpFunction) -> None:
        """Says how a function is dumped: ``dump_func(retriever, function, params)`` gives
        ``(params, weights)``. ``params`` comes with type, name, rank and output_names; add
        ``source`` or ``sources`` by :meth:`get_source_name` and what else the layer needs.
        ``weights`` is None or a dictionary of arrays; each gets a file, named in
        ``params['<key>_weights_file']``. Replaces a built-in one."""
        if not (isinstance(type, _class) and issubclass(type, _FUNCTIONS)):
            raise TypeError(f"a subclass of chainer.FunctionNode or chainer.Function, not {type!r}")
        if not callable(dump_func):
            raise TypeError("dump_func is called with (retriever, function, params)")
        self._dump_functions[type] = dump_func

    def __call__(self, var: Any, name: Optional[str] = None) -> "ModelRetriever":
        """Adds an output, by its variable, and all that it is computed from."""
        if isinstance(var, (list, tuple)):
            if name is not None:
                raise DumpError(f"one name ('{name}') for {len(var)} outputs; give each alone")
            for each in var:
                self(each)
            return self
        node = getattr(var, "node", var)
        if node.creator_node is None:
            raise DumpError(
                f"output '{name or 'without name'}' was made by no function. Was the network run "
                "on a chainer.Variable, with backpropagation enabled (not in no_backprop_mode)?"
            )
        if isinstance(var, chainer.Variable):
            self._arrays[node] = var.data
        if not self.depends_on_input(node):
            raise DumpError(
                f"output '{name or 'without name'}' depends on no registered input: "
                f"{', '.join(self._registered.values()) or 'none'}. Register the variable that "
                "the network was run on"
            )
        tensor = self.get_source_name(node)
        self._outputs.append((node, tensor, tensor if name is None else name))
        self._walk()
        return self

    def generate_json_source(self) -> Dict[str, Any]:
        """What ``model.json`` will hold."""
        return self._build().document()

    def save(self) -> None:
        """Writes the dump."""
        self._build().save()
        if self.verbose:
            graph = computational_graph.build_computational_graph(
                [node for node, _, _ in self._outputs]
            )
            with open(f"{self.dst_path}/computational_graph.dot", "w", encoding="utf-8") as file:
                file.write(graph.dump())

    def preprocess_caffemodel(self, net: Any) -> None:
        """Nothing has to be done: the Scale layers of a CaffeFunction are dumped as
        multiplications and additions, which the builder folds into the layer before."""

    # -- what dump functions use ---------------------------------------------------------

    def get_source_name(self, node: Any, ndim: int = 0, shrink: bool = False) -> str:
        """The name of the tensor that a variable is in the dump.

        For functions that broadcast: a constant gets axes of size 1 in front until it has
        ``ndim``; with ``shrink``, axes along which it repeats itself get size 1.
        """
        node = getattr(node, "node", node)
        name = self._input_name(node)
        if name is not None:
            return name
        if not self.depends_on_input(node):
            return self._constant_name(node, self.array(node), max(ndim, len(node.shape)), shrink)
        function = node.creator_node
        if function not in self._names:
            self._queue.append(function)
        index = [output() for output in function.outputs].index(node)
        return f"{self._name(function)}_{index}"

    def condition_name(self, array: Any, ndim: int, shrink: bool) -> str:
        """As :meth:`get_source_name` for an array that is not in the graph."""
        if id(array) in self._registered_arrays:
            node, _ = self._registered_arrays[id(array)]
            if len(node.shape) != ndim:
                raise DumpError(f"the condition has {len(node.shape)} axes, the result {ndim}")
            return self._input_name(node)
        if id(array) in self._declared_constants:
            return self._constant_name(id(array), array, ndim, shrink)
        raise DumpError(
            "the condition is not in Chainer's graph, so that it may depend on an input. Register "
            "it with register_inputs(), or with register_constants() if it is always the same"
        )

    def weight(self, node: Any, what: str) -> np.ndarray:
        """The value of a variable that has to be a constant, such as a kernel."""
        if node in self._registered or (
            node.creator_node is not None and self.depends_on_input(node)
        ):
            raise DumpError(f"the {what} is computed from an input; it has to be constant")
        return self.array(node)

    def array(self, node: Any) -> np.ndarray:
        """The value that a variable had in the forward pass."""
        array = self._arrays.get(node)
        if array is None:
            array = node.data
        if array is None:
            raise DumpError(
                "a value of the forward pass is gone; run it under 'with tobiuo.RetainHook():'"
            )
        return chainer.cuda.to_cpu(array)

    def keep_values(self, function: Any) -> None:
        """Takes over what RetainHook kept of a function's inputs."""
        for node, array in zip(function.inputs, hooks.retained(function) or ()):
            self._arrays.setdefault(node, array)

    def depends_on_input(self, node: Any) -> bool:
        """False for what is the same whatever the inputs are."""
        stack = [node]
        while stack:
            top = stack[-1]
            if top in self._varying:
                stack.pop()
                continue
            function = top.creator_node
            if self._is_input(top):
                self._varying[top] = True
            elif function is None:
                self._varying[top] = False
            else:
                missing = [n for n in function.inputs if n not in self._varying]
                if missing:
                    stack.extend(missing)
                    continue
                self._varying[top] = any(self._varying[n] for n in function.inputs)
        return self._varying[node]

    # -- the walk ------------------------------------------------------------------------

    def _is_input(self, node: Any) -> bool:
        if node in self._registered:
            return True
        if node.creator_node is not None:
            return False
        if self._registered:
            data = node.data if node.data is not None else self._arrays.get(node)
            return data is not None and id(data) in self._registered_arrays
        return not isinstance(node.get_variable_or_none(), chainer.Parameter)

    def _input_name(self, node: Any) -> Optional[str]:
        if not self._is_input(node):
            return None
        if node not in self._registered and self._registered:
            data = node.data if node.data is not None else self._arrays.get(node)
            node, _ = self._registered_arrays[id(data)]
        if node not in self._used_inputs:
            name = self._registered.get(node, f"input-{len(self._used_inputs)}")
            self._used_inputs[node] = name
        return self._used_inputs[node]

    def _constant_name(self, key: Any, array: Any, ndim: int, shrink: bool) -> str:
        key = (key, ndim, shrink)
        if key not in self._constants:
            array = constant(chainer.cuda.to_cpu(array), ndim, shrink)
            self._constants[key] = (f"ConstantInput-{len(self._constants)}", array)
        return self._constants[key][0]

    def _name(self, function: Any) -> str:
        if function not in self._names:
            kind = type(_implementation(function)).__name__
            label = f"{LAYER_NAMES.get(kind, kind)}-{function.rank}"
            prefix = hooks.prefix(function)
            if prefix is not None:
                label = f"{prefix}-{label}"
            self._numbers[label] = self._numbers.get(label, 0) + 1
            self._names[function] = f"{label}-{self._numbers[label]}"
        return self._names[function]

    def _walk(self) -> None:
        """Dumps the functions that are waiting, nearest to the output first."""
        problems = []
        while self._queue:
            function = self._queue.popleft()
            self.keep_values(function)
            try:
                self._dump_function(function)
            except DumpError as error:
                problems.append(f"{self._describe(function)}: {error}")
                for node in function.inputs:
                    if node.creator_node is not None and self.depends_on_input(node):
                        self.get_source_name(node)
        if problems:
            raise DumpError("; ".join(dict.fromkeys(problems)))

    def _describe(self, function: Any) -> str:
        text = self._name(function)
        traceback = hooks.called_from(function)
        if traceback is not None:
            lines = [line for line in traceback.splitlines() if "/chainer/" not in line]
            files = [line.strip() for line in lines if line.strip().startswith("File")]
            text += f" ({files[-1]})" if files else ""
        return text

    def _dump_function(self, function: Any) -> None:
        implementation = _implementation(function)
        kind, name = type(implementation), self._name(function)
        if self.verbose:
            print(name)
        params = {
            "type": LAYER_TYPES.get(kind.__name__, kind.__name__),
            "name": name,
            "rank": int(function.rank),
            "output_names": [f"{name}_{i}" for i in range(len(function.outputs))],
        }
        dump = self._dump_functions.get(kind)
        if dump is None:
            dump = BUILT_IN.get(kind.__name__)
            if dump is None or kind.__module__.split(".")[0] not in ("chainer", "tobiuo"):
                raise DumpError(
                    f"{kind.__module__}.{kind.__name__} is not known; add_dump_function() says "
                    "how to dump it"
                )
            self._check_batch(function)
        layers = dump(self, implementation, params)
        for layer, weights in layers if isinstance(layers, list) else [layers]:
            self._layers.append((function, layer, weights))

    def _check_batch(self, function: Any) -> None:
        """Pictures are independent: the first axis of what varies is the batch."""
        sizes = {node.shape[:1] for node in function.inputs if self.depends_on_input(node)}
        sizes |= {output().shape[:1] for output in function.outputs if output() is not None}
        if len(sizes) != 1 or () in sizes:
            raise DumpError("the first axis is the batch; it must stay first and keep its size")

    def _build(self) -> Dump:
        dump = Dump(self.dst_path, self.verbose)
        order = list(self._registered or self._used_inputs)
        for node in order:
            if node in self._used_inputs:
                example = self.array(node) if self.verbose else None
                dump.add_input(self._used_inputs[node], node.shape[1:], example)
        for name, array in self._constants.values():
            dump.add_constant(array, name)
        for function, layer, weights in self._layers:
            layer = dict(layer)
            traceback = hooks.called_from(function)
            if traceback is not None:
                layer["traceback"] = traceback
            if self.verbose:
                self._add_examples(dump, function, layer)
            dump.add_layer(layer, weights)
        for _, tensor, name in self._outputs:
            dump.add_output(tensor, name)
        return dump

    def _add_examples(self, dump: Dump, function: Any, layer: Dict[str, Any]) -> None:
        """What verbose mode adds: types, shapes and values of the forward pass."""
        layer["input_shapes"] = [node.shape for node in function.inputs]
        layer["input_types"] = [node.dtype.name for node in function.inputs]
        values = {}
        for index, output in enumerate(function.outputs):
            tensor = f"{self._name(function)}_{index}"
            array = self._arrays.get(output())
            if array is not None and tensor in layer["output_names"]:
                values[tensor] = chainer.cuda.to_cpu(array)
        if not values:
            return
        files = {tensor: dump.add_example(tensor, array) for tensor, array in values.items()}
        last = list(values)[-1]
        layer["output_shape"] = values[last].shape
        layer["output_type"] = values[last].dtype.name
        layer["output_tensor"] = files[last]


_class = type
_FUNCTIONS = (chainer.FunctionNode, chainer.Function)


def _implementation(function: Any) -> Any:
    """The object the user knows: an old-style chainer.Function stands behind an adapter."""
    return getattr(function, "function", function)
