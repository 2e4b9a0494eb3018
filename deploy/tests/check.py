"""Holds what is in deploy/ against the program: check.py PATH_OF_CORING

Manifests by Kubernetes' schemas, Pod Security's `restricted` and their own sums; the image and the
unit by the flags, sizes and times that `coring --help` states. It refuses to know Rust.
"""

import copy
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
import urllib.request
from pathlib import Path

import yaml

DEPLOY = Path(__file__).resolve().parents[1]
KUSTOMIZE = DEPLOY / "kustomize"
SITE = KUSTOMIZE / "base" / "site"
UNIT = DEPLOY / "systemd" / "coring.service"
PLACES = ["base", "overlays/io_uring"]
# The sleep action of preStop came with 1.30.
KUBERNETES_VERSIONS = ["1.30", "1.34", "1.37"]

# src/server/drain.rs: how long the backlog is looked into, and requests may still arrive, before
# --drain-timeout begins.
GRACE_S = 2
SPARE_S = 5
# An idle connection, with what the kernel needs for it.
CONNECTION_BYTES = 6 << 10
# The blocks of a running exchange, which it may have also at the bound of --max-receive-memory.
EXCHANGE_BYTES = 20 << 10
# Beyond what is received, what is cached and what is connected: code, stacks, rings, answers.
REST_BYTES = 16 << 20
EXPOSURE_MAX = 1.3  # of systemd-analyze security; 0 is best, 10 worst

CORING = ""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def tool(name):
    """A program that pip put beside this Python."""
    return str(Path(sys.executable).parent / name)


def render(place):
    """The manifests of a base or overlay, as they would be applied, by kind."""
    text = run(tool("kubectl"), "kustomize", str(KUSTOMIZE / place))
    return {resource["kind"]: resource for resource in yaml.safe_load_all(text)}


def pod_of(resources):
    return resources["Deployment"]["spec"]["template"]["spec"]


def container_of(resources):
    (container,) = pod_of(resources)["containers"]
    return container


def flags_of(words):
    """{"--flag": value} of arguments written as --flag=value."""
    return dict(word.split("=", 1) for word in words if word.startswith("--"))


def help_text():
    return " ".join(run(CORING, "serve", "--help").split())


def default_of(flag):
    """The default of a flag, as --help states it."""
    pattern = rf"{flag} <[A-Z]+> (?:(?! --).)*?\[default: ([^\]]+)\]"
    return re.search(pattern, help_text())[1]


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", text.lower().replace(" ", "")).groups()
    return int(number) << {"": 0, "k": 10, "m": 20, "g": 30}[unit]


def seconds_of(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", text).groups()
    return int(number) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600}[unit]


def drain_seconds(words):
    """How long coring may take to end, run with `words`."""
    limit = flags_of(words).get("--drain-timeout") or default_of("--drain-timeout")
    return GRACE_S + seconds_of(limit)


def containerfile():
    """The instructions of the image that is kept: {"USER": ["65532:65532"], …}."""
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    last = text[text.index("FROM scratch") :].replace("\\\n", " ")
    pairs = (line.split(None, 1) for line in last.splitlines() if re.match(r"[A-Z]+ ", line))
    instructions = {}
    for name, value in pairs:
        instructions.setdefault(name, []).append(value)
    return instructions


