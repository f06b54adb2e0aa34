"""The gateway over HTTPS, with a certificate of the private CA."""

import ssl

import httpx
import pytest

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import GatewaySettings, load
from tests.deployment import make_secrets
from tests.gateways import START_TIMEOUT_S, start_gateway
from tests.waiting import until_sync


def test_gateway_with_a_certificate_answers_over_tls_only(redis_url, tmp_path):
    secrets = make_secrets(tmp_path / "secrets")
    environment = {
        "REDIS_URL": redis_url,
        "LGRQ_GATEWAY_TLS_CERT": str(secrets / "gateway.crt"),
        "LGRQ_GATEWAY_TLS_KEY": str(secrets / "gateway.key"),
    }
    with start_gateway(tmp_path, environment) as gateway:
        url = gateway.url.replace("http://", "https://")
        trusting = ssl.create_default_context(cafile=str(secrets / "ca.crt"))
        with httpx.Client(verify=trusting, timeout=10) as client:

            def answers():
                assert gateway.process.poll() is None, gateway.log.read_text()
                try:
                    return client.get(f"{url}/health").status_code == 200
                except httpx.TransportError:
                    return False

            until_sync(answers, START_TIMEOUT_S)
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{url}/health", verify=ssl.create_default_context())
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{gateway.url}/health")


def test_certificate_without_its_key_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="expected both or none"):
        load(GatewaySettings, tls_cert=tmp_path / "gateway.crt")
