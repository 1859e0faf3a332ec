"""The settings of the Airflow stack: makes `.env` on first use, with random secrets, and the volumes.

Existing lines of `.env` are kept, also if they were written by hand. `--data` sets other data, `--recipe` another
recipe, FACE_ATTRIBUTES_IMAGES and FACE_ATTRIBUTES_TAG in the environment other images, and DOCKER_HOST another engine;
these settings stay.
"""

import argparse
import os
import secrets
import string
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path

from image_tools import LOCAL, inspect, read_settings, setting_of
from run_pipeline import (
    ANNOTATIONS,
    CORRECTIONS,
    ROOT,
    annotations_of,
    artifacts_volume,
    engine,
    make_volumes,
    say,
    unknown_recipe,
    unusable,
)

AIRFLOW_USER = 50000  # in images/airflow/Dockerfile
HEADER = "# Secrets and settings of docker-compose.yml, made by `make up`. Keep it to yourself; git ignores it.\n"


def random_secrets() -> dict[str, str]:
    """A new value for every secret."""
    return {
        # Letters only, 75 bits: 6 of 1,000 texts of 20 hexadecimal digits are mostly decimal, and check-password
        # refuses them.
        "AIRFLOW_ADMIN_PASSWORD": "".join(secrets.choice(string.ascii_lowercase) for _ in range(16)),
        "AIRFLOW_SECRET_KEY": secrets.token_hex(32),
        "AIRFLOW_JWT_SECRET": secrets.token_hex(32),  # 64 characters, for HMAC with SHA-512
        "AIRFLOW_FERNET_KEY": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "POSTGRES_PASSWORD": secrets.token_hex(20),
        "REDIS_PASSWORD": secrets.token_hex(20),
        "SERVE_TOKEN": secrets.token_hex(20),
    }


