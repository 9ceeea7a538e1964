/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The conformance scripts of ring/probe.h on the simulated kernel: the same dialogues, the same
 * expected sequences of completions as on the real one.
 */
#ifndef TESTS_SIM_CONFORM_H
#define TESTS_SIM_CONFORM_H

#include "ring/base.h"

/* Prints what differs and a summary; how many scripts failed. */
int sim_conform(FILE *out);
/* One result per script; what differs goes to standard output behind a "#". */
void sim_conform_each(void *arg, void (*tell)(void *arg, bool ok, const char *name));

#endif
