/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Spools (ring/spool.h) on the simulated kernel, against a model of what they promise.
 */
#ifndef TESTS_SIM_SPOOLS_H
#define TESTS_SIM_SPOOLS_H

#include <stdbool.h>
#include <stdint.h>

/* One seeded world of spools. False: a promise was broken; what and where is printed. */
bool sim_spools(uint64_t seed);

#endif
