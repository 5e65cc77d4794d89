"""The registry: every line leads to a dialect that configuration can use."""

import msgspec
import pytest

from sidecar.dialects import registry


@pytest.mark.parametrize("name", registry.names())
def test_each_line_is_a_dialect(name: str) -> None:
    dialect = registry.configured(name)
    assert dialect.name == name
    assert name in registry.PLANNED
    assert dialect.linger_s >= 0
    assert isinstance(dialect, registry.Configured)


@pytest.mark.parametrize("name", registry.names())
def test_the_tables_defaults_make_the_knobs(name: str) -> None:
    dialect = registry.configured(name)
    values = {v.name: None if v.default is None else v.parse(v.default) for v in dialect.variables}
    knobs = dialect.settings_for(values)
    # `sidecar check` finds a knob's value under its name in lower case; struct and table have the same defaults (none: an empty one).
    assert {n: value or None for n, value in msgspec.structs.asdict(knobs).items()} == {
        n.lower(): value or None for n, value in values.items()
    }
    assert knobs == type(knobs)()


@pytest.mark.parametrize("name", registry.names())
def test_knobs_are_named_without_the_prefix(name: str) -> None:
    names = [v.name for v in registry.configured(name).variables]
    assert not [n for n in names if n.startswith("SIDECAR_") or n != n.upper()]
    assert len(set(names)) == len(names)


def test_a_name_that_is_not_in_the_registry() -> None:
    with pytest.raises(KeyError):
        registry.configured("slack")
