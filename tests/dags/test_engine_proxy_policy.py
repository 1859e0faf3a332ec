"""Requests that the proxy in front of the engine's socket lets through, and the words in which it refuses others."""

import copy
import json
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from images.engine_proxy.policy import LABELS, RefusedError, allowed, id_of_ours

OPERATORS: dict[str, Any] = {  # as dags/stage_operator/ sends it, by way of the docker SDK
    "User": "10001:10001",
    "Tty": False,
    "OpenStdin": True,
    "StdinOnce": True,
    "AttachStdin": True,
    "AttachStdout": True,
    "AttachStderr": True,
    "Env": ["HOME=/tmp", "OMP_NUM_THREADS=2", 'FACE_ATTRIBUTES_RUN={"run_id": "a\\nb"}'],
    "Cmd": ["--raw", "/data/raw", "--set", 'x.y="{{ 7 }}"', "--store", "/artifacts"],
    "Image": "face-attributes/validate:latest",
    "NetworkDisabled": False,
    "Entrypoint": None,
    "HostConfig": {
        "Memory": 268435456,
        "MemorySwap": 268435456,
        "ShmSize": 1073741824,
        "NanoCpus": 10**9,
        "ReadonlyRootfs": True,
        "NetworkMode": "none",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Tmpfs": {"/tmp": "size=1g,mode=1777"},
        "PidsLimit": 512,
        "Init": True,
        "DeviceRequests": [
            {"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}},
        ],
        "Mounts": [
            {"Target": "/data", "Source": "face-attributes-data", "Type": "volume", "ReadOnly": True},
            {"Target": "/artifacts", "Source": "face-attributes-artifacts", "Type": "volume", "ReadOnly": False},
            {"Target": "/result", "Source": None, "Type": "volume", "ReadOnly": False},
        ],
    },
    "Labels": dict.fromkeys(sorted(LABELS), "x"),
}
CREATE = "/v1.41/containers/create?name=face-attributes-validate-0123456789abcdef"


def changed(where: str, value: Any) -> bytes:
    """The operator's body with another value at a dotted place."""
    body = copy.deepcopy(OPERATORS)
    *parents, last = where.split(".")
    place: Any = body
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[int(last) if isinstance(place, list) else last] = value
    return json.dumps(body).encode()


def refusal(method: str, target: str, body: bytes = b"") -> str:
    with pytest.raises(RefusedError) as caught:
        allowed(method, target, body)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_what_the_operator_creates_is_written_anew_without_what_is_unset() -> None:
    request = allowed("POST", CREATE, json.dumps(OPERATORS).encode())
    assert request.start == CREATE
    assert json.loads(request.body) == {
        **{key: value for key, value in OPERATORS.items() if value},
        "HostConfig": {
            **OPERATORS["HostConfig"],
            "DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}],
            "Mounts": [
                OPERATORS["HostConfig"]["Mounts"][0],
                OPERATORS["HostConfig"]["Mounts"][1],
                {"Target": "/result", "Type": "volume", "ReadOnly": False},
            ],
        },
    }


@pytest.mark.parametrize(
    ("where", "value", "named"),
    [
        ("HostConfig.Privileged", True, "HostConfig.Privileged true is not allowed: no stage needs it"),
        ("HostConfig.Privileged", 1, "HostConfig.Privileged 1"),
        ("HostConfig.Binds", ["/:/host"], 'HostConfig.Binds ["/:/host"]'),
        ("HostConfig.VolumesFrom", ["other"], "HostConfig.VolumesFrom"),
        ("HostConfig.VolumeDriver", "nfs", "HostConfig.VolumeDriver"),
        ("Volumes", {"/host": {}}, "Volumes"),
        ("HostConfig.NetworkMode", "host", "HostConfig.NetworkMode \"host\" is not allowed: Input should be 'none'"),
        ("HostConfig.NetworkMode", "container:other", "HostConfig.NetworkMode"),
        ("HostConfig.NetworkMode", None, "HostConfig.NetworkMode is not allowed: it is missing, false or empty"),
        ("HostConfig.PidMode", "host", "HostConfig.PidMode"),
        ("HostConfig.IpcMode", "host", "HostConfig.IpcMode"),
        ("HostConfig.UTSMode", "host", "HostConfig.UTSMode"),
        ("HostConfig.UsernsMode", "host", "HostConfig.UsernsMode"),
        ("HostConfig.CgroupnsMode", "host", "HostConfig.CgroupnsMode"),
        ("HostConfig.CgroupParent", "/system", "HostConfig.CgroupParent"),
        ("HostConfig.CapAdd", ["SYS_ADMIN"], "HostConfig.CapAdd"),
        ("HostConfig.CapDrop", [], "HostConfig.CapDrop"),
        ("HostConfig.CapDrop", ["CHOWN"], "HostConfig.CapDrop.0"),
        ("HostConfig.SecurityOpt", ["seccomp=unconfined"], "HostConfig.SecurityOpt.0"),
        ("HostConfig.SecurityOpt", ["no-new-privileges", "apparmor=unconfined"], "HostConfig.SecurityOpt"),
        ("HostConfig.MaskedPaths", ["/x"], "HostConfig.MaskedPaths"),
        ("HostConfig.Sysctls", {"kernel.core_pattern": "|/x"}, "HostConfig.Sysctls"),
        ("HostConfig.Runtime", "other", "HostConfig.Runtime"),
        ("HostConfig.Devices", [{"PathOnHost": "/dev/sda"}], "HostConfig.Devices"),
        ("HostConfig.DeviceCgroupRules", ["a *:* rwm"], "HostConfig.DeviceCgroupRules"),
        ("HostConfig.DeviceRequests.0.Driver", "cdi", "HostConfig.DeviceRequests.0.Driver"),
        ("HostConfig.DeviceRequests.0.Capabilities", [["gpu", "utility"]], "HostConfig.DeviceRequests.0.Capabilities"),
        ("HostConfig.DeviceRequests.0.DeviceIDs", ["/dev/sda"], "HostConfig.DeviceRequests.0.DeviceIDs"),
        ("HostConfig.ReadonlyRootfs", False, "HostConfig.ReadonlyRootfs"),
        ("HostConfig.ReadonlyRootfs", "true", "HostConfig.ReadonlyRootfs"),
        ("HostConfig.Init", None, "HostConfig.Init"),
        ("HostConfig.Memory", 0, "HostConfig.Memory"),
        ("HostConfig.Memory", -1, "HostConfig.Memory -1"),
        ("HostConfig.Memory", True, "HostConfig.Memory true"),
        ("HostConfig.MemorySwap", -1, "HostConfig.MemorySwap -1"),
        ("HostConfig.MemorySwap", 2**40, "MemorySwap must equal Memory"),
        ("HostConfig.Memory", 10**15, "HostConfig.Memory 1000000000000000"),
        ("HostConfig.PidsLimit", -1, "HostConfig.PidsLimit -1"),
        ("HostConfig.PidsLimit", 10**9, "HostConfig.PidsLimit 1000000000"),
        ("HostConfig.NanoCpus", 10**15, "HostConfig.NanoCpus 1000000000000000"),
        ("HostConfig.ShmSize", 10**15, "HostConfig.ShmSize 1000000000000000"),
        ("HostConfig.Tmpfs", {"/tmp": "size=999999999g,mode=1777"}, "HostConfig.Tmpfs./tmp"),
        ("HostConfig.DeviceRequests.0.Capabilities", [[]], "HostConfig.DeviceRequests.0.Capabilities.0"),
        ("HostConfig.DeviceRequests.0.Capabilities", [], "HostConfig.DeviceRequests.0.Capabilities"),
        ("HostConfig.DeviceRequests.0.Capabilities", [["gpu"], ["gpu"]], "HostConfig.DeviceRequests.0.Capabilities"),
        ("HostConfig.DeviceRequests.0.Count", 10**6, "HostConfig.DeviceRequests.0.Count"),
        ("HostConfig.DeviceRequests.0.Count", 0, "HostConfig.DeviceRequests.0.Count"),
        ("Env", ["LD_PRELOAD=/artifacts/x.so"], "'LD_PRELOAD' is not a variable of a stage"),
        ("Env", ["PYTHONPATH=/artifacts"], "'PYTHONPATH' is not a variable of a stage"),
        ("Env", ["PATH=/artifacts"], "'PATH' is not a variable of a stage"),
        ("Env", ["NVIDIA_DRIVER_CAPABILITIES=all"], "'NVIDIA_DRIVER_CAPABILITIES' is not a variable of a stage"),
        ("Env", ["home=/tmp"], "'home' is not a variable of a stage"),
        ("Env", ["HOME"], "HOME must match /tmp"),
        ("Env", ["HOME=/artifacts"], "HOME must match /tmp"),
        ("Env", ["HOME=/tmp\n"], "HOME must match /tmp"),
        ("Env", ["HOME=/tmp", "HOME=/tmp"], "a variable twice"),
        ("Env", ["OMP_NUM_THREADS=99999"], "OMP_NUM_THREADS must match"),
        ("HostConfig.OomScoreAdj", -1000, "HostConfig.OomScoreAdj"),
        ("HostConfig.RestartPolicy", {"Name": "always"}, "HostConfig.RestartPolicy"),
        ("HostConfig.AutoRemove", True, "HostConfig.AutoRemove"),
        ("HostConfig.Tmpfs", {"/etc": "size=1g,mode=1777"}, "HostConfig.Tmpfs"),
        ("HostConfig.Tmpfs", {"/tmp": "size=1g,mode=1777,exec"}, "HostConfig.Tmpfs./tmp"),
        ("HostConfig.LogConfig.Type", "syslog", "HostConfig.LogConfig.Type"),
        ("HostConfig.LogConfig.Config", {}, "HostConfig.LogConfig.Config"),
        ("HostConfig.LogConfig.Config.max-size", "100g", "HostConfig.LogConfig.Config.max-size"),
        ("HostConfig.PortBindings", {"80/tcp": [{"HostPort": "80"}]}, "HostConfig.PortBindings"),
        ("HostConfig.Mounts.0.ReadOnly", False, "only face-attributes-data at /data, read-only"),
        ("HostConfig.Mounts.0.Source", "other", "only face-attributes-data at /data, read-only"),
        ("HostConfig.Mounts.0.Target", "/app", "only face-attributes-data at /data, read-only"),
        ("HostConfig.Mounts.0.Type", "bind", 'HostConfig.Mounts.0.Type "bind"'),
        ("HostConfig.Mounts.2.Source", "/etc", "none at /result"),
        (
            "HostConfig.Mounts.1.VolumeOptions",
            {"DriverConfig": {"Options": {"type": "none", "o": "bind", "device": "/"}}},
            "HostConfig.Mounts.1.VolumeOptions",
        ),
        ("HostConfig.Mounts.1.BindOptions", {"Propagation": "rshared"}, "HostConfig.Mounts.1.BindOptions"),
        ("Image", "debian:bookworm", "only images of stages, face-attributes/<stage>:latest"),
        ("Image", "face-attributes/airflow:latest", "only images of stages"),
        ("Image", "face-attributes/engine_proxy:latest", "only images of stages"),
        ("Image", "face-attributes/serve:latest", "only images of stages"),
        ("Image", "face-attributes/base-debian:latest", "only images of stages"),
        ("Image", "face-attributes/validate:other", "only images of stages"),
        ("Image", "face-attributes/validate:latest\n", "only images of stages"),
        ("Image", "elsewhere/face-attributes/validate:latest", "only images of stages"),
        ("User", "0:0", 'User "0:0"'),
        ("User", "", "User"),
        ("Entrypoint", ["sh"], "Entrypoint"),
        ("WorkingDir", "/data", "WorkingDir"),
        ("OpenStdin", False, "OpenStdin and StdinOnce go together"),
        ("StdinOnce", False, "OpenStdin and StdinOnce go together"),
        ("Tty", True, "Tty"),
        ("Healthcheck", {"Test": ["CMD", "x"]}, "Healthcheck"),
        ("NetworkingConfig", {"EndpointsConfig": {"bridge": {}}}, "NetworkingConfig"),
        ("Labels", {}, "Labels"),
        ("Labels", {"face-attributes.dag": "x"}, "exactly face-attributes.dag"),
        ("Labels.traefik", "x", "exactly face-attributes.dag"),
        ("hostconfig", {"Privileged": True}, "hostconfig"),
        ("HostConfig.privileged", True, "HostConfig.privileged"),
        ("HostConfig.M\u0435mory", 1, "HostConfig.M\\u0435mory"),  # Cyrillic
        ("Cmd.0", "\ud800", "half a surrogate pair"),
        ("x" * 10**5 + "\n", 1, "x" * 80),
    ],
)
def test_a_container_with_other_rights_is_refused_by_name(where: str, value: Any, named: str) -> None:
    assert named in refusal("POST", CREATE, changed(where, value))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no proper JSON"),
        (b"[]", "the body []"),
        (b"{", "no proper JSON"),
        (b'{"User": "10001:10001", "User": "0:0"}', "a key twice"),
        (b'{"HostConfig": {"Init": true, "Init": false}}', "a key twice"),
        (b'{"HostConfig": {"Memory": NaN}}', "NaN is not JSON"),
        (b'\xff{"User": "0:0"}', "no proper JSON"),
        (b"[" * 10**5, "no proper JSON"),
        (b'{"HostConfig": {"Memory": ' + b"9" * 5000 + b"}}", "no proper JSON"),
        (json.dumps(OPERATORS).encode() + b"{}", "no proper JSON"),
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(body: bytes, why: str) -> None:
    assert why in refusal("POST", CREATE, body)


def filters(**values: list[str]) -> str:
    return "filters=" + quote(json.dumps(values))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/_ping"),
        ("HEAD", "/_ping"),
        ("GET", "/v1.41/version"),
        ("GET", "/v1.50/info"),
        ("GET", "/v1.41/images/face-attributes/validate:latest/json"),
        ("GET", "/v1.41/images/json?only_ids=0&all=0&" + filters(reference=["face-attributes/train:latest"])),
        ("GET", "/v1.41/volumes?" + filters(name=["^face-attributes-data$"])),
        ("GET", "/v1.41/containers/json?all=1&limit=-1&size=0&" + filters(label=["face-attributes.run=a\nb"])),
        ("GET", "/v1.41/containers/json?all=1&" + filters(label=["face-attributes.try"], status=["exited", "dead"])),
    ],
)
def test_calls_that_look_and_do_not_touch_are_allowed(method: str, target: str) -> None:
    request = allowed(method, target, b"")
    assert request[:4] == (method, request.start, "", "")


