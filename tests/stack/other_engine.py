"""A second container engine on this machine, which stands in for the engine of another one."""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.stack.stack import ROOT

MEMORY = Path("/dev/shm")  # where the images go if there is room: to remove them from a disk took 100 s
ROOM = 2 * 10**9  # bytes; images of 700 MB and what containers write


class OtherEngine:
    """An engine with a socket, data and a network of its own. Needs root and dockerd.

    Usage:
        with OtherEngine() as engine:
            engine.load("face-attributes/airflow")
            engine.docker("ps")

    Attributes:
        folder: with all that it writes.
        host: for DOCKER_HOST.
        socket: the same as a path.
        address: of this machine as its containers see it, where the first engine can publish ports for them.
    """

    def __init__(self, size: str = "") -> None:
        """Describe it; all that it writes goes into a folder that goes with it, of the `size` in bytes, as "700m"."""
        in_memory = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
        self.folder = Path(tempfile.mkdtemp(prefix="engine-", dir=MEMORY if in_memory else None))
        self._size = size
        self.socket = self.folder / "docker.sock"
        self.host = f"unix://{self.socket}"
        network = secrets.randbelow(256)  # of 198.18.0.0/15, which is set aside for tests of networks
        self.address = f"198.18.{network}.1"
        self._pool = f"198.19.{network}.0/24"
        self._bridge = f"test{secrets.token_hex(4)}"

    def __enter__(self) -> "OtherEngine":
        """Start it."""
        if self._size:
            options = f"size={self._size},mode=755"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], check=True)
        subprocess.run(["ip", "link", "add", self._bridge, "type", "bridge"], check=True)
        try:
            subprocess.run(["ip", "address", "add", f"{self.address}/24", "dev", self._bridge], check=True)
            subprocess.run(["ip", "link", "set", self._bridge, "up"], check=True)
            self._engine("start")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and remove all that it had."""
        left = subprocess.run(
            ["docker", "--host", self.host, "ps", "--quiet"], stdout=subprocess.PIPE, text=True, check=False
        ).stdout.split()
        if left:
            self.docker("kill", *left)  # or the engine waits for them
        self._engine("stop")
        subprocess.run(["ip", "link", "delete", self._bridge], check=True)
        if self._size:
            subprocess.run(["umount", self.folder], check=True)
        shutil.rmtree(self.folder)

    def _engine(self, action: str) -> None:
        own = {"data-root": "data", "exec-root": "run", "pidfile": "docker.pid"}
        arguments = {name: str(self.folder / path) for name, path in own.items()}
        # A containerd that the system has would be shared, so its names are told apart. The rules of the packet filter
        # belong to the first engine; without any, containers reach this machine and no further, which is enough.
        arguments |= {"bridge": self._bridge, "containerd-namespace": self._bridge}
        arguments |= {"containerd-plugins-namespace": f"plugins.{self._bridge}"}
        arguments |= {"default-address-pool": f"base={self._pool},size=28"}
        words = [word for name, value in arguments.items() for word in (f"--{name}", value)]
        environment = {
            "DOCKER_HOST": self.host,
            "ENGINE_DIR": str(self.folder / "engine"),
            "ENGINE_ARGS": " ".join([*words, "--iptables=false"]),
        }
        subprocess.run([ROOT / "scripts/engine", action], env=os.environ | environment, check=True)

    def docker(self, *arguments: str) -> str:
        """Standard output of a command of its client."""
        return subprocess.check_output(["docker", "--host", self.host, *arguments], text=True).strip()

    def load(self, *images: str) -> None:
        """Copy images from the first engine."""
        with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as saved:
            subprocess.run(["docker", "--host", self.host, "load", "--quiet"], stdin=saved.stdout, check=True)
        assert saved.returncode == 0

    def stage_containers(self, run_id: str) -> dict[int, str]:
        """The running containers of a run's mapped tasks: map index -> id."""
        found = self.docker("ps", "--quiet", "--no-trunc", "--filter", f"label=face-attributes.run={run_id}").split()
        containers = json.loads(self.docker("inspect", *found)) if found else []
        return {
            int(container["Config"]["Labels"]["face-attributes.map_index"]): str(container["Id"])
            for container in containers
        }
