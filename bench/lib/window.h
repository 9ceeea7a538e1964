/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The measuring window of a run: load without counting, then counting, then what was under way.
 * Pure: it is told the time and how many messages ended. It moves between two turns only, so that
 * everything that ended in one turn falls on one side: what is counted ended in (opened, closed].
 */
#ifndef BENCH_WINDOW_H
#define BENCH_WINDOW_H

#include "ring/base.h"

enum window_phase {
	WINDOW_WARM_UP,
	WINDOW_OPEN,
	WINDOW_CLOSED,
	WINDOW_PHASES,
};

struct window {
	uint64_t warm_up_us, duration_us; /* of the window; UINT64_MAX = no limit */
	uint64_t messages;		  /* that end in it close it; UINT64_MAX = no limit */
	uint64_t began_us;		  /* of the load */
	uint64_t opened_us, closed_us;	  /* as far as the phase has come */
	enum window_phase phase;
};

/* The load begins. Without a warm-up the window is open at once. */
void window_begin(struct window *w, uint64_t now_us);
/* Looks at the time, and at how many messages have ended in the window. True: it went on by one
 * phase, which the caller should tell and ask again. */
bool window_step(struct window *w, uint64_t now_us, uint64_t ended) MUST_USE;
/* Whatever is left of it will not come. Idempotent; a window that never opened stays without time.
 */
void window_close(struct window *w, uint64_t now_us);
/* When to look again at the latest; UINT64_MAX: when messages have ended. */
uint64_t window_next_us(const struct window *w);
/* From opened to closed; 0 before that. */
double window_seconds(const struct window *w);

#endif
