"""What a bundle says of its origin, and what it does not say."""

from __future__ import annotations

import datetime

from aigc_edge import __version__
from aigc_edge.bundle.provenance import created, of_run, tools


def test_of_a_folder_only_its_name_is_told():
    data = {"source": "/somewhere/pictures/cats", "licence": "CC0", "count": 9, "fingerprint": "ab"}
    found = of_run({"data": data, "train": {"seed": 4, "steps": 100}})
    assert found == {
        "data": "cats",
        "licence": "CC0",
        "count": 9,
        "fingerprint": "ab",
        "seed": 4,
        "trained_steps": 100,
    }


def test_the_moment_can_be_fixed(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert created() == "1970-01-02T00:00:00+00:00"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(created())
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=1)


def test_tools_are_those_installed():
    import numpy

    found = tools()
    assert found["aigc-edge"] == __version__
    assert found["numpy"] == numpy.__version__
    assert all(isinstance(version, str) and version for version in found.values())
