"""The Python client (package kubernetes) against a local API: what its users do, in one go.

Called by the node tests with the owner's kubeconfig and the workload image; prints a line for each theme it has been
through and fails with a traceback.
"""

import json
import socket
import sys
import threading
import time

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.dynamic.exceptions import DynamicApiError
from kubernetes.stream import portforward, stream

NAMESPACE = "python"
KUBECONFIG, IMAGE = sys.argv[1:3]
config.load_kube_config(KUBECONFIG)
core = client.CoreV1Api()


def refused(code, reason, call, *arguments, **named):
    """What the call is refused with, as a Status."""
    try:
        call(*arguments, **named)
    except (ApiException, DynamicApiError) as problem:
        status = json.loads(problem.body)
        assert (problem.status, status["code"]) == (code, code), problem
        assert (status["kind"], status["reason"]) == ("Status", reason), status
        return status
    raise AssertionError(f"was not refused with {code}")


def config_map(name, **data):
    metadata = client.V1ObjectMeta(name=name, labels={"app": "python"})
    return client.V1ConfigMap(metadata=metadata, data=data)


def pod(name, script, **spec):
    container = client.V1Container(
        name="main", image=IMAGE, command=["sh", "-c", script], image_pull_policy="Never"
    )
    return client.V1Pod(
        api_version="v1",
        kind="Pod",
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=1, **spec),
    )


def typed_objects():
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    made = core.create_namespaced_config_map(NAMESPACE, config_map("a", x="1"))
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo is not None
    status = refused(409, "AlreadyExists", core.create_namespaced_config_map, NAMESPACE, config_map("a"))
    assert status["message"] == 'configmaps "a" already exists', status
    assert status["details"] == {"kind": "configmaps", "name": "a"}, status
    made.data["x"] = "2"
    second = core.replace_namespaced_config_map("a", NAMESPACE, made)
    refused(409, "Conflict", core.replace_namespaced_config_map, "a", NAMESPACE, made)
    assert int(second.metadata.resource_version) > int(made.metadata.resource_version)
    refused(404, "NotFound", core.read_namespaced_config_map, "none", NAMESPACE)
    status = refused(422, "Invalid", core.create_namespaced_config_map, NAMESPACE, config_map("A_b"))
    assert status["details"]["causes"][0]["field"] == "metadata.name", status
    status = refused(422, "Invalid", core.create_namespaced_pod, NAMESPACE, pod("p", "true", restart_policy="Perhaps"))
    assert any(cause["field"] == "spec.restartPolicy" for cause in status["details"]["causes"]), status
    dry = core.create_namespaced_config_map(NAMESPACE, config_map("dry"), dry_run="All")
    assert dry.metadata.uid
    refused(404, "NotFound", core.read_namespaced_config_map, "dry", NAMESPACE)
    refused(404, "NotFound", client.AppsV1Api().list_namespaced_deployment, NAMESPACE)
    assert client.VersionApi().get_code().git_version.startswith("v1.")
    assert any(r.name == "pods/exec" for r in core.get_api_resources().resources)


def patches():
    maps = dynamic.DynamicClient(core.api_client).resources.get(api_version="v1", kind="ConfigMap")

    def patched(body, content_type, **named):
        made = maps.patch(body=body, name="a", namespace=NAMESPACE, content_type=content_type, **named)
        return made.to_dict()["data"]

    def applied(value, **named):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": value}}
        made = maps.server_side_apply(body=body, namespace=NAMESPACE, field_manager="me", **named)
        return made.to_dict()["data"]

    assert patched({"data": {"m": "1"}}, "application/merge-patch+json") == {"x": "2", "m": "1"}
    assert patched({"data": {"m": None, "s": "1"}}, "application/strategic-merge-patch+json") == {"x": "2", "s": "1"}
    operations = [{"op": "test", "path": "/data/s", "value": "1"}, {"op": "remove", "path": "/data/s"}]
    assert patched(operations, "application/json-patch+json") == {"x": "2"}
    refused(422, "Invalid", patched, operations, "application/json-patch+json")
    status = refused(409, "Conflict", applied, "3")
    assert status["details"]["causes"][0]["field"] == ".data.x", status
    assert applied("3", force_conflicts=True) == {"x": "3"}
    # What the client chooses by itself: a list is a JSON patch, an object a strategic merge.
    by_default = core.patch_namespaced_config_map("a", NAMESPACE, [{"op": "add", "path": "/data/l", "value": "1"}])
    assert by_default.data == {"x": "3", "l": "1"}
    by_default = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"l": None}})
    assert by_default.data == {"x": "3"}


