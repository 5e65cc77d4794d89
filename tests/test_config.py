"""sidecar.config: an environment becomes settings, or an error that names every variable and its mend."""

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from sidecar import config, envfile
from sidecar.config import Settings, load, load_access
from sidecar.dialects import registry
from sidecar.dialects.relaycast.settings import RelaycastSettings
from sidecar.errors import EXIT_CONFIG, ConfigError, Problem
from sidecar.variables import Variable, integer

CONF = Path(__file__).parent.parent / "conf"
GOOD = {"HOME": "/home/a", "SIDECAR_DIALECT": "relaycast", "SIDECAR_UPSTREAM": "https://api.example.com"}


def settings(**more: str) -> Settings:
    return load(GOOD | more)


def problems(environ: dict[str, str]) -> dict[str, Problem]:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert caught.value.exit_code == EXIT_CONFIG
    assert all(p.mend for p in caught.value.problems)
    return {p.variable: p for p in caught.value.problems}


def only_problem(**more: str) -> Problem:
    found = problems(GOOD | more)
    assert len(found) == 1, found
    return next(iter(found.values()))


def test_the_contracts_defaults() -> None:
    assert settings() == Settings(
        dialect="relaycast",
        upstream="https://api.example.com",
        listen_host="127.0.0.1",
        listen_port=8787,
        data_dir=Path("/home/a/.local/state/sidecar/relaycast"),
        upstream_token=None,
        local_token=None,
        allowed_origins=(),
        allowed_hosts=(),
        durability="power",
        retention_bytes=2**30,
        retention_s=7 * 86400.0,
        dedupe_events=100_000,
        linger_s=300.0,
        window=256,
        drain_s=5.0,
        log_format="text",
        log_level="info",
        knobs=RelaycastSettings(ping_s=15, dead_s=30, ack_timeout_s=10, since_bias_s=5, overlap=16, max_backfill=20000),
    )


def test_every_variable_arrives() -> None:
    got = settings(
        SIDECAR_DIALECT=" Relaycast ",
        SIDECAR_UPSTREAM="https://Api.example.com/",
        SIDECAR_LISTEN="[::1]:0",
        SIDECAR_DATA_DIR="/data",
        SIDECAR_UPSTREAM_TOKEN="at_live_1",
        SIDECAR_LOCAL_TOKEN="local",
        SIDECAR_ALLOWED_ORIGINS="https://a.b",
        SIDECAR_ALLOWED_HOSTS="a.b,[::2]",
        SIDECAR_DURABILITY="process",
        SIDECAR_RETENTION_BYTES="64MiB",
        SIDECAR_RETENTION_S="1h",
        SIDECAR_DEDUPE_EVENTS="5000",
        SIDECAR_LINGER_S="0",
        SIDECAR_WINDOW="1",
        SIDECAR_DRAIN_S="0.5",
        SIDECAR_LOG_FORMAT="json",
        SIDECAR_LOG_LEVEL="debug",
        SIDECAR_RELAYCAST_PING_S="1",
        SIDECAR_RELAYCAST_MAX_BACKFILL="7",
    )
    assert msgspec.structs.asdict(got) == {
        "dialect": "relaycast",
        "upstream": "https://api.example.com",
        "listen_host": "::1",
        "listen_port": 0,
        "data_dir": Path("/data"),
        "upstream_token": "at_live_1",
        "local_token": "local",
        "allowed_origins": ("https://a.b",),
        "allowed_hosts": ("a.b", "::2"),
        "durability": "process",
        "retention_bytes": 64 * 2**20,
        "retention_s": 3600.0,
        "dedupe_events": 5000,
        "linger_s": 0.0,
        "window": 1,
        "drain_s": 0.5,
        "log_format": "json",
        "log_level": "debug",
        "knobs": RelaycastSettings(ping_s=1, max_backfill=7),
    }


def test_all_problems_are_told_at_once() -> None:
    found = problems(
        {
            "SIDECAR_DIALECT": "",
            "SIDECAR_LISTEN": "nowhere",
            "SIDECAR_WINDOW": "0",
            "SIDECAR_WINDOWS": "1",
            "SIDECAR_LOG_LEVEL": "loud",
        }
    )
    assert set(found) == {
        "SIDECAR_DIALECT",
        "SIDECAR_UPSTREAM",
        "SIDECAR_LISTEN",
        "SIDECAR_WINDOW",
        "SIDECAR_WINDOWS",
        "SIDECAR_LOG_LEVEL",
    }