@pytest.mark.parametrize(
    ("method", "rest"),
    [
        ("GET", "/json"),
        ("GET", "/logs?follow=1&stdout=1&stderr=1&tail=all"),
        ("GET", "/archive?path=%2Fresult%2Fresult.json"),
        ("POST", "/start"),
        ("POST", "/stop?t=2"),
        ("POST", "/kill?signal=SIGKILL"),
        ("POST", "/wait"),
        ("POST", "/attach?logs=0&stdout=1&stderr=1&stream=1"),
        ("DELETE", "?v=True&link=False&force=True"),
    ],
)
def test_a_call_about_a_container_waits_for_a_look_at_its_labels(method: str, rest: str) -> None:
    request = allowed(method, f"/v1.41/containers/some-name{rest}", b"")
    assert request == (method, "/v1.41/containers/", "some-name", rest, b"", "attach" in rest)


def test_only_a_container_with_all_labels_is_ours() -> None:
    def inspected(labels: Any) -> bytes:
        return json.dumps({"Id": "a" * 64, "Config": {"Labels": labels}}).encode()

    assert id_of_ours(inspected({**OPERATORS["Labels"], "face-attributes.inputs": "x"})) == "a" * 64
    for labels in (None, {}, {"face-attributes.inputs": "x"}, {"face-attributes.dag": "x"}):
        with pytest.raises(RefusedError, match="container aaaaaaaaaaaa is not allowed: it is not a stage's"):
            id_of_ours(inspected(labels))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1.41/containers/abc/exec"),
        ("POST", "/v1.41/exec/abc/start"),
        ("POST", "/v1.41/build"),
        ("POST", "/v1.41/images/create?fromImage=x"),
        ("POST", "/v1.41/images/load"),
        ("DELETE", "/v1.41/images/face-attributes/validate:latest"),
        ("POST", "/v1.41/commit?container=abc"),
        ("POST", "/v1.41/containers/abc/update"),
        ("POST", "/v1.41/containers/abc/rename?name=x"),
        ("PUT", "/v1.41/containers/abc/archive?path=/result/result.json"),
        ("GET", "/v1.41/containers/abc/archive?path=/etc/shadow"),
        ("GET", "/v1.41/containers/abc/archive?path=/result/result.json&path=/etc"),
        ("GET", "/v1.41/containers/abc/export"),
        ("GET", "/v1.41/containers/abc/attach/ws"),
        ("POST", "/v1.41/containers/abc/attach?stdin=2&stream=1"),
        ("POST", "/v1.41/containers/prune"),
        ("DELETE", "/v1.41/containers/abc?link=true"),
        ("GET", "/v1.41/containers/json"),
        ("GET", "/v1.41/containers/json?" + filters(label=[])),
        ("GET", "/v1.41/containers/json?" + filters(label=["face-attributes.inputs"])),
        ("GET", "/v1.41/containers/json?" + filters(label=["face-attributes.tryx"])),
        ("GET", "/v1.41/containers/json?" + filters(label=["face-attributes.try"], status=["running"])),
        ("GET", "/v1.41/containers/json?" + filters(status=["exited"])),
        ("GET", "/v1.41/containers/json?" + filters(label=["face-attributes.dag=x"], name=["x"])),
        ("GET", "/v1.41/containers/json?" + urlencode({"filters": '{"label": {"face-attributes.dag=x": true}}'})),
        ("GET", "/v1.41/images/json"),
        ("GET", "/v1.41/images/debian/json"),
        ("GET", "/v1.41/images/face-attributes/airflow:latest/json"),
        ("GET", "/v1.41/volumes"),
        ("GET", "/v1.41/volumes?" + filters(name=[""])),
        ("DELETE", "/v1.41/volumes/face-attributes-data"),
        ("POST", "/v1.41/networks/create"),
        ("GET", "/v1.41/events"),
        ("GET", "/v1.41/secrets"),
        ("POST", "/v1.41/swarm/init"),
        ("POST", "/v1.41/plugins/pull?remote=x"),
        ("POST", "/session"),
        ("POST", "/grpc"),
        ("GET", "/v1.23/info"),  # in which a start could bring rights along
        ("GET", "/v1.40/info"),
        ("GET", "/v1.041/info"),
        ("GET", "//info"),
        ("GET", "/v1.41//info"),
        ("GET", "/info/"),
        ("GET", "/./info"),
        ("GET", "/x/../info"),
        ("GET", "/info%00"),
        ("GET", "/inf%6f"),
        ("GET", "/INFO"),
        ("GET", "/info#x"),
        ("GET", "http://docker/info"),
        ("GET", "*"),
        ("get", "/info"),
        ("GET", "/info?x=1"),
        ("GET", "/v1.41/containers/../info"),
        ("GET", "/v1.41/containers/a%2fb/json"),
        ("GET", "/v1.41/containers/a/b/json"),
        ("GET", "/v1.41/containers/-a/json"),
        ("GET", "/v1.41/containers/\u0661/json"),
        ("POST", "/v1.41/containers/abc/stop?t=2;x"),
        ("POST", "/v1.41/containers/abc/stop?t"),
        ("POST", "/v1.41/containers/abc/stop?t=1&t=2"),
        ("POST", "/v1.41/containers/abc/kill?signal=9%0a"),
    ],
)
def test_every_other_call_is_refused(method: str, target: str) -> None:
    assert " is not allowed: " in refusal(method, target)


