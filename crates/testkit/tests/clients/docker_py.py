"""docker-py, unmodified: what its users do with containers, volumes, images and streams."""

import io
import os
import sys
import tarfile
import threading
import uuid

import docker
from docker.types import Healthcheck, LogConfig, Mount, Ulimit

client = docker.DockerClient(base_url=os.environ["DOCKER_HOST"], timeout=60)
PREFIX = "client-py-" + uuid.uuid4().hex[:8]
made = []


def name(suffix):
    made.append(f"{PREFIX}-{suffix}")
    return made[-1]


def fails(kind, status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except kind as error:
        code = getattr(error, "exit_status", None) or error.response.status_code
        assert code == status, (code, str(error))
        return str(error)
    raise AssertionError(f"{call} did not fail")


def runs():
    assert client.ping()
    assert client.version()["ApiVersion"]
    assert client.info()["OSType"] == "linux"
    assert client.containers.run("box", ["echo", "hello"], remove=True) == b"hello\n"
    both = client.containers.run("box", ["sh", "-c", "echo out; echo err >&2"], stdout=True, stderr=True, remove=True)
    assert sorted(both.split()) == [b"err", b"out"], both
    fails(docker.errors.ContainerError, 3, client.containers.run, "box", ["sh", "-c", "exit 3"], remove=True)
    fails(docker.errors.ImageNotFound, 404, client.images.get, "no-such-image-" + PREFIX)
    fails(docker.errors.NotFound, 404, client.containers.get, "no-such-" + PREFIX)
    fails(docker.errors.APIError, 400, client.containers.run, "box", ["no-such-command"], name=name("nocmd"))


def life_cycle():
    box = client.containers.run(
        "box",
        ["sh", "-c", "trap 'echo bye; exit 7' TERM; echo $GREETING; while true; do sleep 0.1; done"],
        detach=True,
        name=name("life"),
        environment={"GREETING": "hi there"},
        labels={"purpose": PREFIX},
        hostname="lighthouse",
        mem_limit="64m",
        nano_cpus=500_000_000,
        pids_limit=50,
        ulimits=[Ulimit(name="nofile", soft=512, hard=1024)],
        cap_drop=["ALL"],
        cap_add=["NET_BIND_SERVICE"],
        read_only=True,
        tmpfs={"/scratch": "size=1m"},
        init=True,
        log_config=LogConfig(type=LogConfig.types.JSON, config={"max-size": "1m"}),
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 1},
    )
    for line in box.logs(stream=True, follow=True):
        assert line.strip() == b"hi there", line
        break
    box.reload()
    assert box.status == "running"
    assert box.attrs["Config"]["Hostname"] == "lighthouse"
    assert box.attrs["HostConfig"]["Memory"] == 64 << 20
    assert [c.id for c in client.containers.list(filters={"label": f"purpose={PREFIX}"})] == [box.id]
    assert any("sleep" in " ".join(row) or "sh" in " ".join(row) for row in box.top()["Processes"])
    stats = box.stats(stream=False)
    assert stats["memory_stats"]["limit"] == 64 << 20, stats["memory_stats"]
    assert next(box.stats(stream=True, decode=True))["pids_stats"]["current"] >= 1
    box.update(mem_limit="96m", memswap_limit="192m")
    box.reload()
    assert box.attrs["HostConfig"]["Memory"] == 96 << 20
    box.pause()
    box.reload()
    assert box.status == "paused"
    box.unpause()
    box.rename(name("renamed"))
    fails(docker.errors.APIError, 409, box.remove)
    box.stop(timeout=10)
    assert box.wait()["StatusCode"] == 7
    assert b"bye" in box.logs()
    assert b"hi there" in box.logs(timestamps=True, tail=10)
    box.restart()
    box.kill()
    assert box.wait()["StatusCode"] in (137, 7)
    box.remove(force=True)


