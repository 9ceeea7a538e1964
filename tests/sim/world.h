/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A simulated world: one core of the engine, unchanged, on the simulated kernel, with clients
 * before it and servers behind it, all of it from one tape. Faults go on for a while, then
 * everybody calms down, and then everything must come to its end; the oracle judges the rest.
 *
 * A broken assertion or a sanitizer's finding ends the process: who runs worlds does it in a child
 * (runner.h).
 */
#ifndef TESTS_SIM_WORLD_H
#define TESTS_SIM_WORLD_H

#include "tests/sim/oracle.h"

struct world_result {
	struct verdict verdict;
	uint64_t hash; /* of all that happened: the same tape gives the same */
	uint64_t sessions, links, messages, turns, completions, events;
	uint64_t faults[SIM_FAULT_COUNT];
	uint64_t virtual_us;
};

/* Runs the tape's world. `transcript` may be NULL; both sides, the log lines and the verdict go
 * there. */
void world_run(struct tape *t, struct world_result *out, FILE *transcript);

/* For a fuzzer: aborts when an invariant is broken. Returns 0. */
int sim_world_from_tape(const uint8_t *p, size_t n);

#endif