def test_a_body_where_none_belongs_is_refused() -> None:
    text = refusal("POST", "/v1.41/containers/abc/start", b'{"Binds": ["/:/host"]}')
    assert text == "a body of POST /v1.41/containers/abc/start is not allowed: no stage needs it"


def test_a_container_has_the_name_of_a_stage_and_a_task_instance() -> None:
    body = json.dumps(OPERATORS).encode()
    assert "name='postgres'" in refusal("POST", "/v1.41/containers/create?name=postgres", body)
    assert "platform" in refusal("POST", f"{CREATE}&platform=linux/arm64", body)


def test_a_volume_is_ours_and_no_path_of_the_host_in_disguise() -> None:
    volume: dict[str, Any] = {"Name": "face-attributes-artifacts", "Driver": None, "DriverOpts": None, "Labels": None}
    request = allowed("POST", "/v1.41/volumes/create", json.dumps(volume).encode())
    assert json.loads(request.body) == {"Name": "face-attributes-artifacts", "Driver": "local"}
    for change, named in (
        ({"Name": "other"}, "only face-attributes-artifacts"),
        ({"Name": "face-attributes-data"}, "only face-attributes-artifacts"),
        ({"Driver": "nfs"}, "Driver"),
        ({"DriverOpts": {"type": "none", "o": "bind", "device": "/"}}, "DriverOpts"),
    ):
        assert named in refusal("POST", "/v1.41/volumes/create", json.dumps(volume | change).encode())