def executes():
    box = client.containers.run("box", ["sleep", "600"], detach=True, name=name("exec"))
    code, output = box.exec_run(["sh", "-c", "echo $A; id -u; pwd; exit 5"], environment={"A": "b"}, user="1000", workdir="/tmp")
    assert (code, output.split()) == (5, [b"b", b"1000", b"/tmp"]), (code, output)
    code, (out, err) = box.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, out, err) == (0, b"o\n", b"e\n")
    _, stream = box.exec_run(["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True)
    assert b"".join(stream).split() == [b"1", b"2", b"3"]
    _, sock = box.exec_run(["cat"], stdin=True, tty=True, socket=True)
    raw = getattr(sock, "_sock", sock)
    raw.sendall(b"through the terminal\n")
    seen = b""
    while b"through the terminal" not in seen:
        seen += raw.recv(1024)
    raw.close()
    made_exec = client.api.exec_create(box.id, ["sleep", "0.2"])
    client.api.exec_start(made_exec, detach=True)
    assert client.api.exec_inspect(made_exec)["ProcessConfig"]["entrypoint"] == "sleep"
    box.remove(force=True)


def attaches():
    box = client.containers.create("box", ["cat"], stdin_open=True, name=name("attach"))
    sock = box.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    box.start()
    raw = getattr(sock, "_sock", sock)
    raw.sendall(b"ping\n")
    header = b""
    while len(header) < 13:
        header += raw.recv(13 - len(header))
    assert header == b"\x01\0\0\0\0\0\0\x05ping\n", header
    raw.close()
    box.remove(force=True)


def copies():
    box = client.containers.create("box", ["cat", "/data/note"], name=name("copy"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        folder = tarfile.TarInfo("data")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(folder)
        entry = tarfile.TarInfo("data/note")
        entry.size = 6
        tar.addfile(entry, io.BytesIO(b"words\n"))
    assert box.put_archive("/", packed.getvalue())
    box.start()
    box.wait()
    assert box.logs() == b"words\n"
    chunks, stat = box.get_archive("/data/note")
    assert (stat["name"], stat["size"]) == ("note", 6)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        assert tar.extractfile("note").read() == b"words\n"
    kinds = {change["Path"]: change["Kind"] for change in box.diff()}
    assert kinds.get("/data/note") == 1, kinds
    image = box.commit(repository=PREFIX, tag="one", changes=["CMD [\"echo\", \"committed\"]"])
    assert client.containers.run(image.id, remove=True) == b"committed\n"
    assert len(b"".join(box.export())) > 1_000_000
    box.remove()
    client.images.remove(f"{PREFIX}:one")


def volumes():
    volume = client.volumes.create(name("volume"), labels={"purpose": PREFIX})
    mount = Mount("/data", volume.name)
    client.containers.run("box", ["sh", "-c", "echo kept > /data/file"], mounts=[mount], remove=True)
    out = client.containers.run("box", ["cat", "/data/file"], volumes={volume.name: {"bind": "/data", "mode": "ro"}}, remove=True)
    assert out == b"kept\n"
    assert [v.name for v in client.volumes.list(filters={"label": f"purpose={PREFIX}"})] == [volume.name]
    volume.remove()
    fails(docker.errors.NotFound, 404, client.volumes.get, volume.name)
    made.remove(volume.name)


def health():
    box = client.containers.run(
        "box", ["sleep", "600"], detach=True, name=name("health"),
        healthcheck=Healthcheck(test=["CMD", "true"], interval=50_000_000, timeout=5_000_000_000, retries=2),
    )
    for event in client.events(decode=True, filters={"container": box.id}, since=0):
        if event["Action"] == "health_status: healthy":
            break
    box.reload()
    assert box.attrs["State"]["Health"]["Status"] == "healthy"
    assert box.health == "healthy"
    box.remove(force=True)


def events():
    seen = []
    stream = client.events(decode=True, filters={"type": "container", "label": f"story={PREFIX}"})
    listener = threading.Thread(target=lambda: [seen.append(event["Action"]) or (event["Action"] == "destroy" and stream.close()) for event in stream])
    listener.daemon = True
    listener.start()
    # The subscription is known to be there once an event of it has come.
    while not seen:
        client.containers.run("box", ["true"], labels={"story": PREFIX}, remove=True)
        listener.join(0.2)
    assert seen[0] in ("create", "attach", "start", "die", "destroy")


def ports():
    box = client.containers.run(
        "box", ["httpd", "-f", "-p", "80", "-h", "/www"], detach=True, name=name("web"), ports={"80/tcp": ("127.0.0.1", None)}
    )
    box.reload()
    binding = box.ports["80/tcp"][0]
    assert binding["HostIp"] == "127.0.0.1" and int(binding["HostPort"]) > 0
    box.remove(force=True)


def prunes():
    client.containers.create("box", ["true"], labels={"prune": PREFIX})
    gone = client.containers.prune(filters={"label": f"prune={PREFIX}"})
    assert len(gone["ContainersDeleted"]) == 1, gone
    assert "SpaceReclaimed" in gone
    assert client.df()["Containers"] is not None


STEPS = [runs, life_cycle, executes, attaches, copies, volumes, health, events, ports, prunes]
try:
    for step in STEPS:
        print(step.__name__, flush=True)
        step()
finally:
    for left in made:
        try:
            client.containers.get(left).remove(force=True)
        except docker.errors.NotFound:
            pass
print("ok", len(STEPS))
sys.exit(0)
