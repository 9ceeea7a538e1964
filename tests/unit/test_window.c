/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The bench's measuring window: what opens and closes it, and what its seconds are.
 */
#include "bench/lib/window.h"

#include <criterion/criterion.h>
#include <criterion/new/assert.h>

static struct window make(uint64_t warm_up, uint64_t duration, uint64_t messages)
{
	return (struct window){
		.warm_up_us = warm_up, .duration_us = duration, .messages = messages};
}

Test(window, warms_up_opens_and_closes_by_time)
{
	struct window w = make(100, 1000, UINT64_MAX);

	window_begin(&w, 5000);
	cr_assert_eq(w.phase, WINDOW_WARM_UP);
	cr_assert_eq(window_next_us(&w), 5100);
	cr_assert_not(window_step(&w, 5099, 0));
	cr_assert(window_step(&w, 5107, 0));
	cr_assert_eq(w.phase, WINDOW_OPEN);
	cr_assert_eq(w.opened_us, 5107, "what is counted began when it was seen to open");
	cr_assert_eq(window_next_us(&w), 6107);
	cr_assert_not(window_step(&w, 6106, 1u << 30));
	cr_assert_float_eq(window_seconds(&w), 0, 1e-12);
	cr_assert(window_step(&w, 6200, 0));
	cr_assert_eq(w.phase, WINDOW_CLOSED);
	cr_assert_float_eq(window_seconds(&w), 1093e-6, 1e-12);
	cr_assert_not(window_step(&w, 1u << 30, 1u << 30));
	cr_assert_eq(window_next_us(&w), UINT64_MAX);
}

Test(window, one_phase_a_step)
{
	struct window w = make(100, 1000, UINT64_MAX);

	window_begin(&w, 0);
	cr_assert(window_step(&w, 50000, 0));
	cr_assert_eq(w.phase, WINDOW_OPEN);
	cr_assert_not(window_step(&w, 50000, 0), "its time counts from when it opened");
	cr_assert(window_step(&w, 51000, 0));
	cr_assert_eq(w.phase, WINDOW_CLOSED);
}

Test(window, no_warm_up_opens_at_once)
{
	struct window w = make(0, UINT64_MAX, UINT64_MAX);

	window_begin(&w, 77);
	cr_assert(window_step(&w, 77, 0));
	cr_assert_eq(w.phase, WINDOW_OPEN);
	cr_assert_eq(window_next_us(&w), UINT64_MAX, "no limit");
	cr_assert_not(window_step(&w, UINT64_MAX - 1, UINT64_MAX - 1));
}

Test(window, messages_close_it_but_not_the_warm_up)
{
	struct window w = make(100, 1000000, 50);

	window_begin(&w, 0);
	cr_assert_not(window_step(&w, 10, 50));
	cr_assert(window_step(&w, 100, 0));
	cr_assert_not(window_step(&w, 200, 49));
	cr_assert(window_step(&w, 300, 53));
	cr_assert_eq(w.phase, WINDOW_CLOSED);
	cr_assert_float_eq(window_seconds(&w), 200e-6, 1e-12);
}

Test(window, closed_from_outside)
{
	struct window w = make(100, 1000, 50);

	window_begin(&w, 0);
	window_close(&w, 60);
	cr_assert_eq(w.phase, WINDOW_CLOSED);
	cr_assert_float_eq(window_seconds(&w), 0, 1e-12, "it never opened");

	w = make(0, 1000, 50);
	window_begin(&w, 0);
	cr_assert(window_step(&w, 10, 0));
	window_close(&w, 60);
	window_close(&w, 90);
	cr_assert_float_eq(window_seconds(&w), 50e-6, 1e-12, "the first time counts");
}
