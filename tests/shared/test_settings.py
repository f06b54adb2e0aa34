"""Where settings come from, what is refused, and that `.env.example` says the truth."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from langgraph_rq.shared.errors import SettingsError
from langgraph_rq.shared.settings import (
    ALL,
    AssistantSettings,
    BudgetSettings,
    CallSettings,
    ModelSettings,
    QueueSettings,
    RedisSettings,
    Settings,
    WorkerSettings,
    effective,
    load,
    mask_url,
    refuse_unknown_names,
)
from langgraph_rq.worker.command import main
from tests.installation import ROOT

EXAMPLE = ROOT / ".env.example"
EVERY_NAME = {name: kind for kind in ALL for name in kind.names()}


@pytest.fixture(autouse=True)
def empty_folder_and_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in EVERY_NAME:
        monkeypatch.delenv(name, raising=False)


def example_values() -> dict[str, str]:
    return dict(re.findall(r"^# ([A-Z_]+)=(.*)$", EXAMPLE.read_text(), flags=re.MULTILINE))


def test_env_example_names_every_setting_and_no_other():
    assert example_values().keys() == EVERY_NAME.keys()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_each_value_in_env_example_is_the_default(kind: type[Settings], monkeypatch):
    by_default = load(kind)
    for name in kind.names():
        monkeypatch.setenv(name, example_values()[name])
    assert load(kind) == by_default


def test_env_example_describes_every_setting_in_the_words_of_the_code():
    text = EXAMPLE.read_text()
    for name, kind in EVERY_NAME.items():
        description = kind.model_fields[kind.names()[name]].description
        assert description
        assert f"# {description}\n# {name}=" in text


def test_unknown_name_with_our_prefix_is_refused_with_a_suggestion():
    with pytest.raises(SettingsError, match=r"^LGRQ_LEASE_SECONDS: unknown setting \(did you mean LGRQ_LEASE_S\?\)$"):
        refuse_unknown_names({"LGRQ_LEASE_SECONDS": "8", "LGRQ_QUEUE": "q", "HOME": "/"})


def test_unknown_name_in_the_env_file_is_refused_too():
    Path(".env").write_text("LGRQ_QUEUES=mine\n")
    with pytest.raises(SettingsError, match=r"LGRQ_QUEUES: unknown setting \(did you mean LGRQ_QUEUE\?\)"):
        refuse_unknown_names({})


def test_broken_line_of_the_env_file_is_named_once_and_the_others_hold(caplog):
    Path(".env").write_text("\ufeffLGRQ_QUEUE=mine\nLGRQ_LEASE_S 5\nLGRQ_CALL_ATTEMPTS=2\n")
    refuse_unknown_names({})
    assert (load(QueueSettings).queue, load(QueueSettings).lease_s, load(CallSettings).attempts) == ("mine", 8, 2)
    assert caplog.messages == [f"{Path('.env').resolve()}: line 2: expected NAME=VALUE; it is ignored"]


def test_every_known_name_is_accepted_also_as_a_file():
    refuse_unknown_names({name + ending: "" for name in EVERY_NAME for ending in ("", "_FILE")})


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (QueueSettings, "LGRQ_LEASE_S", "soon", "LGRQ_LEASE_S: expected a valid number, .*, got: soon"),
        (QueueSettings, "LGRQ_LEASE_S", "0.5", "LGRQ_LEASE_S: expected greater than or equal to 1, got: 0.5"),
        (WorkerSettings, "LGRQ_WORKER_CONCURRENCY", "0", "LGRQ_WORKER_CONCURRENCY: expected .* 1, got: 0"),
        (QueueSettings, "LGRQ_QUEUE", "a b", r"LGRQ_QUEUE: expected what matches \^\[A-Za-z0-9_-\]\+\$, got: a b"),
        (BudgetSettings, "LGRQ_BUDGET_DAILY_USD", "1 dollar", "LGRQ_BUDGET_DAILY_USD: .*, got: 1 dollar"),
        (
            BudgetSettings,
            "LGRQ_BUDGET_PRICES",
            "cheap",
            r'LGRQ_BUDGET_PRICES: expected JSON such as {"my-model": \[0.5, 1.5\]}, got: cheap',
        ),
        (
            BudgetSettings,
            "LGRQ_BUDGET_PRICES",
            '{"cheap": [1]}',
            r'LGRQ_BUDGET_PRICES: cheap: 1: expected a value such as {"my-model": \[0.5, 1.5\]}, got: \[1\]',
        ),
        (
            RedisSettings,
            "REDIS_URL",
            "localhost:6379",
            "REDIS_URL: expected redis://host:port/db, .*, got: localhost:6379",
        ),
    ],
)
def test_value_that_cannot_be_used_is_named(kind, name, value, message, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{message}$"):
        load(kind)


def test_all_bad_values_of_a_class_are_named_at_once(monkeypatch):
    monkeypatch.setenv("LGRQ_LEASE_S", "0")
    monkeypatch.setenv("LGRQ_MEMORY_PERCENT", "100")
    with pytest.raises(SettingsError, match=r"LGRQ_LEASE_S: .*; LGRQ_MEMORY_PERCENT: "):
        load(QueueSettings)


def test_refused_redis_url_does_not_show_its_password(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://ann:hunter2")
    with pytest.raises(SettingsError) as refused:
        load(RedisSettings)
    assert "hunter2" not in str(refused.value)


def test_environment_comes_before_a_file_before_the_env_file(monkeypatch):
    Path(".env").write_text("LGRQ_CALL_ATTEMPTS=2\nLGRQ_CALL_TIMEOUT_S=20\nLGRQ_CALL_LONGEST_WAIT_S=0\n")
    Path("attempts").write_text("4\n")
    Path("timeout").write_text("40\n")
    monkeypatch.setenv("LGRQ_CALL_ATTEMPTS", "6")
    monkeypatch.setenv("LGRQ_CALL_ATTEMPTS_FILE", "attempts")
    monkeypatch.setenv("LGRQ_CALL_TIMEOUT_S_FILE", "timeout")
    calls = load(CallSettings)
    assert (calls.attempts, calls.timeout_s, calls.longest_wait_s) == (6, 40, 0)


def test_file_may_be_named_in_the_env_file():
    Path(".env").write_text("OPENAI_API_KEY_FILE=key\n")
    Path("key").write_text("sk-from-a-file\n")
    assert load(ModelSettings).openai_api_key == SecretStr("sk-from-a-file")


def test_file_that_cannot_be_read_is_an_error(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "/nowhere/key")
    with pytest.raises(SettingsError, match=r"OPENAI_API_KEY_FILE: expected a readable file, got: /nowhere/key \(No "):
        load(ModelSettings)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in EVERY_NAME.items()
        if name.startswith("LGRQ_") and "SecretStr" in str(kind.model_fields[kind.names()[name]].annotation)
    ],
)
def test_empty_file_of_a_secret_is_refused_instead_of_going_without(name, monkeypatch):
    Path("secret").write_text("\n")
    monkeypatch.setenv(f"{name}_FILE", "secret")
    with pytest.raises(SettingsError, match=f"^{name}: expected .*, got: "):
        load(EVERY_NAME[name])


def test_secret_mounted_by_a_container_platform_is_read(monkeypatch, tmp_path):
    (tmp_path / "redis_url").write_text("rediss://:secret@redis:6379/0")
    (tmp_path / "lgrq_checkpoint_redis_url").write_text("rediss://:other@redis:6379/1")
    monkeypatch.setitem(RedisSettings.model_config, "secrets_dir", tmp_path)
    found = load(RedisSettings)
    assert found.redis_url == SecretStr("rediss://:secret@redis:6379/0")
    assert found.checkpoint_redis_url == SecretStr("rediss://:other@redis:6379/1")


def test_empty_value_is_as_good_as_none(monkeypatch):
    monkeypatch.setenv("LGRQ_LEASE_S", "")
    monkeypatch.setenv("OPENAI_BASE_URL", "")
    assert load(QueueSettings).lease_s == 8
    assert load(ModelSettings).openai_base_url is None


def test_none_takes_a_limit_away(monkeypatch):
    monkeypatch.setenv("LGRQ_BUDGET_DAILY_TOKENS", "none")
    assert load(BudgetSettings).limits().daily_tokens is None


def test_command_line_comes_before_the_environment(monkeypatch):
    monkeypatch.setenv("LGRQ_WORKER_CONCURRENCY", "5")
    assert load(WorkerSettings, worker_concurrency=7).worker_concurrency == 7
    assert load(WorkerSettings, worker_concurrency=None).worker_concurrency == 5


def test_money_becomes_nano_dollars_without_rounding(monkeypatch):
    monkeypatch.setenv("LGRQ_BUDGET_DAILY_USD", "0.29")
    monkeypatch.setenv("LGRQ_BUDGET_PRICES", '{"mine": ["0.15", 0.6]}')
    budget = load(BudgetSettings)
    assert budget.limits().daily_cost_nano_usd == 290_000_000
    assert budget.prices == {"mine": (Decimal("0.15"), Decimal("0.6"))}


def test_settings_cannot_be_changed_once_read():
    with pytest.raises(ValueError, match="frozen"):
        load(AssistantSettings).simple_model = "other"  # type: ignore[misc]


def test_effective_settings_mask_secrets(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("REDIS_URL", "rediss://ann:hunter2@redis.example:6380/0")
    shown = {one.variable: one.value for one in effective([load(ModelSettings), load(RedisSettings)])}
    assert shown["OPENAI_API_KEY"] == "***"
    assert shown["REDIS_URL"] == "rediss://***@redis.example:6380/0"
    assert shown["LGRQ_CHECKPOINT_REDIS_URL"] == ""


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:p@ss@host/0", "redis://***@host/0"),
        ("unix:///run/redis.sock?db=0", "unix:///run/redis.sock?db=0"),
    ],
)
def test_masked_url_shows_where_but_not_who(url, masked):
    assert mask_url(url) == masked


def test_worker_prints_every_setting_in_full_with_secrets_masked(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    printed = CliRunner().invoke(main, ["--settings", "--concurrency", "7"])
    assert printed.exit_code == 0
    assert "sk-secret" not in printed.output
    assert re.search(r"^LGRQ_WORKER_CONCURRENCY +7 +option +tasks in flight", printed.output, re.MULTILINE)
    assert {line.split()[0] for line in printed.output.splitlines()} == {"setting", *EVERY_NAME}  # a line for each


def test_worker_prints_where_each_setting_comes_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("sk-secret")
    (tmp_path / ".env").write_text("LGRQ_LEASE_S=9\nLGRQ_QUEUE=of_env_file\nlgrq_budget_hold=worst\n")
    for name, value in {
        "LGRQ_QUEUE": "tasks",
        "OPENAI_API_KEY_FILE": str(tmp_path / "key"),
        "LGRQ_LOG_LEVEL": "",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    printed = CliRunner().invoke(main, ["--settings", "--processes", "2"]).output
    sources = {name: re.search(rf"^{name} +\S+ +(\S+)", printed, re.MULTILINE)[1] for name in EVERY_NAME}
    assert sources["LGRQ_WORKER_PROCESSES"] == "option"
    assert sources["LGRQ_QUEUE"] == "environment"
    assert sources["LGRQ_LEASE_S"] == sources["LGRQ_BUDGET_HOLD"] == ".env"
    assert sources["OPENAI_API_KEY"] == str(tmp_path / "key")
    assert sources["LGRQ_LOG_LEVEL"] == "default"


def test_worker_with_an_unknown_setting_says_so_in_one_line_and_ends_with_2(monkeypatch):
    monkeypatch.setenv("LGRQ_CONCURENCY", "7")
    printed = CliRunner().invoke(main, ["--settings"])
    assert printed.exit_code == 2
    assert printed.stderr == "error: LGRQ_CONCURENCY: unknown setting (did you mean LGRQ_WORKER_CONCURRENCY?)\n"
