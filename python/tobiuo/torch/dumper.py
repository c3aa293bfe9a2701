"""Describes an exported PyTorch module as a dump.

``torch.export`` gives the graph, functionalised but not decomposed; each of its operators is
written as the layer that Chainer's function of the same meaning has, or, where Chainer has none,
as the builder's own operator (a ``TobiuoOp`` layer).
"""

import os
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import fx

from ..dump import Dump, DumpError, constant
from .call import Call
from .layers import BUILT_IN, OF_SHAPE_ONLY

DumpFunction = Callable[["TorchDumper", fx.Node, Dict[str, Any]], Tuple[Any, Any]]


def dump_torch(
    module: torch.nn.Module,
    args: Union[torch.Tensor, Sequence[torch.Tensor]],
    dst_path: Any,
    *,
    input_names: Optional[Sequence[str]] = None,
    output_names: Optional[Sequence[str]] = None,
    dump_functions: Optional[Dict[Any, DumpFunction]] = None,
    verbose: bool = False,
    traceback: bool = False,
) -> None:
    """Dumps a module, as it computes in eval mode, into a directory.

    ``args`` are example inputs, the batch first; only their shapes and types matter. Inputs are
    named after the arguments of ``forward`` and outputs after what computes them unless names
    are given. ``dump_functions`` says how operators of your own are dumped, as
    :meth:`TorchDumper.add_dump_function`. ``verbose`` saves each layer's output too,
    ``traceback`` the line that called each operator.
    """
    dumper = TorchDumper(dst_path, verbose=verbose, traceback=traceback)
    for op, function in (dump_functions or {}).items():
        dumper.add_dump_function(op, function)
    dumper(module, args, input_names=input_names, output_names=output_names)
    dumper.save()


