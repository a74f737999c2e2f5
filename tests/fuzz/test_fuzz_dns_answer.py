"""Shell. The fuzzer's corpus, replayed; and the fuzzer itself for a while, where atheris is."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.dns_inputs import one_input

CORPUS = Path(__file__).parent / "corpus" / "dns_answer"
RUNS = 30_000
INPUTS = sorted(CORPUS.iterdir())


@pytest.mark.parametrize("path", INPUTS, ids=[path.name for path in INPUTS])
def test_an_input_of_the_corpus_is_handled(path: Path) -> None:
    one_input(path.read_bytes())


def test_the_corpus_reaches_every_parser() -> None:
    assert {path.read_bytes()[0] for path in INPUTS} == {0, 1, 2, 3}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris")
def test_the_fuzzer_finds_nothing_in_a_bounded_number_of_runs(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(CORPUS, corpus)
    command = [sys.executable, "-m", "tests.fuzz.fuzz_dns_answer", str(corpus)]
    limits = [f"-runs={RUNS}", "-max_total_time=60", "-timeout=5", f"-artifact_prefix={tmp_path}/"]
    found = subprocess.run(
        [*command, *limits, "-max_len=1400"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]