@pytest.mark.parametrize("name", ["SIDECAR_DIALECT", "SIDECAR_UPSTREAM"])
@pytest.mark.parametrize("value", ["", "  "])
def test_a_required_one_that_is_empty_is_missing(name: str, value: str) -> None:
    problem = only_problem(**{name: value})
    assert problem.variable == name
    assert "not set" in problem.text


def test_an_optional_one_that_is_empty_is_not_set() -> None:
    assert settings(SIDECAR_WINDOW="", SIDECAR_LOCAL_TOKEN=" ", SIDECAR_UPSTREAM_TOKEN_FILE="") == settings()


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("SIDECAR_LISTN", "SIDECAR_LISTEN"),
        ("SIDECAR_UPSTREAM_TOKEN_FILES", "SIDECAR_UPSTREAM_TOKEN_FILE"),
        ("SIDECAR_RELAYCAST_PINGS", "SIDECAR_RELAYCAST_PING_S"),
        ("SIDECAR_WINDOW_FILE", "SIDECAR_WINDOW"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(name: str, near: str) -> None:
    problem = only_problem(**{name: "hunter2"})
    assert problem.variable == name
    assert re.search(rf"\b{near}\b", problem.mend)
    assert "hunter2" not in str(problem) + problem.mend


@pytest.mark.parametrize("name", ["SIDECAR_", "SIDECAR_XYZZY", "SIDECAR_FABRIC_POLL_S", "SIDECAR_METRICS_SERVICE_HOST"])
def test_an_unknown_name_without_a_near_one_is_an_error_too(name: str) -> None:
    assert only_problem(**{name: ""}).variable == name


def test_a_knob_of_a_dialect_that_is_not_built_says_so() -> None:
    assert "not built yet" in only_problem(SIDECAR_FABRIC_POLL_S="60").text


def test_what_kubernetes_injects_is_ignored() -> None:
    injected = {
        "SIDECAR_SERVICE_HOST": "10.0.0.1",
        "SIDECAR_SERVICE_PORT_HTTP": "80",
        "SIDECAR_PORT": "tcp://10.0.0.1:80",
        "SIDECAR_PORT_80_TCP_ADDR": "10.0.0.1",
    }
    assert settings(**injected, SIDECARS="x", sidecar_x="y") == settings()


class _Other:
    """A second dialect, as far as configuration goes."""

    name = "fabric"
    default_upstream = "https://fabric.example.com"
    linger_s = 900.0
    variables = (Variable(name="POLL_S", meaning="", parse=integer(1, 60), default="60"),)

    class Knobs(msgspec.Struct, frozen=True):
        poll_s: int

    def settings_for(self, values: dict[str, Any]) -> msgspec.Struct:
        return self.Knobs(values["POLL_S"])


@pytest.fixture
def two_dialects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_MODULES", {"relaycast": "sidecar.dialects.relaycast", "fabric": "a_second_dialect"})
    monkeypatch.setitem(__import__("sys").modules, "a_second_dialect", SimpleNamespace(DIALECT=_Other()))


def test_a_dialect_brings_its_upstream_linger_and_knobs(two_dialects: None) -> None:
    got = load({"HOME": "/h", "SIDECAR_DIALECT": "fabric", "SIDECAR_FABRIC_POLL_S": "7"})
    assert (got.upstream, got.linger_s, got.knobs) == ("https://fabric.example.com", 900.0, _Other.Knobs(7))


def test_a_known_knob_of_another_built_dialect_is_not_used_and_no_error(two_dialects: None) -> None:
    assert settings(SIDECAR_FABRIC_POLL_S="not even a number") == settings()
    assert only_problem(SIDECAR_FABRIC_POLLS="1").variable == "SIDECAR_FABRIC_POLLS"


@pytest.mark.parametrize("name", [name for name in registry.PLANNED if name not in registry.names()])
def test_a_dialect_of_the_contract_that_is_not_built(name: str) -> None:
    problem = only_problem(SIDECAR_DIALECT=name)
    assert problem.variable == "SIDECAR_DIALECT"
    assert "not built yet" in problem.text
    assert "relaycast" in problem.mend


def test_a_dialect_nobody_knows() -> None:
    problem = only_problem(SIDECAR_DIALECT="slack")
    assert "not built yet" not in problem.text
    assert "relaycast" in problem.mend


def test_knobs_that_contradict_each_other() -> None:
    assert only_problem(SIDECAR_RELAYCAST_PING_S="30").variable == "SIDECAR_RELAYCAST_DEAD_S"


def test_a_bad_knob_is_named_in_full() -> None:
    assert only_problem(SIDECAR_RELAYCAST_OVERLAP="many").variable == "SIDECAR_RELAYCAST_OVERLAP"


# secrets


def secret_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> str:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("content", [b"tok", b"tok\n", b"tok\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_secret_from_a_file_loses_its_trailing_newline(tmp_path: Path, content: bytes, mode: int) -> None:
    path = secret_file(tmp_path, content, mode)
    got = settings(SIDECAR_UPSTREAM_TOKEN_FILE=path, SIDECAR_LOCAL_TOKEN_FILE=path)
    assert (got.upstream_token, got.local_token) == ("tok", "tok")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o620, 0o601])
def test_a_secret_file_that_others_may_access(tmp_path: Path, mode: int) -> None:
    problem = only_problem(SIDECAR_LOCAL_TOKEN_FILE=secret_file(tmp_path, b"hunter2\n", mode))
    assert problem.variable == "SIDECAR_LOCAL_TOKEN_FILE"
    assert "chmod 600" in problem.mend
    assert "hunter2" not in problem.text


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n", b"two\nlines\n", b"\xff\xfe", b"x" * 100_000])
def test_a_secret_file_without_a_token(tmp_path: Path, content: bytes) -> None:
    assert only_problem(SIDECAR_LOCAL_TOKEN_FILE=secret_file(tmp_path, content)).variable.startswith("SIDECAR_LOCAL_TOKEN")


def test_a_secret_file_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        assert only_problem(SIDECAR_UPSTREAM_TOKEN_FILE=str(path)).variable == "SIDECAR_UPSTREAM_TOKEN_FILE"


def test_a_secret_given_twice(tmp_path: Path) -> None:
    problem = only_problem(SIDECAR_UPSTREAM_TOKEN="a", SIDECAR_UPSTREAM_TOKEN_FILE=secret_file(tmp_path, b"a"))
    assert "SIDECAR_UPSTREAM_TOKEN" in problem.text
    assert "unset" in problem.mend


def test_a_stray_blank_in_a_secret_is_told_not_cut() -> None:
    assert only_problem(SIDECAR_LOCAL_TOKEN="hunter2 ").variable == "SIDECAR_LOCAL_TOKEN"


def test_settings_never_show_a_secret() -> None:
    got = settings(SIDECAR_UPSTREAM_TOKEN="hunter2", SIDECAR_LOCAL_TOKEN="swordfish")
    for text in (repr(got), str(got), f"{got}", f"{got!r}", str(list(got.__rich_repr__()))):
        assert "hunter2" not in text
        assert "swordfish" not in text
        assert "[redacted]" in text
    access = load_access({"SIDECAR_LOCAL_TOKEN": "swordfish"})
    assert "swordfish" not in repr(access) + str(access)
    assert got.secrets() == ("hunter2", "swordfish")


# where it listens, where it dials, where it keeps


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "10.0.0.1:0", "sidecar.internal:8787"])
def test_a_listen_address_that_is_not_loopback_needs_the_local_token(listen: str) -> None:
    assert only_problem(SIDECAR_LISTEN=listen).variable == "SIDECAR_LOCAL_TOKEN"
    assert only_problem(SIDECAR_LISTEN=listen, SIDECAR_LOCAL_TOKEN="").variable == "SIDECAR_LOCAL_TOKEN"
    assert settings(SIDECAR_LISTEN=listen, SIDECAR_LOCAL_TOKEN="t").local_token == "t"


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:8787", "localhost:8787", "127.1.2.3:9"])
def test_a_loopback_address_needs_none(listen: str) -> None:
    assert settings(SIDECAR_LISTEN=listen).local_token is None