class TorchDumper:
    """As :func:`dump_torch`, in steps: dump functions, one call, :meth:`save`."""

    def __init__(self, dst_path: Any, verbose: bool = False, traceback: bool = False) -> None:
        self.dst_path = os.fspath(dst_path)
        self.verbose = verbose
        self.traceback = traceback
        self._dump = Dump(dst_path, verbose)
        self._functions: Dict[str, DumpFunction] = {}
        # Tensor names of each node's results; None for a node that could not be dumped.
        self._names: Dict[fx.Node, Any] = {}
        self._values: Dict[fx.Node, Any] = {}
        self._varying: Dict[fx.Node, bool] = {}
        self._constants: Dict[Any, Tuple[str, np.ndarray]] = {}
        self._ranks: Dict[str, int] = {}
        self._layers: List[Tuple[Dict[str, Any], Any]] = []

    # -- what the user says --------------------------------------------------------------

    def add_dump_function(self, op: Any, dump_func: DumpFunction) -> None:
        """Says how an operator is dumped: ``torch.ops.mine.op``, one overload of it, or
        ``"mine::op"``. ``dump_func(dumper, node, params)`` gives ``(params, weights)``, with
        ``source`` or ``sources`` from :meth:`get_source_name`; ``params`` comes with type (the
        operator's name), name, rank and output_names. Replaces a built-in one.

        Functions in Python become operators by ``torch.library.custom_op``."""
        if not callable(dump_func):
            raise TypeError("dump_func is called with (dumper, node, params)")
        self._functions[_op_name(op)] = dump_func

    def __call__(
        self,
        module: torch.nn.Module,
        args: Union[torch.Tensor, Sequence[torch.Tensor]],
        input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None,
    ) -> "TorchDumper":
        """Exports the module and describes every operator.

        Raises :class:`tobiuo.DumpError`; where operators are not known, all are listed.
        """
        args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
        program = _export(module, args)
        self._read_inputs(program, args, input_names)
        problems = []
        for node in program.graph.nodes:
            if node.op == "output":
                results = [n for n in fx.node.map_arg(node.args, lambda n: n)[0]]
            elif node.op == "call_function":
                try:
                    self._node(node)
                except DumpError as error:
                    problems.append(f"{self._describe(node)}: {error}")
                    self._names[node] = None
        if problems:
            raise DumpError("; ".join(dict.fromkeys(problems)))
        self._read_outputs(results, output_names)
        return self

    def save(self) -> None:
        """Writes the dump."""
        for name, array in self._constants.values():
            self._dump.add_constant(array, name)
        self._constants = {}
        for params, weights in self._layers:
            self._dump.add_layer(params, weights)
        self._layers = []
        self._dump.save()

    # -- what dump functions use ---------------------------------------------------------

    def get_source_name(self, node: Any, ndim: int = 0, shrink: bool = False) -> str:
        """The name of the tensor that a node of the graph, or a number, is in the dump. For
        operators that broadcast, see :func:`tobiuo.dump.constant`."""
        if isinstance(node, fx.Node) and self.varies(node):
            names = self._names[node]
            if not isinstance(names, str):
                raise DumpError(f"its input {node.name} could not be dumped")
            return names
        array = self.value(node)
        key = (node, max(ndim, array.ndim), shrink)
        if key not in self._constants:
            name = f"ConstantInput-{len(self._constants)}"
            self._constants[key] = (name, constant(array, *key[1:]))
            self._ranks[name] = -1
        return self._constants[key][0]

    def varies(self, node: Any) -> bool:
        """True for what depends on an input."""
        return isinstance(node, fx.Node) and self._varying[node]

    def value(self, node: Any) -> np.ndarray:
        """The value of what does not depend on an input."""
        if not isinstance(node, fx.Node):
            return np.asarray(node, np.float32)
        if self.varies(node):
            raise DumpError(f"{node.name} depends on an input; it has to be constant")
        return _numpy(self._values[node])

    def add_layer(self, params: Dict[str, Any], weights: Any = None) -> None:
        """Adds a layer."""
        sources = params.get("sources", [params["source"]] if "source" in params else [])
        params["rank"] = 1 + max([-1, *(self._ranks.get(s, -1) for s in sources)])
        for tensor in params["output_names"]:
            self._ranks[tensor] = params["rank"]
        self._layers.append((params, weights))

    def rename(self, params: Dict[str, Any], name: str) -> None:
        """Gives a layer with one result another name, before anything reads it."""
        self._ranks[name] = self._ranks[params["output_names"][0]]
        params["name"], params["output_names"] = name, [name]

    # -- the graph -----------------------------------------------------------------------

    def _read_inputs(self, program: Any, args: Tuple[Any, ...], names: Any) -> None:
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs
                 if hasattr(spec.arg, "name")}
        inputs = []
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = kinds[node.name]
            if spec.kind.name == "USER_INPUT":
                inputs.append(node)
                continue
            self._varying[node] = False
            held = {**program.state_dict, **program.constants}
            self._values[node] = held.get(spec.target, None)
        used = [node.name for node in inputs] if names is None else list(names)
        if len(used) != len(inputs) or len(args) != len(inputs):
            raise DumpError(
                f"the module has {len(inputs)} inputs ({', '.join(n.name for n in inputs)}), "
                f"{len(args)} examples and {len(used)} names were given"
            )
        self._batch = args[0].shape[0] if args and args[0].ndim else 1
        for node, name, example in zip(inputs, used, args):
            if example.ndim == 0 or example.shape[0] != self._batch:
                raise DumpError(
                    f"input '{name}' has shape {tuple(example.shape)}; the first axis of every "
                    f"input is the batch, {self._batch} here"
                )
            self._varying[node] = True
            self._names[node] = name
            self._values[node] = example
            self._ranks[name] = -2
            self._dump.add_input(name, example.shape[1:], _numpy(example))

    def _node(self, node: fx.Node) -> None:
        kind = _op_name(node.target)
        inputs = () if kind in OF_SHAPE_ONLY else node.all_input_nodes
        self._varying[node] = any(self._varying[n] for n in inputs)
        if self.verbose or not self._varying[node]:

            def get(n: fx.Node) -> Any:
                if n in self._values:
                    return self._values[n]
                value = n.meta["val"]
                return torch.zeros(value.shape, dtype=value.dtype)

            with torch.no_grad():
                self._values[node] = node.target(
                    *fx.node.map_arg(node.args, get), **fx.node.map_arg(node.kwargs, get)
                )
        if not self._varying[node] or node.meta.get("val") is None:
            return
        if node.target is _getitem:
            names = self._names[node.args[0]]
            self._names[node] = None if names is None else names[node.args[1]]
            return
        module = list(node.meta.get("nn_module_stack", {}).values())
        path = module[-1][0] if module else ""
        name = node.name.replace("_native_batch_norm_legit_no_training", "batch_norm")
        name = f"{path}/{name}" if path else name
        before = len(self._layers)
        if kind in self._functions:
            value = node.meta["val"]
            count = len(value) if isinstance(value, (tuple, list)) else 1
            outputs = [name] if count == 1 else [f"{name}_{i}" for i in range(count)]
            params = {
                "type": kind.split("::")[-1], "name": name, "rank": 0, "output_names": outputs,
            }
            self.add_layer(*self._functions[kind](self, node, params))
            self._names[node] = outputs if isinstance(value, (tuple, list)) else name
        else:
            translate = BUILT_IN.get(kind)
            if translate is None:
                raise DumpError(
                    f"operator {kind} is not known; add_dump_function() says how to dump it"
                )
            call = Call(self, node, name)
            self._check_batch(node)
            self._names[node] = call.finish(translate(call))
        self._annotate(node, self._layers[before:])

    def _check_batch(self, node: fx.Node) -> None:
        """Pictures are independent: the first axis of what varies is the batch."""
        value = node.meta["val"]
        for tensor in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                if tensor.ndim == 0 or tensor.shape[0] != self._batch:
                    raise DumpError(
                        f"its result has shape {tuple(tensor.shape)}; the first axis is the "
                        f"batch ({self._batch} here) and must stay first"
                    )

    def _annotate(self, node: fx.Node, layers: List[Any]) -> None:
        """The traceback, and in verbose mode the values, of a node's layers."""
        names = self._names[node]
        names = [names] if isinstance(names, str) else names
        values = self._values.get(node)
        values = list(values) if isinstance(values, (tuple, list)) else [values]
        for params, _ in layers:
            if self.traceback and node.meta.get("stack_trace"):
                params["traceback"] = node.meta["stack_trace"].strip()
            for tensor, value in zip(names, values) if self.verbose else ():
                # The keys are for one result: the first of several.
                if tensor == params["output_names"][0] and isinstance(value, torch.Tensor):
                    params["output_shape"] = list(value.shape)
                    params["output_type"] = str(value.dtype).split(".")[-1]
                    params["output_tensor"] = self._dump.add_example(tensor, _numpy(value))

    def _read_outputs(self, results: Sequence[Any], names: Any) -> None:
        if names is not None and len(names) != len(results):
            raise DumpError(f"the module has {len(results)} outputs, {len(names)} names were given")
        seen = set()
        for i, node in enumerate(results):
            if not self.varies(node):
                raise DumpError(f"output {i} ({node}) does not depend on an input")
            tensor = self._names[node]
            if tensor in seen or self._ranks[tensor] < 0:
                copy = {"type": "Copy", "name": f"output_{i}", "output_names": [f"output_{i}"]}
                self.add_layer({**copy, "source": tensor})
                tensor = copy["name"]
            seen.add(tensor)
            self._dump.add_output(tensor, node.name if names is None else names[i])

    def _describe(self, node: fx.Node) -> str:
        trace = [line for line in (node.meta.get("stack_trace") or "").splitlines()
                 if line.strip().startswith("File")]
        return f"{node.name} ({trace[-1].strip()})" if trace else node.name


def _export(module: torch.nn.Module, args: Tuple[Any, ...]) -> Any:
    """The module's program in eval mode, without changing its mode."""
    if not hasattr(torch, "export"):
        raise DumpError(f"torch {torch.__version__} has no torch.export; 2.1 is the first with it")
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        # An empty table makes the graph functional and takes no operator apart.
        return torch.export.export(module, args).run_decompositions({})
    finally:
        for m, training in modes.items():
            m.training = training


def _numpy(tensor: Any) -> np.ndarray:
    if not isinstance(tensor, torch.Tensor):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _op_name(op: Any) -> str:
    """``namespace::name`` of an operator."""
    if isinstance(op, str):
        return op.split(".")[0]
    if hasattr(getattr(op, "_schema", None), "name"):
        return op._schema.name
    name = getattr(op, "_qualified_op_name", None) or getattr(op, "_qualname", None)
    return name or getattr(op, "__name__", str(op))


_getitem = __import__("operator").getitem
