"""Shell. The doctor where WireGuard is the kernel's: the same seeded faults, named the same."""

from __future__ import annotations

import pytest

from tests.scenes.test_doctor import (
    play,
    test_a_foreign_nft_rule_is_named_with_its_handle,
    test_a_path_that_swallows_large_packets_is_named,
    test_a_port_that_another_program_holds_is_named,
    test_an_endpoint_that_is_not_the_peers_is_named,
    test_when_all_is_well_every_check_says_so_from_both_ends,
    test_without_an_agent_is_named,
)

__all__ = [
    "play",
    "test_a_foreign_nft_rule_is_named_with_its_handle",
    "test_a_path_that_swallows_large_packets_is_named",
    "test_a_port_that_another_program_holds_is_named",
    "test_an_endpoint_that_is_not_the_peers_is_named",
    "test_when_all_is_well_every_check_says_so_from_both_ends",
    "test_without_an_agent_is_named",
]

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.kernel]
