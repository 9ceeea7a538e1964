/* SPDX-License-Identifier: 0BSD
 *
 * Blocks: sleeps inside event(), as a plugin does that asks a database. Options:
 *
 *     at         events to sleep at: "rcpt" or "rcpt,close"; others come back at once
 *     ms         how long
 *     verdict    pass, reject, tempfail, discard: of the questions it sleeps at
 *     later      "yes": suspends first, and answers by answer() when it has slept
 *     pieces     "yes": refuses at END_OF_DATA, and says how many octets BODY has shown
 *
 * Counts (in the record `hook-counters`): events, sessions (that have begun), closed (that have
 * ended), twice (a session's events on two threads at the same time: must stay 0).
 */
#include "tests/plugins/words.h"

#include <time.h>

struct block {
	const struct ringpost_host *host;
	uint32_t at, verdict;
	long ms;
	int later, pieces;
	int events, sessions, closed, twice;
};

struct session {
	int inside; /* atomic */
	unsigned long long octets;
	char text[64];
};

static int set(struct block *b, const struct ringpost_option *o)
{
	static const struct {
		const char *word;
		uint32_t verdict;
	} words[] = {{"pass", RINGPOST_PASS}, {"reject", RINGPOST_REJECT},
		{"tempfail", RINGPOST_TEMPFAIL}, {"discard", RINGPOST_DISCARD}};

	if (strcmp(o->name, "at") == 0)
		return (b->at = events_of(o->value)) != 0;
	if (strcmp(o->name, "ms") == 0)
		return (b->ms = strtol(o->value, NULL, 10)) >= 0;
	if (strcmp(o->name, "later") == 0)
		return b->later = 1;
	if (strcmp(o->name, "pieces") == 0)
		return b->pieces = 1;
	if (strcmp(o->name, "verdict") != 0)
		return 0;
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i].word, o->value) == 0) {
			b->verdict = words[i].verdict;
			return 1;
		}
	return 0;
}

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct block *b = calloc(1, sizeof(*b));

	if (!b) {
		snprintf(error, error_size, "no memory");
		return -1;
	}
	b->host = host;
	for (size_t i = 0; i < option_count; i++)
		if (!set(b, &options[i])) {
			snprintf(error, error_size, "option `%s: %s` is not one of block",
				options[i].name, options[i].value);
			free(b);
			return -1;
		}
	b->events = host->counter(host->handle, "events");
	b->sessions = host->counter(host->handle, "sessions");
	b->closed = host->counter(host->handle, "closed");
	b->twice = host->counter(host->handle, "twice");
	*self = b;
	return 0;
}

static void count(const struct block *b, int index)
{
	b->host->count(b->host->handle, index, 1);
}

static uint32_t decide(const struct block *b, struct session *s, const struct ringpost_event *ev,
	struct ringpost_answer *answer)
{
	struct ringpost_token t = {0, 0};

	if (b->pieces && ev->kind == RINGPOST_END_OF_DATA) {
		snprintf(s->text, sizeof(s->text), "saw %llu octets", s->octets);
		answer->text = s->text;
		return RINGPOST_REJECT;
	}
	if (!(b->at & RINGPOST_ON(ev->kind)))
		return RINGPOST_PASS;
	if (b->later)
		t = b->host->suspend(b->host->handle, ev);
	nanosleep(&(struct timespec){b->ms / 1000, b->ms % 1000 * 1000000}, NULL);
	if (!b->later)
		return b->verdict;
	(void)b->host->answer(b->host->handle, t, b->verdict, NULL);
	return RINGPOST_PENDING;
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	const struct block *b = self;
	struct session *s = *ev->user;
	uint32_t verdict;

	count(b, b->events);
	if (!s) {
		s = *ev->user = calloc(1, sizeof(*s));
		if (!s)
			return RINGPOST_TEMPFAIL;
		count(b, b->sessions);
	}
	if (__atomic_exchange_n(&s->inside, 1, __ATOMIC_RELAXED))
		count(b, b->twice);
	if (ev->kind == RINGPOST_MAIL)
		s->octets = 0;
	s->octets += ev->data.size;
	verdict = decide(b, s, ev, answer);
	__atomic_store_n(&s->inside, 0, __ATOMIC_RELAXED);
	if (ev->kind == RINGPOST_CLOSE) {
		*ev->user = NULL;
		free(s);
		count(b, b->closed);
	}
	return verdict;
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"block", RINGPOST_MAY_BLOCK, RINGPOST_ON_ALL, open_it, free, event};
