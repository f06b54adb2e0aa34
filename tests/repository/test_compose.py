"""The shape of compose.yaml, without an engine; `make compose-test` runs it for real."""

import re

import pytest
import yaml

from langgraph_rq.shared.settings import ALL
from tests.deployment import ROOT, make_secrets

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OTHERS = {"OPENAI_BASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"}


@pytest.mark.parametrize("service", SERVICES)
def test_services_run_without_rights_on_a_read_only_root(service):
    definition = SERVICES[service]
    assert definition["read_only"] is True
    assert definition["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in definition["security_opt"]


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_published_beyond_this_host(service):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", []))


def test_worker_is_not_process_1_which_could_not_be_killed_when_a_node_hangs():
    assert SERVICES["worker"]["init"] is True


@pytest.mark.parametrize("service", ["redis", "worker", "gateway", "dashboard"])
def test_services_of_the_main_path_have_a_health_check(service):
    assert SERVICES[service]["healthcheck"]["test"]


def test_health_of_a_worker_is_its_loop_and_not_redis():
    check = SERVICES["worker"]["healthcheck"]["test"][-1]
    assert "/health" in check
    assert "/ready" not in check


def test_no_service_has_a_secret_in_its_environment():
    secret = {
        name
        for settings in ALL
        for name, field in settings.names().items()
        if "SecretStr" in str(settings.model_fields[field].annotation)
    }
    assert all(secret.isdisjoint(service.get("environment", {})) for service in SERVICES.values())


@pytest.mark.parametrize("service", ["worker", "gateway", "dashboard"])
def test_environment_names_settings_that_exist(service):
    known = {name for settings in ALL for name in settings.names()} | OTHERS
    assert set(SERVICES[service]["environment"]) <= known


def test_secrets_are_those_that_the_program_makes(tmp_path):
    made = {path.name for path in make_secrets(tmp_path).iterdir()}
    files = {secret["file"].rpartition("/")[2] for secret in COMPOSE["secrets"].values()}
    assert files <= made
    assert "ca.key" not in files


def test_lines_to_uncomment_mount_secrets_that_the_program_makes(tmp_path):
    text = re.sub(
        r"^( +)# (?=- \{source:|\w+: \{file:)", r"\1", (ROOT / "compose.yaml").read_text(), flags=re.MULTILINE
    )
    whole = yaml.safe_load(text)
    made = {path.name for path in make_secrets(tmp_path, TENANTS="acme").iterdir()}
    names = {name for settings in ALL for name in settings.names()}
    for name, service in whole["services"].items():
        for mounted in service.get("secrets", []):
            source = mounted if isinstance(mounted, str) else mounted["source"]
            assert whole["secrets"][source]["file"].rpartition("/")[2] in made, source
            target = source if isinstance(mounted, str) else mounted.get("target", "")
            assert not target.startswith("lgrq_") or target.upper() in names, (name, target)
    assert len(whole["secrets"]) == len(COMPOSE["secrets"]) + 3


def test_a_worker_gets_longer_to_stop_than_its_drain():
    drain_s = int(re.search(r":-(\d+)", SERVICES["worker"]["environment"]["LGRQ_DRAIN_S"])[1])
    assert int(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > drain_s


def test_making_secrets_again_keeps_what_is_there(tmp_path):
    before = {path.name: path.read_bytes() for path in make_secrets(tmp_path).iterdir()}
    assert {path.name: path.read_bytes() for path in make_secrets(tmp_path).iterdir()} == before


def test_secrets_are_kept_from_others_on_the_host_and_out_of_the_image(tmp_path):
    assert make_secrets(tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert (tmp_path / "secrets/ca.key").stat().st_mode & 0o077 == 0
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
