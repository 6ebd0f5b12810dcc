"""The compose file of a whole installation agrees with itself and with MLflow's own file."""

from __future__ import annotations

from urllib.parse import urlsplit

from factory.core.home import HOME_VARIABLE
from factory.core.local_cache import CACHE_VARIABLE
from tests.infra.conftest import check_command, document
from tests.infra.test_mlflow import check_server, check_store

FILE = "compose.yaml"


def test_mlflow_is_that_of_the_other_file() -> None:
    services, others = (document(f)["services"] for f in (FILE, "mlflow/compose.yaml"))
    check_server(services["mlflow"]["command"], services["mlflow"]["environment"])
    facts = services["postgres"]["environment"]
    check_store(services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"], "postgres",
                facts["POSTGRES_USER"], facts["POSTGRES_DB"])  # fmt: skip
    assert services["mlflow"]["command"] == others["mlflow"]["command"]
    assert services["postgres"]["image"] == others["postgres"]["image"]


def test_jobs_and_server_find_the_store_and_the_registry() -> None:
    services = document(FILE)["services"]
    allowed = services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    bucket = services["store"]["entrypoint"][2].split()[2].removeprefix("/data/")
    for name in ("ray", "serve"):
        service = services[name]
        environment = service["environment"]
        assert urlsplit(environment[HOME_VARIABLE]).netloc == bucket
        assert environment[CACHE_VARIABLE].startswith("/data/")
        assert urlsplit(environment["MLFLOW_TRACKING_URI"]).netloc in allowed
        assert urlsplit(environment["AWS_ENDPOINT_URL"]).hostname in services
        keys = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
        store = services["store"]["environment"]
        assert keys == (store["MINIO_ROOT_USER"], store["MINIO_ROOT_PASSWORD"])
        assert set(service["depends_on"]) == {"store", "mlflow"}
    assert services["ray"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert check_command(services["serve"]["command"])["port"] == 8000


def test_only_the_server_of_styles_has_a_port() -> None:
    services = document(FILE)["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["serve"]
    named = {v.partition(":")[0] for s in services.values() for v in s.get("volumes", [])}
    assert named == set(document(FILE)["volumes"])
