"""Numbers in messages, files and results do not follow the locale of the process, not even one with a decimal comma."""

from __future__ import annotations

import json
import locale
import re
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np
import pytest

from aigc_edge import cli, ops
from aigc_edge.diffusion import build
from aigc_edge.errors import AigcEdgeError

SOURCE = 'LC_NUMERIC\ndecimal_point ","\nthousands_sep "."\ngrouping 3;3\nEND LC_NUMERIC\n'


@pytest.fixture
def comma(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A locale as de_DE's for numbers, which few machines have installed."""
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef here")
    folder = tmp_path_factory.mktemp("locales")
    (folder / "source").write_text(SOURCE)
    # It warns about every category that is missing, and exits with 1 then.
    subprocess.run(["localedef", "--no-archive", "-c", "-i", folder / "source", folder / "comma"], capture_output=True)
    monkeypatch.setenv("LOCPATH", str(folder))
    before = locale.setlocale(locale.LC_NUMERIC)
    locale.setlocale(locale.LC_NUMERIC, "comma")
    assert locale.str(1.5) == "1,5"
    yield
    locale.setlocale(locale.LC_NUMERIC, before)


def test_messages_of_the_native_runtime(open_toy, engine, toy, comma):
    with pytest.raises(AigcEdgeError, match=re.escape("the guidance rescale is 1.25: 0 to 1 is allowed")):
        open_toy().sample(1, guidance_rescale=1.25)
    engine.networks["denoiser"] = toy.split_denoiser
    program = build(toy.SCHEDULE, "euler", 3)
    opened = open_toy("constants")
    opened.add_program(program)
    engine.networks["schedule"] = lambda timestep: {name: made * np.nan for name, made in toy.schedule(timestep).items()}
    with pytest.raises(AigcEdgeError, match=r"not finite for the timestep -?[0-9]+\.[0-9]+: use") as raised:
        opened.sample(1, program=program.name)
    shown = re.search(r"timestep (\S+):", str(raised.value))
    assert shown is not None
    assert np.float32(shown[1]) in [np.float32(row.timestep) for row in program.rows]


def test_messages_of_ops(comma):
    slots = np.zeros((1, 1, 4), np.float32)
    with pytest.raises(AigcEdgeError, match=re.escape("solver_step: rescale is 1.25: 0 to 1 is allowed")):
        ops.solver_step(slots, rescale=1.25)


def test_bundles_programs_and_samples(open_toy, toy, request):
    program = build(toy.SCHEDULE, "dpmpp_2m", 4, guidance_scale=1.5, guidance_rescale=0.25)
    expected = open_toy(programs={"dpmpp_2m-6": program.to_json() | {"name": "dpmpp_2m-6"}}).sample(2, seed=1)
    request.getfixturevalue("comma")
    again = build(toy.SCHEDULE, "dpmpp_2m", 4, guidance_scale=1.5, guidance_rescale=0.25)
    assert json.dumps(again.to_json()) == json.dumps(program.to_json())
    opened = open_toy(programs={"dpmpp_2m-6": again.to_json() | {"name": "dpmpp_2m-6"}})
    np.testing.assert_array_equal(opened.sample(2, seed=1), expected)


def test_what_a_command_prints(make_bundle, capsys, request):
    bundle = make_bundle(quality={"fp32": {"psnr": 44.5, "relative_l2": 0.125}})
    assert cli.main(["inspect", str(bundle)]) == 0
    expected = capsys.readouterr().out
    assert "44.5" in expected
    request.getfixturevalue("comma")
    assert cli.main(["inspect", str(bundle)]) == 0
    assert capsys.readouterr().out == expected
