"""Testcontainers for Python, unmodified (without its reaper, whose image no registry here has)."""

import os

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

from testcontainers.core.container import DockerContainer
from testcontainers.core.waiting_utils import wait_for_logs
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

with (
    DockerContainer("box")
    .with_command(["sh", "-c", "echo ready; echo $WORD; exec httpd -f -p 8080 -h /www"])
    .with_env("WORD", "mellon")
    .with_exposed_ports(8080)
    .with_kwargs(mem_limit="64m")
) as box:
    wait_for_logs(box, "ready", timeout=30)
    host, port = box.get_container_host_ip(), int(box.get_exposed_port(8080))
    assert host and port > 0, (host, port)
    code, output = box.exec(["sh", "-c", "wget -q -O - http://127.0.0.1:8080/; echo; hostname"])
    assert code == 0, output
    out, _ = box.get_logs()
    assert b"mellon" in out, out
    wrapped = box.get_wrapped_container()
    wrapped.reload()
    assert wrapped.status == "running"
    identity = wrapped.id

with DockerContainer("box").with_command(["sh", "-c", "echo come in; sleep 60"]).waiting_for(
    LogMessageWaitStrategy("come in")
) as second:
    assert second.get_wrapped_container().id != identity

import docker

client = docker.DockerClient(base_url=os.environ["DOCKER_HOST"])
assert not [box for box in client.containers.list(all=True) if box.id == identity]
print("ok")
