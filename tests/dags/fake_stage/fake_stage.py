"""A stage on the contract's command line that behaves as `--set fake.behaviour=...` says."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

RESULT = Path("/result/result.json")
SETTINGS = dict(item.split("=", 1) for flag, item in zip(sys.argv, sys.argv[1:], strict=False) if flag == "--set")
BEHAVIOUR = json.loads(SETTINGS.get("fake.behaviour", '"succeed"'))
EAT_MEMORY = "hoard = [bytearray(10**7) for _ in range(10**4)]"


def hand_over(name: str = "key", changes: dict[str, object] | None = None, **headline: object) -> None:
    key = hashlib.sha256(name.encode()).hexdigest()
    path = f"/artifacts/fake/{key}"
    result = {
        "stage": "fake",
        "path": path,
        "key": key,
        "outputs": {"model": f"{path}/model"},
        "report": f"{path}/report.html",
        "cached": False,
        "seconds": 0.1,
        "headline": headline,
    }
    result |= changes or {}
    RESULT.write_text(json.dumps(result))
    print(json.dumps(result))


def beat(seconds: float, release: str = "") -> None:
    """Write this container's name to a shared file ten times a second, as a writer of an artifact would."""
    name = json.loads(SETTINGS["fake.name"])
    beats = Path(f"/artifacts/beats-{name}")
    for _ in range(int(seconds * 10)):
        if release and Path(f"/artifacts/{release}-{name}").exists():
            return
        with beats.open("a") as file:
            file.write(socket.gethostname() + "\n")
        time.sleep(0.1)


def fail(code: int) -> None:
    print("12:00:00 INFO read 3 rows\n12:00:01 ERROR fake: the cause: the remedy", file=sys.stderr)
    sys.exit(code)


def try_to(action: Callable[[], object]) -> str:
    try:
        action()
    except OSError:
        return "refused"
    return "done"


def is_confined() -> None:
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    memory = Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
    if not memory.exists():
        memory = Path("/sys/fs/cgroup/memory.max")
    hand_over(
        uid=os.getuid(),
        capabilities=int(status["CapEff"], 16) | int(status["CapBnd"], 16),
        no_new_privileges=status["NoNewPrivs"],
        memory=int(memory.read_text()),
        write_root=try_to(lambda: Path("/written").write_text("")),
        write_data=try_to(lambda: Path("/data/written").write_text("")),
        write_tmp=try_to(lambda: Path("/tmp/written").write_text("")),
        write_artifacts=try_to(lambda: Path("/artifacts/written").write_text("")),
        interfaces=",".join(name for _, name in socket.if_nameindex()),
        engine_socket=any(Path(path).exists() for path in ("/var/run/docker.sock", "/run/docker.sock")),
        image=os.environ["FACE_ATTRIBUTES_IMAGE"],
        arguments=json.dumps(sys.argv[1:]),
    )


def make_noise() -> None:
    sys.stdout.write("x" * 20_000_000 + "\n")
    for percent in range(101):
        sys.stderr.write(f"\r{percent} %")
    sys.stderr.write("\n")
    sys.stdout.flush()
    os.write(1, bytes(range(256)) + b"\n")
    print("still readable")
    hand_over()
    print("UserWarning: leaked semaphore", file=sys.stderr)


def flood(megabytes: int) -> None:
    lines = "".join(f"{number:09d} {'x' * 89}\n" for number in range(10_000))  # 1 MB
    for number in range(megabytes):
        sys.stdout.write(lines)
        if number == megabytes // 2:
            print("12:00:01 ERROR fake: amid the flood")
    print("12:00:02 INFO the last line")
    hand_over()


match BEHAVIOUR.split():
    case ["succeed"]:
        hand_over()
    case ["version", name]:
        hand_over(name, accuracy=0.5)
    case ["decided"]:
        hand_over("decided", action="promote", words=sys.argv[1 : sys.argv.index("--raw")])
    case ["hand-over", changes]:
        hand_over(changes=json.loads(changes))
    case ["lots"]:
        lots = json.loads(sys.argv[sys.argv.index("--lots") + 1])
        RESULT.write_text(json.dumps({"stage": "fake", "lots": lots, "seconds": 0.1, "headline": {"lots": len(lots)}}))
    case ["fail-saying", *words]:
        print("12:00:01 ERROR fake:", *words, file=sys.stderr)
        sys.exit(65)
    case ["beat", seconds]:
        beat(float(seconds))
        hand_over()
    case ["beat-until-released"]:
        beat(3600, "release")
        hand_over()
    case ["work-while-held"]:
        beat(0.1)
        while os.read(0, 4096):
            pass
        sys.exit(143)
    case ["ignore-sigterm"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        beat(3600)
    case ["exit", code]:
        fail(int(code))
    case ["fail-with-report", report]:
        RESULT.write_text(json.dumps({"stage": "fake", "report": report, "cause": "the cause"}))
        fail(65)
    case ["fail-with-binary-result"]:
        RESULT.write_bytes(bytes(range(256)))
        fail(65)
    case ["die"]:
        os.kill(os.getpid(), signal.SIGKILL)
    case ["eat-memory" | "child-eats-memory" as who]:
        child = subprocess.run([sys.executable, "-c", EAT_MEMORY])
        print("child ended with", child.returncode)
        beat(3600, "release")
        if who == "eat-memory":
            sys.exit(137)
        hand_over()
    case ["confined"]:
        is_confined()
    case ["noise"]:
        make_noise()
    case ["flood", megabytes]:
        flood(int(megabytes))
    case ["fork-bomb"]:
        while True:
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    case ["no-result"]:
        pass
    case ["large-result"]:
        hand_over(text="x" * 20_000_000)
    case ["malformed-result"]:
        RESULT.write_text('{"stage": "fake", "path": 7}')
    case ["binary-result"]:
        RESULT.write_bytes(bytes(range(256)))
    case ["folder-result"]:
        RESULT.mkdir()
        (RESULT / "large").write_bytes(bytes(20_000_000))
    case ["linked-result"]:
        RESULT.symlink_to("/etc/passwd")
    case _:
        hand_over(behaviour=BEHAVIOUR)
