/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The clock and the random octets that wolfSSL gets in a simulated world: see virtual.c.
 */
#ifndef TESTS_SIM_VIRTUAL_H
#define TESTS_SIM_VIRTUAL_H

#include "tests/sim/kernel.h"

/* From here on time is that kernel's, and randomness begins anew. */
void virtual_begin(const struct sim_kernel *k);
void virtual_end(void);

#endif
