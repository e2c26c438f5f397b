from __future__ import annotations

from pathlib import Path

import pytest

from rayplat import settings as settings_module
from rayplat.errors import InvalidInput


def test_order_of_sources(tmp_path: Path) -> None:
    (tmp_path / "rayplat.toml").write_text("[serve]\nhttp_port = 8100\nhost_cpus = 0.2\n")
    loaded = settings_module.load(tmp_path, environ={"RAYPLAT_SERVE__HTTP_PORT": "8200"}, monitor={"min_rows": 7})
    assert (loaded.serve.http_port, loaded.serve.host_cpus, loaded.monitor.min_rows) == (8200, 0.2, 7)


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("[serve]\nport = 1\n", {}, "serve.port"),
        ("[serve\n", {}, "TOML"),
        ("", {"RAYPLAT_SERVE__HTTP_PORT": "many"}, "serve.http_port"),
        ("", {"RAYPLAT_NOPE__X": "1"}, "nope"),
        ("", {"RAYPLAT_DATA__STORAGE_OPTIONS": "{no json"}, "data.storage_options"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, environ: dict[str, str], named: str) -> None:
    (tmp_path / "rayplat.toml").write_text(text)
    with pytest.raises(InvalidInput, match=named):
        settings_module.load(tmp_path, environ=environ)


def test_a_home_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may not search the folder gets this from `stat` and `open` alike; root may search all."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for name in ("stat", "open", "read_text"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(InvalidInput, match=r"home: .*cannot be read \(Permission denied\).*--home"):
        settings_module.load(tmp_path, environ={})


def test_a_home_that_is_not_there_has_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "none", tmp_path / "file" / "home"):
        assert settings_module.load(home, environ={}).serve.http_port == 8000


def test_storage_options_from_a_file_and_a_variable(tmp_path: Path) -> None:
    (tmp_path / "rayplat.toml").write_text('[data.storage_options]\nAWS_REGION = "x"\n')
    assert settings_module.load(tmp_path, environ={}).data.storage_options == {"AWS_REGION": "x"}
    environ = {"RAYPLAT_DATA__STORAGE_OPTIONS": '{"AWS_REGION": "y"}'}
    assert settings_module.load(tmp_path, environ=environ).data.storage_options == {"AWS_REGION": "y"}


def test_every_setting_says_what_it_is_for() -> None:
    for group in settings_module.Settings.model_fields.values():
        for name, field in getattr(group.annotation, "model_fields", {}).items():
            assert field.description, name


def test_home_from_the_environment(tmp_path: Path) -> None:
    assert settings_module.load(environ={"RAYPLAT_HOME": str(tmp_path)}).home == tmp_path


def test_remote_platform_needs_a_token() -> None:
    assert settings_module.remote_platform(environ={}) is None
    assert settings_module.remote_platform(environ={"RAYPLAT_URL": "http://h", "RAYPLAT_TOKEN": "t"}) == (
        "http://h",
        "t",
    )
    with pytest.raises(InvalidInput, match="RAYPLAT_TOKEN"):
        settings_module.remote_platform(environ={"RAYPLAT_URL": "http://h"})