def unit_settings():
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def restricted_faults(pod):
    """What Pod Security's level `restricted` (Kubernetes 1.37) finds wrong with a pod."""
    faults = []

    def insist(holds, what):
        if not holds:
            faults.append(what)

    of_pod = pod.get("securityContext", {})
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"}
    volumes |= {"persistentVolumeClaim", "projected", "secret", "name"}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        insist(not pod.get(name), name)
    for volume in pod.get("volumes", []):
        insist(set(volume) <= volumes, f"volume {volume['name']}")
    for container in pod["containers"] + pod.get("initContainers", []):
        of = container.get("securityContext", {})
        both = of_pod | of
        capabilities = of.get("capabilities", {})
        seccomp = both.get("seccompProfile", {}).get("type")
        probes = [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness")]
        hosts = [probe.get("httpGet", {}).get("host") for probe in probes]
        insist(seccomp in ("RuntimeDefault", "Localhost"), "seccompProfile")
        insist(both.get("runAsNonRoot") is True, "runAsNonRoot")
        insist(both.get("runAsUser") != 0, "runAsUser")
        insist(of.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation")
        insist(not of.get("privileged"), "privileged")
        insist("ALL" in capabilities.get("drop", []), "capabilities.drop")
        insist(set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}, "capabilities.add")
        insist(of.get("procMount", "Default") == "Default", "procMount")
        insist(not any(port.get("hostPort") for port in container["ports"]), "hostPort")
        insist(not any(hosts), "host of a probe")
    return faults


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {place: render(place) for place in PLACES}
        cls.each = cls.rendered.values()

    def test_they_are_of_the_schema(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            every = [resource for resources in self.each for resource in resources.values()]
            yaml.safe_dump_all(every, file)
            file.flush()
            for version in KUBERNETES_VERSIONS:
                check = (tool("kubernetes-validate"), "--strict", "-k", version)
                said = run(*check, file.name)
                # A kind without a schema is no more than a warning.
                self.assertEqual(said.count(" passed for resource "), len(every), said)

    def test_pod_security_restricted_admits_them(self):
        for resources in self.each:
            self.assertEqual(restricted_faults(pod_of(resources)), [])
            labels = resources["Namespace"]["metadata"]["labels"]
            self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")

    def test_the_check_of_restricted_can_fail(self):
        spoil = [
            lambda pod, _: pod.update(hostNetwork=True),
            lambda pod, _: pod["securityContext"].pop("seccompProfile"),
            lambda pod, _: pod["securityContext"].pop("runAsNonRoot"),
            lambda pod, _: pod["securityContext"].update(runAsUser=0),
            lambda pod, _: pod["volumes"].append({"name": "a", "hostPath": {"path": "/"}}),
            lambda _, box: box["securityContext"].pop("allowPrivilegeEscalation"),
            lambda _, box: box["securityContext"].update(privileged=True),
            lambda _, box: box["securityContext"].pop("capabilities"),
            lambda _, box: box["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
            lambda _, box: box["securityContext"].update(procMount="Unmasked"),
            lambda _, box: box["ports"][0].update(hostPort=80),
            lambda _, box: box["livenessProbe"]["httpGet"].update(host="example.com"),
        ]
        for change in spoil:
            pod = copy.deepcopy(pod_of(self.rendered["base"]))
            change(pod, pod["containers"][0])
            self.assertEqual(len(restricted_faults(pod)), 1, pod)

    def test_the_root_is_read_only_and_nothing_else_is_given(self):
        for resources in self.each:
            self.assertTrue(container_of(resources)["securityContext"]["readOnlyRootFilesystem"])
            self.assertFalse(pod_of(resources)["automountServiceAccountToken"])

    def test_the_drain_adds_up(self):
        for resources in self.each:
            box = container_of(resources)
            sleep = box["lifecycle"]["preStop"]["sleep"]["seconds"]
            needed = sleep + drain_seconds(box["args"]) + SPARE_S
            self.assertGreaterEqual(pod_of(resources)["terminationGracePeriodSeconds"], needed)

    def test_the_memory_adds_up(self):
        for resources in self.each:
            box = container_of(resources)
            limits, requests = box["resources"]["limits"], box["resources"]["requests"]
            (cores,) = [var for var in box["env"] if var["name"] == "CORING_CORES"]
            self.assertEqual(cores["valueFrom"]["resourceFieldRef"]["resource"], "requests.cpu")
            workers = math.ceil(float(requests["cpu"]))
            received = bytes_of(flags_of(box["args"])["--max-receive-memory"])
            # What is sent without a copy may take twice its bound.
            cached = 2 * bytes_of(default_of("--file-cache"))
            cached += bytes_of(flags_of(box["args"])["--answer-memory"])
            # A head that does not fit into a block is kept beside what is bounded.
            connection = CONNECTION_BYTES + EXCHANGE_BYTES + bytes_of(default_of("--max-head"))
            connected = int(flags_of(box["args"])["--max-connections"]) * connection
            needed = workers * (received + cached) + connected + REST_BYTES
            limit = bytes_of(limits["memory"].replace("i", "").lower())
            self.assertGreaterEqual(limit, needed)
            self.assertEqual(limits["memory"], requests["memory"])

    def test_selectors_find_the_pods(self):
        for resources in self.each:
            spec = resources["Deployment"]["spec"]
            labels = spec["template"]["metadata"]["labels"].items()
            budget = resources["PodDisruptionBudget"]["spec"]
            selectors = [spec["selector"]["matchLabels"], budget["selector"]["matchLabels"]]
            selectors.append(resources["Service"]["spec"]["selector"])
            spread = pod_of(resources)["topologySpreadConstraints"]
            selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
            for selector in selectors:
                self.assertLessEqual(selector.items(), labels)
            self.assertGreater(spec["replicas"], budget["maxUnavailable"])
            self.assertEqual(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0)

    def test_ports_have_their_names(self):
        for resources in self.each:
            box = container_of(resources)
            names = {port["name"] for port in box["ports"]}
            used = {port["targetPort"] for port in resources["Service"]["spec"]["ports"]}
            used |= {box[f"{kind}Probe"]["httpGet"]["port"] for kind in ("liveness", "readiness")}
            self.assertLessEqual(used, names)

    def test_the_profile_is_the_one_beside_them(self):
        context = pod_of(self.rendered["overlays/io_uring"])["securityContext"]
        name = context["seccompProfile"]["localhostProfile"]
        self.assertEqual(name, "profiles/coring.json")
        profile = json.loads((DEPLOY / "seccomp" / "coring.json").read_text(encoding="utf-8"))
        # containerd reads the form of the OCI runtime specification, and skips what is not in it.
        of_oci = {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
        self.assertLessEqual(set(profile), of_oci)
        for rule in profile["syscalls"]:
            self.assertLessEqual(set(rule), {"names", "action", "errnoRet", "args"})

    def test_probes_are_answered_and_a_new_site_is_seen(self):
        """The real program with the manifest's arguments, on a volume as the kubelet makes it."""
        box = container_of(self.rendered["base"])
        with tempfile.TemporaryDirectory() as volume, tempfile.TemporaryFile("w+") as log:
            swap_in(volume, "1", {path.name: path.read_text() for path in SITE.iterdir()})
            mount = box["volumeMounts"][0]["mountPath"]
            args = [word for word in box["args"] if not word.startswith("--bind")]
            args[args.index(mount)] = volume
            command = [CORING, *args, "--bind=127.0.0.1:0"]
            server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
            try:
                base = wait_for(lambda: address_in(log))
                for kind in ("readiness", "liveness"):
                    path = box[f"{kind}Probe"]["httpGet"]["path"]
                    self.assertIn("It works", fetch(base + path))
                swap_in(volume, "2", {"index.html": "changed"})
                wait_for(lambda: fetch(base + "/") == "changed")
            finally:
                server.send_signal(signal.SIGTERM)
                self.assertEqual(server.wait(timeout=60), 0)


def swap_in(volume, version, files):
    """Makes `files` the volume's content, as the kubelet does: by renaming the link ..data."""
    folder = Path(volume, f"..{version}")
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        if not os.path.lexists(Path(volume, name)):
            Path(volume, name).symlink_to(f"..data/{name}")
    Path(volume, "..new").symlink_to(folder.name)
    Path(volume, "..new").rename(Path(volume, "..data"))


def address_in(log):
    log.seek(0)
    found = re.search(r"(http://[\d.:]+)/", log.read())
    return found and found[1]


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def wait_for(probe):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.05)
    raise AssertionError("not within 20 s")


class Image(unittest.TestCase):
    def test_it_is_what_the_manifests_run(self):
        image, resources = containerfile(), render("base")
        box, context = container_of(resources), pod_of(resources)["securityContext"]
        (user,) = image["USER"]
        self.assertEqual(user, f"{context['runAsUser']}:{context['runAsGroup']}")
        (exposed,), (environment,) = image["EXPOSE"], image["ENV"]
        bind = flags_of(box["args"])["--bind"]
        self.assertEqual(environment, "PORT=" + exposed.removesuffix("/tcp"))
        ports = [f"{port['containerPort']}/tcp" for port in box["ports"]]
        self.assertEqual([exposed], ports)
        self.assertEqual(bind, "0.0.0.0:" + exposed.removesuffix("/tcp"))
        command = json.loads(image["CMD"][0])
        self.assertEqual(command, box["args"][: len(command)])
        self.assertEqual(command[1], box["volumeMounts"][0]["mountPath"])
        self.assertNotIn("subPath", box["volumeMounts"][0])

    def test_it_has_the_version_of_the_program(self):
        manifest = (DEPLOY.parent / "Cargo.toml").read_text(encoding="utf-8")
        version = tomllib.loads(manifest)["package"]["version"]
        self.assertIn(f"VERSION={version}", containerfile()["ARG"])
        self.assertEqual(container_of(render("base"))["image"].rsplit(":", 1)[1], version)

    def test_it_ends_by_the_signal_that_drains(self):
        self.assertEqual(containerfile()["STOPSIGNAL"], ["SIGTERM"])


class Flags(unittest.TestCase):
    def test_every_flag_and_variable_is_one_of_the_program(self):
        box = container_of(render("base"))
        texts = [UNIT.read_text(encoding="utf-8"), " ".join(box["args"])]
        texts.append(" ".join(variable["name"] for variable in box["env"]))
        texts.append((DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8"))
        known = help_text()
        for text in texts:
            for name in re.findall(r"(?:^|\s)(--[a-z-]{3,})|(CORING_[A-Z_]+)", text):
                word = name[0] or name[1]
                foreign = ("--from", "--or-plain", "--security-opt", "--time")
                self.assertTrue(word in known or word in foreign, f"{word} is not in --help")


class Unit(unittest.TestCase):
    def analyze(self, *arguments):
        """systemd-analyze on the unit, with a program that is there."""
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder, UNIT.name)
            text = UNIT.read_text(encoding="utf-8")
            self.assertIn("=/usr/local/bin/coring ", text)
            copied.write_text(text.replace("/usr/local/bin/coring", CORING), encoding="utf-8")
            return run("systemd-analyze", "--no-pager", *arguments, str(copied))

    def test_systemd_understands_it(self):
        self.assertEqual(self.analyze("verify"), "")

    def test_it_exposes_little(self):
        said = self.analyze("security", "--offline=true")
        exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1])
        self.assertLessEqual(exposure, EXPOSURE_MAX)

    def test_the_drain_adds_up(self):
        settings = unit_settings()
        needed = drain_seconds(shlex.split(settings["ExecStart"])) + SPARE_S
        self.assertGreaterEqual(seconds_of(settings["TimeoutStopSec"]), needed)
        self.assertEqual(settings["KillSignal"], "SIGTERM")

    def test_exit_statuses_that_stay_are_those_of_the_program(self):
        statuses = set(unit_settings()["RestartPreventExitStatus"].split())
        listed = re.findall(r"^  (\d+) +\S", run(CORING, "--help"), re.MULTILINE)
        self.assertLessEqual(statuses, set(listed))
        self.assertNotIn("1", statuses)


if __name__ == "__main__":
    CORING = sys.argv.pop(1)
    missing = [name for name in ("systemd-analyze",) if shutil.which(name) is None]
    by_pip = ("kubectl", "kubernetes-validate")
    missing += [name for name in by_pip if not Path(tool(name)).exists()]
    if missing:
        sys.exit(f"check.py: missing {' '.join(missing)}: tests/run installs them")
    unittest.main()