def lists_and_watches():
    for number in range(25):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"n{number:02}", n=str(number)))
    pages, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, limit=10, _continue=token, label_selector="app=python")
        pages.append(len(page.items))
        token = page.metadata._continue
        if not token:
            break
    assert pages == [10, 10, 6], pages
    one = core.list_namespaced_config_map(NAMESPACE, field_selector="metadata.name=n07").items
    assert [item.data for item in one] == [{"n": "7"}]
    everywhere = core.list_config_map_for_all_namespaces(label_selector="app in (python)").items
    assert len(everywhere) == 26

    start = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.delete_namespaced_config_map("n00", NAMESPACE)
    core.patch_namespaced_config_map("n01", NAMESPACE, {"data": {"n": "one"}})
    watcher, seen = watch.Watch(), []
    for event in watcher.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=start, timeout_seconds=30):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            watcher.stop()
    assert seen == [("DELETED", "n00"), ("MODIFIED", "n01")], seen
    # It goes on where it was.
    at = watcher.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("late"))
    for event in watch.Watch().stream(
        core.list_namespaced_config_map, NAMESPACE, resource_version=at, timeout_seconds=30
    ):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "late"), event
        break
    # Versions that are no longer known, or of another store.
    try:
        for _ in watch.Watch().stream(core.list_namespaced_config_map, NAMESPACE, resource_version="999999999"):
            raise AssertionError("an event of the future")
    except ApiException as problem:
        assert problem.status == 410, problem
    status = core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="app=python")
    assert status.kind == "ConfigMapList" or status.status == "Success", status
    assert core.list_namespaced_config_map(NAMESPACE, label_selector="app=python").items == []


def pods():
    names = []

    def follow():
        for event in watcher.stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=60):
            names.append((event["type"], event["object"].status.phase))
            if event["type"] == "DELETED":
                return

    watcher = watch.Watch()
    # A daemon, so that it cannot keep a test that has failed.
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    script = "echo one; echo two; nc -ll -p 8080 -e echo hello from the pod & trap 'exit 0' TERM; while :; do sleep 0.1; done"
    core.create_namespaced_pod(NAMESPACE, pod("web", script))
    for event in watch.Watch().stream(core.list_namespaced_pod, NAMESPACE, timeout_seconds=60):
        conditions = {c.type: c.status for c in event["object"].status.conditions or []}
        if conditions.get("Ready") == "True":
            break
    else:
        raise AssertionError("the pod does not get ready")

    assert core.read_namespaced_pod_log("web", NAMESPACE).splitlines() == ["one", "two"]
    assert core.read_namespaced_pod_log("web", NAMESPACE, tail_lines=1) == "two\n"
    refused(400, "BadRequest", core.read_namespaced_pod_log, "web", NAMESPACE, container="none")
    lines = watch.Watch().stream(core.read_namespaced_pod_log, "web", NAMESPACE, follow=True)
    assert [next(lines), next(lines)] == ["one", "two"]

    options = {"stderr": True, "stdout": True, "stdin": False, "tty": False}
    said = stream(core.connect_get_namespaced_pod_exec, "web", NAMESPACE, command=["echo", "héllo"], **options)
    assert said == "héllo\n", said
    shell = stream(
        core.connect_get_namespaced_pod_exec,
        "web",
        NAMESPACE,
        command=["sh"],
        _preload_content=False,
        **{**options, "stdin": True},
    )
    shell.write_stdin("echo to stdout; echo to stderr >&2; exit 7\n")
    shell.run_forever(timeout=30)
    assert (shell.read_stdout(), shell.read_stderr()) == ("to stdout\n", "to stderr\n")
    assert shell.returncode == 7, shell.returncode
    try:
        stream(core.connect_get_namespaced_pod_exec, "none", NAMESPACE, command=["true"], **options)
        raise AssertionError("exec in no pod")
    except ApiException as problem:
        assert "404" in str(problem), problem

    forward = portforward(core.connect_get_namespaced_pod_portforward, "web", NAMESPACE, ports="8080")
    connection = forward.socket(8080)
    connection.setblocking(True)
    connection.settimeout(30)
    connection.sendall(b"hello?\n")
    heard = b""
    while b"\n" not in heard:
        heard += connection.recv(100)
    assert heard == b"hello from the pod\n", heard
    connection.close()
    assert forward.error(8080) is None

    deleted = core.delete_namespaced_pod("web", NAMESPACE, grace_period_seconds=1)
    assert deleted.metadata.deletion_timestamp
    until = time.monotonic() + 60
    while any(item.metadata.name == "web" for item in core.list_namespaced_pod(NAMESPACE).items):
        assert time.monotonic() < until, "the pod stays"
        time.sleep(0.05)
    follower.join(timeout=30)
    assert names[0] == ("ADDED", "Pending") and names[-1][0] == "DELETED", names


def any_kind():
    """The dynamic client: discovery, and kinds without classes."""
    dynamic_client = dynamic.DynamicClient(core.api_client)
    leases = dynamic_client.resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
    body = {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "l"}, "spec": {}}
    leases.create(body=body, namespace=NAMESPACE)
    applied = {**body, "spec": {"holderIdentity": "me"}}
    assert leases.server_side_apply(body=applied, namespace=NAMESPACE, field_manager="me").spec.holderIdentity == "me"
    for event in leases.watch(namespace=NAMESPACE, timeout=5):
        assert (event["type"], event["object"].metadata.name) == ("ADDED", "l")
        break
    leases.delete(name="l", namespace=NAMESPACE)


for theme in [typed_objects, patches, lists_and_watches, any_kind, pods]:
    theme()
    print(f"python: {theme.__name__}", flush=True)
core.delete_namespace(NAMESPACE)