@pytest.mark.parametrize(
    ("upstream", "listen"),
    [("http://localhost:8787", "127.0.0.1:8787"), ("http://127.0.0.1", "[::1]:80"), ("http://[::1]:8787/x", "localhost:8787")],
)
def test_an_upstream_that_is_the_sidecar_itself(upstream: str, listen: str) -> None:
    assert only_problem(SIDECAR_UPSTREAM=upstream, SIDECAR_LISTEN=listen).variable == "SIDECAR_UPSTREAM"
    assert settings(SIDECAR_UPSTREAM=upstream, SIDECAR_LISTEN="127.0.0.1:0").upstream == upstream


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"XDG_STATE_HOME": "/state"}, "/state/sidecar/relaycast"),
        ({"XDG_STATE_HOME": "relative"}, "/home/a/.local/state/sidecar/relaycast"),
        ({"XDG_STATE_HOME": ""}, "/home/a/.local/state/sidecar/relaycast"),
        ({"XDG_STATE_HOME": "/state", "HOME": ""}, "/state/sidecar/relaycast"),
        ({"SIDECAR_DATA_DIR": "/data", "XDG_STATE_HOME": "/state"}, "/data"),
        ({"SIDECAR_DATA_DIR": "~/data", "XDG_STATE_HOME": "/state"}, "/home/a/data"),
        ({"SIDECAR_DATA_DIR": "~"}, "/home/a"),
        ({"SIDECAR_DATA_DIR": "data"}, str(Path.cwd() / "data")),
    ],
)
def test_the_data_directory(environ: dict[str, str], path: str) -> None:
    assert settings(**environ).data_dir == Path(path)


