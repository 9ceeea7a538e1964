/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The whole session engine on the simulated kernel (tests/sim): the input is a tape, and a tape is
 * a world of clients, servers and faults. Claimed: the invariants that tests/sim/oracle.h lists
 * hold in every world, and every world ends. Every input is a valid tape, so the fuzzer mutates
 * stories; coverage leads it to those that a seed rarely tells.
 */
#include "tests/fuzz/fuzz.h"

#include "tests/sim/world.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	return sim_world_from_tape(p, n);
}
