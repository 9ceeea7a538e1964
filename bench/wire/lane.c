/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See lane.h. The bottleneck keeps no queue of its own: how long it is busy says how much waits
 * before it. Failure: lane_init() without memory.
 */
#include "bench/wire/lane.h"

#include <strings.h>

#define NS_PER_S 1000000000ull

bool lane_init(struct lane *l, const struct lane_conf *conf, uint32_t slots)
{
	ASSERT(slots > 0);
	*l = (struct lane){.conf = *conf, .dice = conf->seed, .slots = slots};
	l->due = calloc(slots, sizeof(*l->due));
	return l->due != NULL;
}

void lane_fini(struct lane *l)
{
	free(l->due);
	l->due = NULL;
}

/* A number in [0, 1), by SplitMix64: neighbouring seeds give unrelated numbers. */
static double throw_dice(struct lane *l)
{
	uint64_t z = l->dice += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

/* Through the bottleneck: false when its queue is full, else `at` is when the last bit is out. */
static bool pass_bottleneck(struct lane *l, uint64_t *at, uint32_t bytes)
{
	const struct lane_conf *c = &l->conf;

	if (c->rate_bps == 0)
		return true;
	uint64_t bits = 8ull * (bytes + LANE_FRAME_OVERHEAD);
	uint64_t busy = MAX_OF(l->busy_ns, *at) + (bits * NS_PER_S + c->rate_bps - 1) / c->rate_bps;
	uint64_t queue = busy - *at;

	if ((double)queue * (double)c->rate_bps > (double)c->queue_bytes * 8 * (double)NS_PER_S)
		return false;
	l->queue_ns = MAX_OF(l->queue_ns, queue);
	l->busy_ns = *at = busy;
	return true;
}

enum lane_fate lane_arrive(struct lane *l, uint32_t slot, uint64_t arrival_ns, uint32_t bytes)
{
	const struct lane_conf *c = &l->conf;
	uint64_t at = arrival_ns;

	if (!pass_bottleneck(l, &at, bytes))
		return LANE_DROPPED;
	if (c->loss > 0 && throw_dice(l) < c->loss)
		return LANE_LOST;
	at += c->delay_ns;
	if (c->jitter_ns)
		at += (uint64_t)(throw_dice(l) * (double)c->jitter_ns);
	ASSERT(l->count < l->slots);
	l->last_ns = MAX_OF(l->last_ns, at);
	l->due[(l->head + l->count) % l->slots] = (struct lane_due){l->last_ns, slot};
	l->count++;
	l->count_max = MAX_OF(l->count_max, l->count);
	return LANE_QUEUED;
}

uint64_t lane_next_ns(const struct lane *l)
{
	return l->count ? l->due[l->head].due_ns : LANE_NEVER;
}

uint32_t lane_take(struct lane *l, uint64_t now_ns, struct lane_due *out, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && lane_next_ns(l) <= now_ns) {
		out[n++] = l->due[l->head];
		l->head = (l->head + 1) % l->slots;
		l->count--;
	}
	return n;
}

uint64_t lane_queue_max(const struct lane *l)
{
	return (uint64_t)((double)l->queue_ns * (double)l->conf.rate_bps / 8 / (double)NS_PER_S);
}

bool lane_share(const char *text, double *out)
{
	char *end;

	if ((*text < '0' || *text > '9') && *text != '.')
		return false;
	double v = strtod(text, &end);
	if (strcmp(end, "%") == 0)
		v /= 100;
	else if (*end != '\0')
		return false;
	if (end == text || !(v >= 0 && v <= 1))
		return false;
	*out = v;
	return true;
}

bool lane_rate(const char *text, uint64_t *out_bps)
{
	static const struct {
		const char *unit;
		double bps;
	} units[] = {{"", 1}, {"k", 1e3}, {"m", 1e6}, {"g", 1e9}};
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	double v = strtod(text, &end);
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcasecmp(end, units[i].unit) != 0)
			continue;
		v *= units[i].bps;
		if (!(v >= 1 && v <= 1e12))
			return false;
		*out_bps = (uint64_t)(v + 0.5);
		return true;
	}
	return false;
}
