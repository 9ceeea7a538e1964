/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See window.h.
 */
#include "bench/lib/window.h"

/* UINT64_MAX is never. */
static uint64_t later(uint64_t at_us, uint64_t by_us)
{
	return by_us > UINT64_MAX - at_us ? UINT64_MAX : at_us + by_us;
}

void window_begin(struct window *w, uint64_t now_us)
{
	w->began_us = now_us;
	w->opened_us = w->closed_us = 0;
	w->phase = WINDOW_WARM_UP;
}

uint64_t window_next_us(const struct window *w)
{
	switch (w->phase) {
	case WINDOW_WARM_UP:
		return later(w->began_us, w->warm_up_us);
	case WINDOW_OPEN:
		return later(w->opened_us, w->duration_us);
	default:
		return UINT64_MAX;
	}
}

bool window_step(struct window *w, uint64_t now_us, uint64_t ended)
{
	bool full = w->phase == WINDOW_OPEN && ended >= w->messages;

	if (w->phase == WINDOW_CLOSED || (!full && now_us < window_next_us(w)))
		return false;
	if (w->phase == WINDOW_WARM_UP) {
		w->phase = WINDOW_OPEN;
		w->opened_us = now_us;
	} else {
		window_close(w, now_us);
	}
	return true;
}

void window_close(struct window *w, uint64_t now_us)
{
	if (w->phase == WINDOW_CLOSED)
		return;
	if (w->phase == WINDOW_WARM_UP)
		w->opened_us = now_us;
	w->closed_us = now_us;
	w->phase = WINDOW_CLOSED;
}

double window_seconds(const struct window *w)
{
	return w->phase == WINDOW_CLOSED ? (double)(w->closed_us - w->opened_us) / 1e6 : 0;
}
