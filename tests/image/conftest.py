"""Fixtures for the tests of the built image: a Docker engine, the image, and training jobs as SageMaker runs them.

``make test-image`` runs these tests, ``make test`` does not. They need root and the programs of ``engine.NEEDED``.
Variables: FRCNN_TEST_IMAGE, an existing image to test instead of a new build; FRCNN_BASE_IMAGE, the base of the build;
FRCNN_DOCKER_DATA, the engine's data folder (kept between runs with the build cache); DOCKER_HOST, a running engine (the
test of ECR is skipped then); DOCKER, the client (with BuildKit).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tests are not a package

import engine
from sagemaker_host import Host

REPOSITORY = Path(__file__).resolve().parents[2]
if not os.environ.get("FRCNN_TEST_THE_IMAGE"):  # `make test-image` sets it
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engine.Daemons]:
    lacking = engine.missing()
    if lacking:
        pytest.skip(f"no Docker Engine can be started here; missing: {', '.join(lacking)}")
    with engine.stopped_at_the_end(tmp_path_factory.mktemp("engine")) as daemons:
        engine.make_certificates(daemons.folder)
        yield daemons


@pytest.fixture(scope="session")
def docker(daemons: engine.Daemons) -> Callable[..., str]:
    """Runs the docker command; returns its standard output without the last newline."""
    if "DOCKER_HOST" not in os.environ:
        data = Path(os.environ.get("FRCNN_DOCKER_DATA") or "/var/tmp/frcnn-docker")
        os.environ["DOCKER_HOST"] = engine.start_engine(daemons, data)

    def run(*arguments: str | Path, check: bool = True, timeout: float = 1000) -> str:
        done = subprocess.run(
            [engine.DOCKER, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.removesuffix("\n")

    return run


@pytest.fixture(scope="session")
def base_image(docker: Callable[..., str], daemons: engine.Daemons) -> str:
    """FRCNN_BASE_IMAGE, or a minimal Debian built by mmdebstrap, or Docker Hub's."""
    given = os.environ.get("FRCNN_BASE_IMAGE")
    if given or not shutil.which("mmdebstrap"):
        return given or "debian:bookworm-slim"
    name = "localhost/base:bookworm"
    if not docker("images", "--quiet", name):
        archive = daemons.folder / "base.tar"
        subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", archive], check=True, capture_output=True)
        docker("import", archive, name)
        archive.unlink()
    return name


@pytest.fixture(scope="session")
def host_certificates() -> list[Path]:
    """CA certificates added to this machine; none may be in the image."""
    return sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))


@pytest.fixture(scope="session")
def image(docker: Callable[..., str], daemons: engine.Daemons, request: pytest.FixtureRequest) -> str:
    """The CPU image as scripts/build_image.sh builds it."""
    given = os.environ.get("FRCNN_TEST_IMAGE")
    if given:
        return given
    variables = {**os.environ, "DEVICE": "cpu", "BASE_IMAGE": request.getfixturevalue("base_image")}
    bundle = os.environ.get("PIP_CERT") or os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:  # CA certificates of a proxy: for the build, never in a layer
        (daemons.folder / "pip.conf").write_text("[global]\ncert = /run/secrets/ca_bundle\n")
        variables |= {"CA_BUNDLE": bundle, "PIP_CONF": str(daemons.folder / "pip.conf")}
    done = subprocess.run(
        [REPOSITORY / "scripts/build_image.sh", "--", "--network", "host"],
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def channel(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder: 16 training and 4 validation images of BCCD."""
    folder = tmp_path_factory.mktemp("channel")
    (folder / "annotations").mkdir()
    for split, count in (("train", 16), ("val", 4)):
        content = json.loads((real_data / f"bccd/annotations/instances_{split}.json").read_text())
        content["images"] = content["images"][:count]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        (folder / split).mkdir()
        for image in content["images"]:
            shutil.copy(real_data / "bccd" / split / image["file_name"], folder / split)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def hosts(docker: Callable[..., str], tmp_path: Path) -> Iterator[Callable[..., list[Host]]]:
    """Creates hosts of one job, named algo-1, algo-2, …, with the given hyperparameters."""
    made: list[Host] = []

    def make(hyperparameters: dict[str, str], count: int = 1) -> list[Host]:
        names = [f"algo-{number + 1}" for number in range(count)]
        for name in names:
            host = Host(name, tmp_path / name, docker)
            host.prepare(hyperparameters, names)
            made.append(host)
        return made

    yield make
    for host in made:
        if host.container:
            docker("rm", "--force", host.container)
