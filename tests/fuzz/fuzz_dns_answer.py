"""Shell. Coverage-guided fuzzing of all that the DNS process reads from strangers.

    python -m tests.fuzz.fuzz_dns_answer [corpus directory] [-runs=N] [-max_total_time=S]

`dns_inputs` has what is fuzzed and what has to hold.
"""

from __future__ import annotations

import sys


def main() -> None:
    import atheris  # type: ignore[import-untyped]  # has no types

    with atheris.instrument_imports(include=["meshnet"]):
        from tests.fuzz.dns_inputs import one_input
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
