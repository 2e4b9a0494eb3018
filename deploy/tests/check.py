"""Checks the files of deploy/ against the program: check.py PATH_OF_CORING

The manifests are checked by the schemas of Kubernetes, by the rules of Pod Security `restricted`,
and for sufficient memory and drain time. The image and the unit are checked against the flags,
sizes and times in `coring --help`. Tests that need Rust are in tests/integration.
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
DROP_IN = DEPLOY / "systemd" / "python.conf"
FLASK = "overlays/flask"
PLACES = ["base", "overlays/io_uring", FLASK]
# The oldest version has the sleep action of preStop.
KUBERNETES_VERSIONS = ["1.30", "1.34", "1.37"]

# The time of a drain before --drain-timeout begins: coring accepts from the backlog for 1 s, and
# responds to new requests for 1 s (src/server/drain.rs).
GRACE_S = 2
SLACK_S = 5
# An idle connection, including the kernel's memory for it.
CONNECTION_BYTES = 6 << 10
# The blocks that a running exchange may use in addition to --max-receive-memory.
EXCHANGE_BYTES = 20 << 10
# Everything but received bytes, cached files and connections: code, stacks, rings, responses.
REST_BYTES = 16 << 20
# A Python worker with a small application, and the responses that slow clients have not read.
PYTHON_BYTES = 64 << 20
UNREAD_BYTES = 64 << 20
EXPOSURE_MAX = 1.3  # of systemd-analyze security; 0 is best, 10 worst

CORING = ""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def tool(name):
    """The path of a program that pip has installed beside this Python."""
    return str(Path(sys.executable).parent / name)


def render(place):
    """The manifests of a base or overlay as kubectl would apply them: {kind: resource}."""
    text = run(tool("kubectl"), "kustomize", str(KUSTOMIZE / place))
    return {resource["kind"]: resource for resource in yaml.safe_load_all(text)}


def pod_of(resources):
    return resources["Deployment"]["spec"]["template"]["spec"]


def container_of(resources):
    (container,) = pod_of(resources)["containers"]
    return container


def flags_of(words):
    """{"--flag": value} for arguments in the form --flag=value."""
    return dict(word.split("=", 1) for word in words if word.startswith("--"))


def help_text(command="serve"):
    return " ".join(run(CORING, command, "--help").split())


def default_of(flag):
    """The default of a flag according to --help."""
    pattern = rf"{flag} <[A-Z]+> (?:(?! --).)*?\[default: ([^\]]+)\]"
    return re.search(pattern, help_text())[1]


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)([kmg]?)(?:i?b)?", text.lower().replace(" ", "")).groups()
    return int(number) << {"": 0, "k": 10, "m": 20, "g": 30}[unit]


def seconds_of(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)?", text).groups()
    return int(number) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600}[unit]


def drain_seconds(words):
    """The longest drain in seconds if coring runs with the arguments `words`."""
    limit = flags_of(words).get("--drain-timeout") or default_of("--drain-timeout")
    return GRACE_S + seconds_of(limit)


def containerfile(name="Containerfile"):
    """The instructions of the last stage of an image: {"USER": ["65532:65532"], …}."""
    text = (DEPLOY / "container" / name).read_text(encoding="utf-8")
    last = text[text.rindex("\nFROM ") :].replace("\\\n", " ")
    pairs = (line.split(None, 1) for line in last.splitlines() if re.match(r"[A-Z]+ ", line))
    instructions = {}
    for name, value in pairs:
        instructions.setdefault(name, []).append(value)
    return instructions


def memory_needed(flags, cores):
    """The bytes that coring and its Python workers may need with these flags."""
    received = bytes_of(flags["--max-receive-memory"])
    # A head larger than a block does not count against --max-receive-memory.
    connection = CONNECTION_BYTES + EXCHANGE_BYTES + bytes_of(default_of("--max-head"))
    python = 0
    if "--workers" in flags:
        cached = 0
        connection += bytes_of(flags["--body-buffer"])
        python = int(flags["--workers"]) * PYTHON_BYTES + UNREAD_BYTES
    else:
        # The cache may take twice its limit while files change.
        cached = 2 * bytes_of(default_of("--file-cache")) + bytes_of(flags["--response-memory"])
    connected = int(flags["--max-connections"]) * connection
    return cores * (received + cached) + connected + python + REST_BYTES


def unit_settings(file=UNIT):
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def restricted_faults(pod):
    """The fields of a pod that Pod Security's level `restricted` (Kubernetes 1.37) rejects."""
    faults = []

    def require(holds, what):
        if not holds:
            faults.append(what)

    of_pod = pod.get("securityContext", {})
    volumes = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image"}
    volumes |= {"persistentVolumeClaim", "projected", "secret", "name"}
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        require(not pod.get(name), name)
    for volume in pod.get("volumes", []):
        require(set(volume) <= volumes, f"volume {volume['name']}")
    for container in pod["containers"] + pod.get("initContainers", []):
        of = container.get("securityContext", {})
        both = of_pod | of
        capabilities = of.get("capabilities", {})
        seccomp = both.get("seccompProfile", {}).get("type")
        probes = [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness")]
        hosts = [probe.get("httpGet", {}).get("host") for probe in probes]
        require(seccomp in ("RuntimeDefault", "Localhost"), "seccompProfile")
        require(both.get("runAsNonRoot") is True, "runAsNonRoot")
        require(both.get("runAsUser") != 0, "runAsUser")
        require(of.get("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation")
        require(not of.get("privileged"), "privileged")
        require("ALL" in capabilities.get("drop", []), "capabilities.drop")
        require(set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}, "capabilities.add")
        require(of.get("procMount", "Default") == "Default", "procMount")
        require(not any(port.get("hostPort") for port in container["ports"]), "hostPort")
        require(not any(hosts), "host of a probe")
    return faults


class Manifests(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.rendered = {place: render(place) for place in PLACES}
        cls.each = cls.rendered.values()

    def test_manifests_match_the_schemas(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            every = [resource for resources in self.each for resource in resources.values()]
            yaml.safe_dump_all(every, file)
            file.flush()
            for version in KUBERNETES_VERSIONS:
                check = (tool("kubernetes-validate"), "--strict", "-k", version)
                output = run(*check, file.name)
                # For a kind without a schema the tool only warns, so count the resources.
                self.assertEqual(output.count(" passed for resource "), len(every), output)

    def test_pod_security_restricted_admits_the_pods(self):
        for resources in self.each:
            self.assertEqual(restricted_faults(pod_of(resources)), [])
            labels = resources["Namespace"]["metadata"]["labels"]
            self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")

    def test_restricted_faults_finds_each_fault(self):
        changes = [
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
        for change in changes:
            pod = copy.deepcopy(pod_of(self.rendered["base"]))
            change(pod, pod["containers"][0])
            self.assertEqual(len(restricted_faults(pod)), 1, pod)

    def test_root_is_read_only_and_no_token_is_mounted(self):
        for resources in self.each:
            self.assertTrue(container_of(resources)["securityContext"]["readOnlyRootFilesystem"])
            self.assertFalse(pod_of(resources)["automountServiceAccountToken"])

    def test_stop_timeout_covers_the_drain(self):
        for resources in self.each:
            box = container_of(resources)
            sleep = box["lifecycle"]["preStop"]["sleep"]["seconds"]
            needed = sleep + drain_seconds(box["args"]) + SLACK_S
            self.assertGreaterEqual(pod_of(resources)["terminationGracePeriodSeconds"], needed)

    def test_memory_limit_is_sufficient(self):
        for resources in self.each:
            box = container_of(resources)
            limits, requests = box["resources"]["limits"], box["resources"]["requests"]
            (variable,) = [var for var in box["env"] if var["name"] == "CORING_CORES"]
            self.assertEqual(variable["valueFrom"]["resourceFieldRef"]["resource"], "requests.cpu")
            cores = math.ceil(float(requests["cpu"]))
            needed = memory_needed(flags_of(box["args"]), cores)
            limit = bytes_of(limits["memory"].replace("i", "").lower())
            self.assertGreaterEqual(limit, needed)
            self.assertEqual(limits["memory"], requests["memory"])

    def test_selectors_match_the_pods(self):
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

    def test_flask_has_a_writable_directory_and_no_site(self):
        resources = self.rendered[FLASK]
        self.assertNotIn("ConfigMap", resources)
        (mount,) = container_of(resources)["volumeMounts"]
        (volume,) = pod_of(resources)["volumes"]
        # The default of --spool-dir.
        self.assertEqual((mount["mountPath"], mount["name"]), ("/tmp", volume["name"]))
        body = bytes_of(flags_of(container_of(resources)["args"])["--max-body"])
        size = bytes_of(volume["emptyDir"]["sizeLimit"].replace("i", ""))
        self.assertGreater(size, body)

    def test_named_ports_exist(self):
        for resources in self.each:
            box = container_of(resources)
            names = {port["name"] for port in box["ports"]}
            used = {port["targetPort"] for port in resources["Service"]["spec"]["ports"]}
            used |= {box[f"{kind}Probe"]["httpGet"]["port"] for kind in ("liveness", "readiness")}
            self.assertLessEqual(used, names)

    def test_overlay_names_the_seccomp_profile(self):
        context = pod_of(self.rendered["overlays/io_uring"])["securityContext"]
        name = context["seccompProfile"]["localhostProfile"]
        self.assertEqual(name, "profiles/coring.json")
        profile = json.loads((DEPLOY / "seccomp" / "coring.json").read_text(encoding="utf-8"))
        # containerd reads profiles by the OCI runtime specification, and ignores other keys.
        of_oci = {"defaultAction", "defaultErrnoRet", "architectures", "syscalls"}
        self.assertLessEqual(set(profile), of_oci)
        for rule in profile["syscalls"]:
            self.assertLessEqual(set(rule), {"names", "action", "errnoRet", "args"})

    def test_program_responds_to_probes_and_serves_a_changed_site(self):
        """Runs the program with the manifest's arguments, on a volume like the kubelet's."""
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
    """Replaces the volume's content by `files` as the kubelet does: it renames the link ..data."""
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
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def wait_for(probe):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.05)
    raise AssertionError("the condition did not become true within 20 s")


class Image(unittest.TestCase):
    images = [("Containerfile", "base"), ("Containerfile.python", FLASK)]

    def test_images_agree_with_the_manifests(self):
        for name, place in self.images:
            image, resources = containerfile(name), render(place)
            box, context = container_of(resources), pod_of(resources)["securityContext"]
            (user,) = image["USER"]
            self.assertEqual(user, f"{context['runAsUser']}:{context['runAsGroup']}")
            (exposed,), (environment,) = image["EXPOSE"], image["ENV"]
            port = exposed.removesuffix("/tcp")
            self.assertIn(f"PORT={port}", environment.split())
            self.assertEqual([port], [str(port["containerPort"]) for port in box["ports"]])
            self.assertEqual(flags_of(box["args"])["--bind"], f"0.0.0.0:{port}")
            command = json.loads(image["CMD"][0])
            self.assertEqual(command, box["args"][: len(command)])
            self.assertEqual(image["STOPSIGNAL"], ["SIGTERM"])

    def test_image_has_the_directory_of_the_site(self):
        (mount,) = container_of(render("base"))["volumeMounts"]
        self.assertEqual(json.loads(containerfile()["CMD"][0])[1], mount["mountPath"])
        self.assertNotIn("subPath", mount)

    def test_image_has_the_version_of_the_program(self):
        manifest = (DEPLOY.parent / "Cargo.toml").read_text(encoding="utf-8")
        version = tomllib.loads(manifest)["package"]["version"]
        self.assertIn(f"VERSION={version}", containerfile()["ARG"])
        for _, place in self.images:
            self.assertEqual(container_of(render(place))["image"].rsplit(":", 1)[1], version)

    def test_python_image_copies_files_that_exist(self):
        image = containerfile("Containerfile.python")
        (_, environment), (source, _) = (words.split()[-2:] for words in image["COPY"])
        (program,) = json.loads(image["ENTRYPOINT"][0])
        self.assertEqual(program, f"{environment}/bin/coring")
        self.assertIn(f"VIRTUAL_ENV={environment}", image["ENV"][0].split())
        self.assertTrue((DEPLOY.parent / source).is_file())
        self.assertEqual(json.loads(image["CMD"][0])[1], Path(source).name)


class Flags(unittest.TestCase):
    def check(self, texts, known):
        """Asserts that each flag and variable in `texts` is in `known`, a help text."""
        foreign = ["--from", "--or-plain", "--security-opt", "--time"]
        foreign += ["--no-cache-dir", "--no-index", "--find-links", "--require-hashes"]
        for text in texts:
            for name in re.findall(r"(?:^|\s)(--[a-z-]{3,})|(CORING_[A-Z_]+)", text):
                word = name[0] or name[1]
                self.assertTrue(word in known or word in foreign, f"{word} is not in --help")

    def test_every_flag_and_variable_exists(self):
        for command, place, file in [
            ("serve", "base", "Containerfile"),
            ("run", FLASK, "Containerfile.python"),
        ]:
            box = container_of(render(place))
            texts = [" ".join(box["args"]), " ".join(each["name"] for each in box["env"])]
            texts.append((DEPLOY / "container" / file).read_text(encoding="utf-8"))
            self.check(texts, help_text(command))
        self.check([UNIT.read_text(encoding="utf-8")], help_text())
        self.check([DROP_IN.read_text(encoding="utf-8")], help_text("run"))


class Unit(unittest.TestCase):
    def copy(self, file, program, place):
        """Copies the unit or its drop-in to a place, with CORING in the place of the program."""
        text = file.read_text(encoding="utf-8")
        self.assertIn(f"={program} ", text)
        place.parent.mkdir(exist_ok=True)
        place.write_text(text.replace(program, CORING), encoding="utf-8")

    def analyze(self, *arguments, has_drop_in=False):
        """Runs systemd-analyze on a copy of the unit that starts CORING."""
        with tempfile.TemporaryDirectory() as folder:
            copied = Path(folder, UNIT.name)
            self.copy(UNIT, "/usr/local/bin/coring", copied)
            if has_drop_in:
                place = Path(folder, f"{UNIT.name}.d", DROP_IN.name)
                self.copy(DROP_IN, "/srv/shop/.venv/bin/coring", place)
            return run("systemd-analyze", "--no-pager", *arguments, str(copied))

    def test_unit_is_valid(self):
        for has_drop_in in (False, True):
            self.assertEqual(self.analyze("verify", has_drop_in=has_drop_in), "")

    def test_exposure_is_low(self):
        for has_drop_in in (False, True):
            output = self.analyze("security", "--offline=true", has_drop_in=has_drop_in)
            exposure = float(re.search(r"Overall exposure level for \S+: ([\d.]+)", output)[1])
            self.assertLessEqual(exposure, EXPOSURE_MAX)

    def test_stop_timeout_covers_the_drain(self):
        settings = unit_settings()
        needed = drain_seconds(shlex.split(settings["ExecStart"])) + SLACK_S
        self.assertGreaterEqual(seconds_of(settings["TimeoutStopSec"]), needed)
        self.assertEqual(settings["KillSignal"], "SIGTERM")

    def test_statuses_without_restart_are_documented(self):
        for file, command in [(UNIT, []), (DROP_IN, ["run"])]:
            statuses = set(unit_settings(file)["RestartPreventExitStatus"].split())
            listed = re.findall(r"^  (\d+) +\S", run(CORING, *command, "--help"), re.MULTILINE)
            self.assertLessEqual(statuses, set(listed))
            self.assertNotIn("1", statuses)


if __name__ == "__main__":
    CORING = sys.argv.pop(1)
    missing = [name for name in ("systemd-analyze",) if shutil.which(name) is None]
    by_pip = ("kubectl", "kubernetes-validate")
    missing += [name for name in by_pip if not Path(tool(name)).exists()]
    if missing:
        sys.exit(f"check.py: missing programs: {' '.join(missing)}; run tests/run --prepare")
    unittest.main()
