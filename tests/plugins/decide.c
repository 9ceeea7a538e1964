/* SPDX-License-Identifier: 0BSD
 *
 * Decides at once, by what an event is about: the client's address at CONNECT, the name at EHLO,
 * the mechanism at AUTH, the address at MAIL and RCPT. Options:
 *
 *     reject, tempfail, drop   what to look for
 *     odd                      gets a verdict that is none (77); odd-pending: PENDING, no suspend()
 *     at                       "data" or "end-of-data": objections to MAIL and RCPT come only there
 *     code, enhanced, text     of the answer
 *     slow                     milliseconds that each event takes
 *
 * decide-rcpt.so is the same and asks for RCPT alone (what does one question cost?).
 */
#include "tests/plugins/words.h"

#include <time.h>

#ifndef DECIDES
#define DECIDES                                                                                    \
	(RINGPOST_ON(RINGPOST_CONNECT) | RINGPOST_ON(RINGPOST_EHLO) | RINGPOST_ON(RINGPOST_AUTH) | \
		RINGPOST_ON(RINGPOST_MAIL) | RINGPOST_ON(RINGPOST_RCPT) |                          \
		RINGPOST_ON(RINGPOST_DATA) | RINGPOST_ON(RINGPOST_END_OF_DATA))
#endif

struct decider {
	const char *wanted[RINGPOST_DROP + 1], *odd, *odd_pending;
	struct ringpost_answer answer;
	uint32_t at;
	long slow_ms;
};

static int set(struct decider *d, const struct ringpost_option *o)
{
	if (strcmp(o->name, "reject") == 0)
		d->wanted[RINGPOST_REJECT] = o->value;
	else if (strcmp(o->name, "tempfail") == 0)
		d->wanted[RINGPOST_TEMPFAIL] = o->value;
	else if (strcmp(o->name, "drop") == 0)
		d->wanted[RINGPOST_DROP] = o->value;
	else if (strcmp(o->name, "odd") == 0)
		d->odd = o->value;
	else if (strcmp(o->name, "odd-pending") == 0)
		d->odd_pending = o->value;
	else if (strcmp(o->name, "code") == 0)
		d->answer.code = (uint32_t)strtoul(o->value, NULL, 10);
	else if (strcmp(o->name, "enhanced") == 0)
		d->answer.enhanced = o->value;
	else if (strcmp(o->name, "text") == 0)
		d->answer.text = o->value;
	else if (strcmp(o->name, "slow") == 0)
		d->slow_ms = strtol(o->value, NULL, 10);
	else if (strcmp(o->name, "at") == 0)
		return (d->at = events_of(o->value)) != 0;
	else
		return 0;
	return 1;
}

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct decider *d = calloc(1, sizeof(*d));

	if (!d) {
		snprintf(error, error_size, "no memory");
		return -1;
	}
	for (size_t i = 0; i < option_count; i++)
		if (!set(d, &options[i])) {
			snprintf(error, error_size, "option `%s: %s` is not one of decide",
				options[i].name, options[i].value);
			free(d);
			return -1;
		}
	*self = d;
	return 0;
}

static struct ringpost_span subject(const struct ringpost_event *ev)
{
	switch (ev->kind) {
	case RINGPOST_CONNECT:
		return ev->client;
	case RINGPOST_EHLO:
		return ev->helo;
	case RINGPOST_AUTH:
		return ev->mechanism;
	default:
		return ev->address;
	}
}

static uint32_t verdict_on(const struct decider *d, struct ringpost_span s)
{
	if (is(s, d->odd))
		return 77;
	if (is(s, d->odd_pending))
		return RINGPOST_PENDING;
	for (uint32_t v = RINGPOST_REJECT; v <= RINGPOST_DROP; v++)
		if (is(s, d->wanted[v]))
			return v;
	return RINGPOST_PASS;
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	const struct decider *d = self;
	uint32_t v = verdict_on(d, subject(ev));

	if (d->slow_ms > 0)
		nanosleep(&(struct timespec){d->slow_ms / 1000, d->slow_ms % 1000 * 1000000}, NULL);
	if (ev->kind == RINGPOST_MAIL)
		*ev->user = NULL;
	if (d->at && v != RINGPOST_PASS &&
		(ev->kind == RINGPOST_MAIL || ev->kind == RINGPOST_RCPT)) {
		*ev->user = (void *)(uintptr_t)v;
		return RINGPOST_PASS;
	}
	if (d->at & RINGPOST_ON(ev->kind))
		v = (uint32_t)(uintptr_t)*ev->user;
	answer->code = d->answer.code;
	answer->enhanced = d->answer.enhanced;
	answer->text = d->answer.text;
	return v;
}

const struct ringpost_plugin ringpost_plugin = {
	RINGPOST_ABI, sizeof(struct ringpost_plugin), "decide", 0, DECIDES, open_it, free, event};
