"""The networks of the exporters' table: each a maker with random weights, and how it is exported."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import warnings
from pathlib import Path
from typing import Callable

# Ultralytics would otherwise write its settings into the home folder and ask for its home.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")

import compare
import torch
import torchvision
from torch import nn

# Height and width, two each.
CLASSIFIER_SIZES = ((224, 224), (192, 256))
SSD_SIZES = ((320, 320), (256, 416))
DETECTOR_SIZES = ((640, 640), (384, 480))
OWN_SIZES = ((128, 160), (192, 96))

# Name, and whether `torch.onnx.export` traces symbolically.
EXPORTERS = (("torch.export", True), ("TorchScript", False))

TORCHVISION = (
    "resnet18",
    "resnet50",
    "vgg16",
    "googlenet",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "efficientnet_b0",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "convnext_tiny",
    "ssdlite320_mobilenet_v3_large",
)
# Ultralytics' YAMLs; the letter chooses the scale.
ULTRALYTICS = ("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov9t", "yolov10n", "yolo11n", "yolo12n", "yolo26n")

# Those with a head that needs no suppression.
NMS_FREE = ("yolov10n", "yolo26n")


class Heads(nn.Module):
    """SSDlite up to the heads' raw scores and boxes; its suppression's output has no fixed size."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.head(list(self.backbone(x).values()))
        return made["cls_logits"], made["bbox_regression"]


def pictures(count: int, size: tuple[int, int], seed: int) -> torch.Tensor:
    """compare.py's pictures."""
    return torch.from_numpy(compare.pictures(count, size, seed))


def randomise(net: nn.Module, shape: tuple[int, int]) -> nn.Module:
    """Gives every layer a share in the result: He-initialised weights, biases, statistics of
    random pictures for batch normalisation, ConvNeXt's layer scales near 1 in place of 1e-6."""
    torch.manual_seed(0)
    for name, module in net.named_modules():
        if name.endswith("dfl.conv"):
            # Not a weight: the numbers 0 to 15.
            continue
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.1, 0.1)
        if re.search(r"cv3\.\d+\.2$", name):
            # Ultralytics' class scores: not all so near 1 that any box is as good as another.
            nn.init.kaiming_normal_(module.weight, a=4, nonlinearity="leaky_relu")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = 1.0
        if hasattr(module, "layer_scale"):
            nn.init.uniform_(module.layer_scale, 0.5, 1.0)
    with torch.no_grad():
        net.train()(pictures(4, shape, 0))
    return net.eval()


def torchvision_net(name: str, size: tuple[int, int]) -> nn.Module:
    """A network of torchvision with random weights."""
    if name.startswith("ssdlite"):
        detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        return randomise(Heads(detector), size)
    more = {"init_weights": False} if name == "googlenet" else {}
    return randomise(getattr(torchvision.models, name)(weights=None, **more), size)


def export_torchvision(name: str, size: tuple[int, int], path: Path, dynamo: bool) -> None:
    """Exports by `torch.onnx.export`, as it is today or by its older, tracing exporter."""
    export_torch(torchvision_net(name, size), size, path, dynamo)


def export_torch(net: nn.Module, size: tuple[int, int], path: Path, dynamo: bool) -> None:
    """`torch.onnx.export` of a module in inference mode."""
    x = pictures(1, size, 9)
    with warnings.catch_warnings(), open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), dynamo=dynamo)


def export_ultralytics(name: str, size: tuple[int, int], path: Path, nms_free: bool = False) -> None:
    """Exports by Ultralytics' own `export`, in its own folder; `nms_free` keeps the head that picks
    the best boxes itself."""
    from ultralytics import YOLO

    here = Path.cwd()
    folder = path.parent / f"{path.stem}.export"
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    try:
        model = YOLO(f"{name}.yaml", task="detect")
        randomise(model.model, size)
        more = {"nms": False} if nms_free else {}
        made = Path(model.export(format="onnx", imgsz=list(size), **more)).resolve()
    finally:
        os.chdir(here)
    shutil.move(made, path)
    shutil.rmtree(folder)


def export_yolov5(name: str, size: tuple[int, int], path: Path) -> None:
    """Exports by the original YOLOv5's `export_onnx`, as its `export.py` prepares a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import yolov5
        from yolov5.export import export_onnx
        from yolov5.models.yolo import Detect, Model

        model = randomise(Model(str(Path(yolov5.__file__).parent / f"models/{name}.yaml")), size)
        for module in model.modules():
            if isinstance(module, Detect):
                module.inplace, module.dynamic, module.export = False, False, True
        x = pictures(1, size, 9)
        model(x)
        made, _ = export_onnx(model, x, path.with_suffix(".pt"), 18, False, False)
    if made is None:
        raise RuntimeError("export_onnx fails")


Export = Callable[[tuple[int, int], Path], None]


def networks() -> list[tuple[str, str, tuple[tuple[int, int], ...], Export]]:
    """Name, exporter, sizes, and what writes the file for a size."""
    found: list[tuple[str, str, tuple[tuple[int, int], ...], Export]] = []
    for name in TORCHVISION:
        sizes = SSD_SIZES if name.startswith("ssdlite") else CLASSIFIER_SIZES
        for exporter, dynamo in EXPORTERS:
            found.append((name, exporter, sizes, lambda s, p, n=name, d=dynamo: export_torchvision(n, s, p, d)))
    found.append(("yolov5n", "yolov5", DETECTOR_SIZES, lambda s, p: export_yolov5("yolov5n", s, p)))
    for name in ULTRALYTICS:
        found.append((name, "Ultralytics", DETECTOR_SIZES, lambda s, p, n=name: export_ultralytics(n, s, p)))
    for name in NMS_FREE:
        found.append((name, "Ultralytics, nms=False", DETECTOR_SIZES, lambda s, p, n=name: export_ultralytics(n, s, p, True)))
    return found


def export_module(make: Callable[[], nn.Module], size: tuple[int, int], path: Path, dynamo: bool) -> None:
    """As [`export_torchvision`], of a module of our own."""
    export_torch(randomise(make(), size), size, path, dynamo)


def graph_networks() -> list[tuple[str, str, tuple[int, int], Export]]:
    """What CI runs without PyTorch: torchvision's networks and detectors of our own, by one exporter
    at one size and by the other at another. VGG16 is there once, for its half gigabyte of weights. The
    graphs of Ultralytics and YOLOv5 are not checked in: their licence, AGPL-3.0, is not this project's."""
    found: list[tuple[str, str, tuple[int, int], Export]] = []
    sys.path.append(str(Path(__file__).resolve().parents[2] / "bench" / "gpu-kit"))
    import nets
    from detectors import Detector

    own = [("yolov2", nets.YOLOv2), ("yolov8n", nets.YOLOv8n)]
    own += [(f"{head}_head", lambda h=head: Detector(h)) for head in ("anchors", "distances", "best")]
    for at, (exporter, dynamo) in enumerate(EXPORTERS):
        for name in TORCHVISION:
            size = (SSD_SIZES if name.startswith("ssdlite") else CLASSIFIER_SIZES)[at]
            if name != "vgg16" or at == 0:
                found.append((name, exporter, size, lambda s, p, n=name, d=dynamo: export_torchvision(n, s, p, d)))
        for name, make in own:
            found.append((name, exporter, OWN_SIZES[at], lambda s, p, m=make, d=dynamo: export_module(m, s, p, d)))
    return found