def write_settings(file: Path, settings: dict[str, str]) -> None:
    """Write a `.env` that only its owner can read, whole or not at all. Lines with the same value stay."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else HEADER.splitlines()
    # name -> number of the line, and its value; the later of two lines counts
    written = {found[0]: (at, found[1]) for at, line in enumerate(lines) if (found := setting_of(line))}
    for name, value in settings.items():
        at, before = written.get(name, (None, None))
        if at is None:
            lines.append(f"{name}={value}")
        elif value != before:
            lines[at] = f"{name}={value}"
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write("".join(f"{line}\n" for line in lines))
    partial.replace(file)


def make_corrections(data: Path, data_volume: str) -> str:
    """Make the folder of corrections in a data folder, and a volume for this folder alone; return the volume's name.

    The API server, which runs as `AIRFLOW_USER`, writes only there in the data. If the folder cannot be made, the
    volume is empty and not writable either.
    """
    folder = data / CORRECTIONS
    try:
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid != AIRFLOW_USER:
            if os.geteuid() == 0:
                os.chown(folder, AIRFLOW_USER, AIRFLOW_USER)
            else:
                folder.chmod(0o1777)  # root changes the owner; other users let all write, but not replace files
    except OSError as error:
        say(
            f"{folder} cannot be made, or given to user {AIRFLOW_USER} ({error.strerror}): reports offer corrections "
            "of labels as a download; to have them saved, make it, give it to that user, and make up again"
        )
    shown = folder.is_dir()
    name = f"{data_volume}-corrections" if shown else f"{data_volume}-no-corrections"
    client = engine()
    if name not in {volume.name for volume in client.volumes.list()}:
        options = {"type": "none", "o": "bind", "device": str(folder)} if shown else {}
        client.volumes.create(name, driver="local", driver_opts=options)
    return name


def _has(volume: str) -> bool:
    """Whether a volume is there."""
    return subprocess.run(["docker", "volume", "inspect", volume], capture_output=True, check=False).returncode == 0


def engine_socket(settings: Mapping[str, str]) -> str:
    """The socket of DOCKER_HOST, also if a restored `.env` names that of another machine; else that of `.env`."""
    host = os.environ.get("DOCKER_HOST", "")
    if host.startswith("unix://"):
        return host.removeprefix("unix://")
    return settings.get("ENGINE_SOCKET", "/var/run/docker.sock")


def main() -> int:
    """Complete `.env` and the volumes; 64 if the data folder is invalid, or there is no such recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with raw/, annotations.csv or annotations/ (default: data)")
    parser.add_argument("--recipe", help="recipe of scheduled runs; none: params.yaml as it is")
    parser.add_argument("--env-file", type=Path, default=ROOT / ".env", help="default: .env")
    arguments = parser.parse_args()
    file: Path = arguments.env_file
    known = read_settings(file)
    settings = known | {name: value for name, value in random_secrets().items() if name not in known}
    data = (arguments.data or Path(known.get("DATA", ROOT / "data"))).resolve()
    recipe = arguments.recipe or known.get("FACE_ATTRIBUTES_RECIPE", "none")
    if problem := unusable(data, in_containers=True) or unknown_recipe(recipe):
        say(problem)
        return 64
    database = f"{known.get('COMPOSE_PROJECT_NAME', LOCAL)}_postgres"  # it keeps its first password
    if "POSTGRES_PASSWORD" not in known and file == ROOT / ".env" and _has(database):
        say("the database of an earlier .env is still there: put that .env back, or begin anew without its runs and "
            f"users: docker volume rm {database}")  # fmt: skip
        return 64
    annotations = annotations_of(data)
    if annotations not in ANNOTATIONS:
        say(f"annotations: {data / annotations}")
    # The volume follows the data, unless another one was written by hand.
    kept = known.get("FACE_ATTRIBUTES_ARTIFACTS_VOLUME", "")
    by_hand = kept and kept != artifacts_volume(Path(known.get("DATA", ROOT / "data")))
    artifacts = kept if by_hand else artifacts_volume(data)
    data_volume = make_volumes(data, artifacts)
    settings |= {
        "DATA": str(data),
        "FACE_ATTRIBUTES_ARTIFACTS_VOLUME": artifacts,
        "FACE_ATTRIBUTES_DATA_VOLUME": data_volume,
        "FACE_ATTRIBUTES_CORRECTIONS_VOLUME": make_corrections(data, data_volume),
        "FACE_ATTRIBUTES_ANNOTATIONS": f"/data/{annotations}",
        "FACE_ATTRIBUTES_RECIPE": recipe,
    }
    names = ("FACE_ATTRIBUTES_IMAGES", "FACE_ATTRIBUTES_TAG")
    settings |= {name: os.environ[name] for name in names if os.environ.get(name)}
    settings["ENGINE_SOCKET"] = engine_socket(settings)
    settings.setdefault("AIRFLOW_PORT", "8080")
    settings.setdefault("SERVE_PORT", "8090")
    settings.setdefault("AIRFLOW_URL", f"http://localhost:{settings['AIRFLOW_PORT']}")
    named = {name: settings.get(name, "") for name in ("POSTGRES_IMAGE", "REDIS_IMAGE")}
    here = inspect(named.values())
    # A stand-in belongs to the machine that built it, but a restored .env may name it on another machine.
    absent = {
        name for name, which in named.items() if not which or (which.startswith(f"{LOCAL}/") and which not in here)
    }
    if absent:
        images = subprocess.run([ROOT / "images/base/services"], stdout=subprocess.PIPE, text=True, check=False)
        if images.returncode:
            return images.returncode  # it has printed the cause
        found = dict(line.split("=", 1) for line in images.stdout.split())
        settings |= {name: found[name] for name in absent}
    if settings != known:
        write_settings(file, settings)
    if "AIRFLOW_ADMIN_PASSWORD" not in known:
        say(f"The first user is airflow, the password {settings['AIRFLOW_ADMIN_PASSWORD']} (kept in {file.name})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
