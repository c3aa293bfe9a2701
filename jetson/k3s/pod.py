"""The DaemonSet of daemonset.yaml without a cluster. `jetson/k3s/pod` calls it.

usage: pod.py check    looks at it: Kubernetes' own schemas, and what they do not see
       pod.py shell    shell functions that run its containers on a machine that is no node

The functions are volumes, which makes what the kubelet makes, and container_NAME, which turns into
that container's process. They know the mounts, user, groups, environment and command line of the
manifest, and nothing else of the machine. They call what the machine brings: image FOLDER makes the
image's files there, driver FOLDER what the NVIDIA runtime would, with $DRIVER_ENVIRONMENT, mounted
FOLDER and fail WORDS say what their names say; see cross/guest/cases/71-k3s.sh.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from shlex import quote

import kubernetes_validate
import yaml

HERE = Path(__file__).resolve().parent
# One of some years ago, and the newest known.
VERSIONS = ("1.28", kubernetes_validate.latest_version())
PODS = "/run/pod"


class Image:
    """What the Dockerfile says that the manifest relies on."""

    def __init__(self, text: str) -> None:
        words = dict(line.split(None, 1) for line in text.splitlines() if re.match("[A-Z]+ ", line))
        self.entrypoint: list[str] = yaml.safe_load(words["ENTRYPOINT"])
        self.name = re.search(r"-t (\S+)", text)[1]
        self.uid = int(re.search(r"useradd .*--uid (\d+)", text)[1])


class Pod:
    """The documents, taken apart."""

    def __init__(self, text: str) -> None:
        self.documents = list(yaml.safe_load_all(text))
        (self.daemonset,) = (d for d in self.documents if d["kind"] == "DaemonSet")
        self.configs = {d["metadata"]["name"]: d["data"] for d in self.documents if d["kind"] == "ConfigMap"}
        self.spec = self.daemonset["spec"]["template"]["spec"]
        self.volumes = {v["name"]: v for v in self.spec["volumes"]}
        self.first, self.then = self.spec["initContainers"], self.spec["containers"]

    def command(self, container: dict, image: Image) -> list[str]:
        return container.get("command", image.entrypoint) + container.get("args", [])

    def identity(self, container: dict) -> tuple[int, list[int]]:
        """User, and the groups beside."""
        pod, own = self.spec.get("securityContext", {}), container.get("securityContext", {})
        groups = [*pod.get("supplementalGroups", []), *([pod["fsGroup"]] if "fsGroup" in pod else [])]
        return own.get("runAsUser", pod.get("runAsUser", 0)), groups

    def has_driver(self, container: dict) -> bool:
        """Whether the NVIDIA runtime brings the driver into it."""
        asked = {e["name"]: e["value"] for e in container.get("env", [])}.get("NVIDIA_VISIBLE_DEVICES", "void")
        return self.spec.get("runtimeClassName") == "nvidia" and asked not in ("", "void", "none")


def problems(pod: Pod, image: Image) -> list[str]:
    """What keeps it from running, as far as its text tells."""
    found = []
    for document in pod.documents:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as e:
                at = ".".join(map(str, e.path))
                found.append(f"{document['kind']}, Kubernetes {version}: {at}: {e.message}")
    # What follows takes it for what the schemas say.
    if found:
        return found
    say = found.append
    labels = pod.daemonset["spec"]["template"]["metadata"]["labels"]
    for key, value in pod.daemonset["spec"]["selector"]["matchLabels"].items():
        if labels.get(key) != value:
            say(f"the selector's {key}: {value} is no label of the pod")
    used = set()
    for container in pod.first + pod.then:
        name = container["name"]
        if container["image"].split(":")[0] != image.name:
            say(f"{name}: the image is {container['image']}, the Dockerfile makes {image.name}")
        for mount in container["volumeMounts"]:
            used.add(mount["name"])
            if mount["name"] not in pod.volumes:
                say(f"{name}: there is no volume {mount['name']}")
        if not pod.has_driver(container):
            say(f"{name}: the NVIDIA runtime brings no driver into it")
    for name, volume in pod.volumes.items():
        if name not in used:
            say(f"no container mounts the volume {name}")
        config = volume.get("configMap")
        if config and config["name"] not in pod.configs:
            say(f"volume {name}: there is no ConfigMap {config['name']} here")
    if found:
        return found
    # The engine that is run is one that was provisioned, and in the same place.
    (provision,), (run,) = pod.first, pod.then
    _, verb, *options = pod.command(provision, image)
    given = dict(zip(options[::2], options[1::2]))
    folder, cache = given.get("--all"), given.get("--cache")
    at = [m["name"] for m in provision["volumeMounts"] if m["mountPath"] == folder]
    if verb != "provision" or not cache or not at or "configMap" not in pod.volumes[at[0]]:
        return [*found, f"provision needs --all with the ConfigMap's folder and --cache, not {' '.join(options)}"]
    configs = pod.configs[pod.volumes[at[0]]["configMap"]["name"]]
    engines = [f"{cache}/{Path(name).stem}.tobiuo" for name in configs if name.endswith(".conf")]
    _, job, engine, camera, *_ = pod.command(run, image)
    if job != "run" or engine not in engines:
        say(f"run takes {engine}, provision makes {engines}")
    places = [{m["mountPath"]: m["name"] for m in c["volumeMounts"]} for c in (provision, run)]
    if cache not in places[0] or places[0][cache] != places[1].get(cache):
        say(f"{cache} is not the same volume in both containers")
    if camera not in places[1]:
        say(f"{camera} is not mounted")
    if pod.identity(run)[0] != image.uid:
        say(f"run is user {pod.identity(run)[0]}, the image has {image.uid}")
    for name, text in configs.items():
        model = dict(line.split("=", 1) for line in text.splitlines())["MODEL"]
        if str(Path(model).parent) not in places[0]:
            say(f"{name}: {model} is not mounted")
    return found


def volumes(pod: Pod) -> list[str]:
    """What the kubelet does before the first container."""
    lines = ["volumes() {"]
    for name, volume in pod.volumes.items():
        at = f"{PODS}/volumes/{name}"
        if "configMap" in volume:
            lines.append(f"mkdir -p {at}")
            for file, text in pod.configs[volume["configMap"]["name"]].items():
                lines.append(f"printf %s {quote(text)} >{at}/{quote(file)}")
            continue
        path, kind = quote(volume["hostPath"]["path"]), volume["hostPath"]["type"]
        test = {"DirectoryOrCreate": "-d", "Directory": "-d", "CharDevice": "-c"}[kind]
        if kind == "DirectoryOrCreate":
            lines.append(f"mkdir -p {path}")
        lines.append(f'[ {test} {path} ] || fail "hostPath {path} is no {kind}"')
        lines.append(f"mkdir -p {PODS}/volumes && ln -sfn {path} {at}")
    return lines + ["}"]


def container(pod: Pod, image: Image, of: dict) -> list[str]:
    """One container, as its process."""
    name, root = of["name"], f"{PODS}/{of['name']}"
    lines = [f"container_{name}() {{", f"image {root}"]
    # The runtime makes the places in the image.
    for mount in of["volumeMounts"]:
        at, volume = root + mount["mountPath"], f"{PODS}/volumes/{mount['name']}"
        made = f"mkdir -p {quote(at)}"
        if pod.volumes[mount["name"]].get("hostPath", {}).get("type") == "CharDevice":
            made = f"mkdir -p {quote(str(Path(at).parent))} && touch {quote(at)}"
        lines.append(f"mounted {quote(at)} || {{ {made}; mount --bind $(readlink -f {volume}) {quote(at)}; }}")
        if mount.get("readOnly"):
            lines.append(f"mount -o remount,bind,ro {quote(at)}")
    if pod.has_driver(of):
        lines.append(f"driver {root}")
    if of.get("securityContext", {}).get("readOnlyRootFilesystem"):
        lines.append(f"mount -o remount,bind,ro {root}")
    user, groups = pod.identity(of)
    words = ["env", "-i", "PATH=/usr/bin:/bin", "HOME=/"]
    words += [f"{e['name']}={e['value']}" for e in of.get("env", [])]
    # By its place: busybox's env would take its own.
    who = ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={','.join(map(str, groups))}"]
    command = " ".join(map(quote, [*who, *pod.command(of, image)]))
    lines[1:] = [f"{line} || exit 125" for line in lines[1:]]
    lines.append(f"exec chroot {root} {' '.join(map(quote, words))} $DRIVER_ENVIRONMENT {command}")
    return lines + ["}"]


def main() -> int:
    image, pod = Image((HERE / "Dockerfile").read_text()), Pod((HERE / "daemonset.yaml").read_text())
    if sys.argv[1:] == ["shell"]:
        print("\n".join(volumes(pod) + [line for c in pod.first + pod.then for line in container(pod, image, c)]))
        return 0
    if sys.argv[1:] != ["check"]:
        print(__doc__, file=sys.stderr)
        return 2
    found = problems(pod, image)
    for problem in found:
        print(f"jetson/k3s: {problem}", file=sys.stderr)
    if not found:
        print(f"the k3s DaemonSet: {len(pod.documents)} documents, Kubernetes {' and '.join(VERSIONS)}: clean")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