@pytest.mark.parametrize("environ", [{"HOME": ""}, {"HOME": "", "SIDECAR_DATA_DIR": "~/data"}])
def test_no_home_and_no_data_directory(environ: dict[str, str]) -> None:
    assert only_problem(**environ).variable == "SIDECAR_DATA_DIR"


def test_access_needs_nothing_else() -> None:
    access = load_access({"SIDECAR_LISTEN": "0.0.0.0:1", "SIDECAR_LOCAL_TOKEN": "t", "SIDECAR_DIALECT": "bad"})
    assert (access.listen_host, access.listen_port, access.local_token) == ("0.0.0.0", 1, "t")
    with pytest.raises(ConfigError):
        load_access({"SIDECAR_LISTEN": "x"})


# the tables and the files made from them


def table() -> list[Variable]:
    return [*config.COMMON, *(variable for name in registry.names() for variable in config.knobs_of(name))]


def test_every_default_and_example_is_taken_by_its_own_parser() -> None:
    for variable in table():
        for text in (variable.default, variable.example):
            if text:
                variable.parse(text)


@pytest.mark.parametrize("name", ["sidecar.env", "relaycast.env"])
def test_conf_is_what_the_tables_say(name: str) -> None:
    made = envfile.files()
    assert (CONF / name).read_text(encoding="utf-8") == made[name], "run: python -m sidecar.envfile conf"


def test_every_dialect_has_its_file() -> None:
    assert set(envfile.files()) == {"sidecar.env", *(f"{name}.env" for name in registry.names())}


def assignments(text: str, *, commented: bool) -> dict[str, str]:
    pattern = r"^#?(SIDECAR_\w+)=(.*)$" if commented else r"^(SIDECAR_\w+)=(.*)$"
    return dict(re.findall(pattern, text, re.MULTILINE))


def test_sidecar_env_lists_every_variable_and_sets_none() -> None:
    text = (CONF / "sidecar.env").read_text(encoding="utf-8")
    assert set(assignments(text, commented=True)) == config.known_names()
    assert not assignments(text, commented=False)


def test_sidecar_env_uncommented_is_the_default(tmp_path: Path) -> None:
    text = (CONF / "sidecar.env").read_text(encoding="utf-8")
    examples = {"SIDECAR_DATA_DIR": "", "SIDECAR_ALLOWED_ORIGINS": "", "SIDECAR_ALLOWED_HOSTS": ""}
    assert load({"HOME": "/home/a"} | assignments(text, commented=True) | examples) == settings()


def test_a_ready_file_needs_only_what_is_empty() -> None:
    text = (CONF / "relaycast.env").read_text(encoding="utf-8")
    given = assignments(text, commented=False)
    assert [name for name, value in given.items() if not value] == ["SIDECAR_UPSTREAM"]
    assert load({"HOME": "/home/a"} | given | {"SIDECAR_UPSTREAM": GOOD["SIDECAR_UPSTREAM"]}) == settings()


def test_envfile_writes_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert envfile.main([str(tmp_path)]) == 0
    assert {p.name: p.read_text(encoding="utf-8") for p in tmp_path.iterdir()} == envfile.files()
    assert envfile.main([]) == 0
    assert capsys.readouterr().out == envfile.files()["sidecar.env"]
