/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * How long somebody else's code held a worker up. Good to one tick of the kernel (1 to 10 ms), and
 * a seventh of the price of the exact clock: an event that computes a little would cost less than
 * two exact readings around it. Any thread.
 */
#ifndef HOOK_CLOCK_H
#define HOOK_CLOCK_H

#include <stdint.h>
#include <time.h>

#define HOOK_OVERRUN_MS 10

static inline uint64_t hook_clock_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline uint64_t hook_tick_ms(void)
{
	struct timespec t = {0};

	clock_getres(CLOCK_MONOTONIC_COARSE, &t);
	return ((uint64_t)t.tv_nsec + 999999) / 1000000;
}

/* How long it took, if that was too long, else 0. Both readings may be a tick behind: nobody is
 * blamed for less than HOOK_OVERRUN_MS, who takes two ticks more is always. */
static inline uint64_t hook_overrun_ms(uint64_t from_ms, uint64_t to_ms)
{
	uint64_t took = to_ms - from_ms;

	return took < HOOK_OVERRUN_MS || took < HOOK_OVERRUN_MS + hook_tick_ms() ? 0 : took;
}

#endif
