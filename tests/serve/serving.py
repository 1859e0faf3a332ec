"""The service in a process of its own on a free port, and a registry that it serves from."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stages.common.contract.artifacts import file_digest
from stages.common.inference.observation import observe
from stages.common.inference.onnx_model import load
from stages.common.registry.registry import MODEL, Registry, Version, now
from stages.common.schema.attributes import write_attributes
from tests.common.onnx_models import metadata_of, save_model
from tests.common.samples import SAMPLE_ATTRIBUTES
from tests.waiting import PATIENCE_S, free_port, wait_until

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-tests"  # noqa: S105
BOUNDARY = "----of-the-tests"


class Answer(NamedTuple):
    """An answer of the service."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def register(
    registry: Registry, content: Path, save: Callable[[Path], object] = save_model, *, fit: bool = True
) -> Version:
    """Add a version with what stage champion takes of it, its model as `save` writes it; release it if fit."""
    for name in ("model", "reference"):
        (content / name).mkdir(parents=True)
    save(content / MODEL)
    model = load(content / MODEL)
    noise = np.random.default_rng(0).integers(0, 256, (8, model.image_size, model.image_size, 3), np.uint8)
    measured = observe(model, [f"{number}.png" for number in range(len(noise))], noise.__getitem__, len(noise))
    measured.save(content / "reference" / "features.npz")
    (content / "lineage.json").write_text("{}")
    (content / "params.yaml").write_text("")
    write_attributes(content, SAMPLE_ATTRIBUTES)
    registry.home.mkdir(parents=True, exist_ok=True)
    with registry.locked():
        version = Version(
            name=registry.next_name(), model_digest=file_digest(content / MODEL), archive="a" * 64, mean_accuracy=0.9,
            champion="", best="v1", fit=fit, reasons=["of the tests"], lots=["s1"], created=now(),
        )  # fmt: skip
        registry.register(content, version)
        if fit:
            registry.promote(version.name, "of the tests")
    return version


def form(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """Body and content type of a form with files."""
    parts = []
    for name, content in files:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "surrogatepass")
        head = b'Content-Disposition: form-data; name="files"; filename="%b"\r\nContent-Type: image/png' % quoted
        parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY.encode(), head, content))
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


class Server:
    """A running service.

    Attributes:
        port: on loopback.
        process: of the service.
        log: the file with what it says.
    """

    def __init__(self, folder: Path, artifacts: Path, token: str = "", **settings: str) -> None:
        """Start it, and wait until it listens; `settings` are more variables SERVE_*."""
        self.port, self.token, self.log = free_port(), token, folder / "serve.log"
        told = {"PORT": str(self.port), "ARTIFACTS": str(artifacts), "RAW": str(folder / "raw"), "TOKEN": token}
        told |= {"INDEX": str(folder / "index"), "WORKERS": "1"}
        told |= dict.fromkeys(("HEAD_S", "BODY_S", "REQUEST_S"), str(PATIENCE_S)) | settings
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SERVE_")}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "images.serve"],
                cwd=ROOT,
                env=kept | {f"SERVE_{name}": value for name, value in told.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._listens, self.log.read_text)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.get("/health").status == 200
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        shown = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)) as connection:
            connection.request(method, path, body, shown | dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def predict(self, *files: bytes, names: Sequence[str] = ()) -> Answer:
        """Ask about files; they are called by their numbers where no name is given."""
        body, kind = form([(names[at] if names else str(at), content) for at, content in enumerate(files)])
        return self.ask("POST", "/predict", body, {"Content-Type": kind})

    def connect(self) -> socket.socket:
        """A connection on which nothing was said yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)

    def wait_for(self, **expected: object) -> None:
        """Wait until /ready says this."""
        wait_until(lambda: expected.items() <= self.ready.items(), lambda: (self.ready, self.log.read_text()))

    @property
    def ready(self) -> dict[str, Any]:
        """Answer of /ready."""
        return dict(self.get("/ready").json)

    def stop(self) -> int:
        """End it, and give its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def serving(folder: Path, artifacts: Path, token: str = "", **settings: str) -> Iterator[Server]:
    """A service that ends with the block, and has said nothing of a defect."""
    server = Server(folder, artifacts, token, **settings)
    try:
        yield server
        assert "Traceback" not in server.log.read_text(), server.log.read_text()
    finally:
        server.stop()


def save_sensitive_model(path: Path, side: int = 32, **metadata: Any) -> Path:
    """A model each of whose probabilities depends on every pixel, so that another picture gets other ones."""
    random = np.random.default_rng(7)
    flat = side * side * 3
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["pixels", "flat"], ["row"]),
        helper.make_node("Gemm", ["row", "into", "shift"], ["embedding"]),
    ]
    into = (random.standard_normal((flat, 16)) / 255 / np.sqrt(flat) * 12).astype(np.float32)
    kept: dict[str, Any] = {"flat": np.array([0, flat], np.int64), "into": into, "shift": np.zeros(16, np.float32)}
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 16])]
    for attribute in SAMPLE_ATTRIBUTES:
        kept[f"{attribute.name}_weights"] = random.standard_normal((16, len(attribute.classes))).astype(np.float32) / 4
        nodes += [
            helper.make_node("Gemm", ["embedding", f"{attribute.name}_weights"], [f"{attribute.name}_logits"]),
            helper.make_node("Softmax", [f"{attribute.name}_logits"], [attribute.name], axis=1),
        ]
        outputs.append(helper.make_tensor_value_info(attribute.name, TensorProto.FLOAT, ["N", len(attribute.classes)]))
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, 3])
    initial = [numpy_helper.from_array(values, name) for name, values in kept.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "faces", [images], outputs, initial),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    told = metadata_of(SAMPLE_ATTRIBUTES)
    told["abstention"][SAMPLE_ATTRIBUTES[-1].name] = 0.995
    told |= {"image_size": side, "preprocessing": told["preprocessing"] | {"image_size": side} | metadata}
    helper.set_model_props(model, {"face_attributes": json.dumps(told)})
    onnx.save(model, path)
    return path
