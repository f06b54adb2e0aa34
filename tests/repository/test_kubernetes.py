"""The manifests, checked against the published schemas without a cluster."""

import pytest
import yaml

from langgraph_rq.shared.settings import ALL
from tests.deployment import ROOT, make_secrets

kubernetes_validate = pytest.importorskip("kubernetes_validate")
FOLDER = ROOT / "deploy/kubernetes"
DOCUMENTS = [
    (path.name, document)
    for path in sorted(FOLDER.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] not in {"Kustomization", "ScaledObject"}  # not of the Kubernetes API itself
]
DEPLOYMENTS = [document for _, document in DOCUMENTS if document["kind"] == "Deployment"]
names = [f"{file}-{document['kind']}" for file, document in DOCUMENTS]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("document", [document for _, document in DOCUMENTS], ids=names)
def test_manifest_is_valid_and_has_no_unknown_field(document, version):
    kubernetes_validate.validate(document, version, strict=True)


def test_every_file_is_part_of_the_kustomization_or_named_in_it():
    kustomization = (FOLDER / "kustomization.yaml").read_text()
    assert all(path.name in kustomization for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["metadata"]["name"])
def test_deployments_name_settings_and_secrets_that_exist(deployment, tmp_path):
    pod = deployment["spec"]["template"]["spec"]
    known = {name for settings in ALL for name in settings.names()}
    assert {variable["name"] for variable in pod["containers"][0]["env"]} <= known
    made = {path.name for path in make_secrets(tmp_path).iterdir()}
    items = pod["volumes"][0]["secret"]["items"]
    assert {item["key"] for item in items} <= made
    assert {item["path"].upper() for item in items} <= known | {"CA.CRT", "GATEWAY.CRT", "GATEWAY.KEY"}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["metadata"]["name"])
def test_restarts_follow_from_health_and_never_from_what_else_is_away(deployment):
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    paths = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/health", "liveness": "/health", "readiness": "/ready"}


def test_worker_is_scaled_by_the_object_that_names_it():
    scaled = yaml.safe_load((FOLDER / "scaledobject.yaml").read_text())
    worker = next(one for one in DEPLOYMENTS if one["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"])
    assert "replicas" not in worker["spec"]
    assert scaled["metadata"]["namespace"] == worker["metadata"]["namespace"]
