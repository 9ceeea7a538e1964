/* SPDX-License-Identifier: 0BSD
 *
 * Answers later, from one thread of its own. Options:
 *
 *     at         events to wait at: "rcpt" or "rcpt,end-of-data"; others pass
 *     only       the address to wait for at MAIL and RCPT; others pass
 *     ms         how long the answer takes
 *     verdict    pass, reject, tempfail, drop: the answer; never: none at all; twice: pass, and
 *                once more (what the second one got is logged); taken-back: suspend(), then PASS
 *     text       of the answer
 *     news       suspends at news too, and logs when that gives a token
 *
 * Counts (in the record `hook-counters`): asked (questions that were suspended).
 *
 * Questions are answered in the order they came in, since each waits as long as any other. Without
 * memory for one it is refused for now. What still waits at close() is not answered.
 */
#include "tests/plugins/words.h"

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

struct question {
	struct question *next;
	struct timespec due;
	struct ringpost_token token;
};

enum mode { ANSWERS, NEVER, TWICE, TAKEN_BACK };

struct later {
	const struct ringpost_host *host;
	const char *text, *only;
	uint32_t at, verdict;
	int asked;
	enum mode mode;
	unsigned long ms;
	bool news;
	pthread_t thread;
	pthread_mutex_t lock; /* of what follows */
	pthread_cond_t more;
	struct question *first, **last;
	bool ending;
};

/* ---- the thread ---- */

static void reply_to(struct later *l, struct ringpost_token token)
{
	struct ringpost_answer a = {.size = sizeof(a), .text = l->text};
	char line[64];

	(void)l->host->answer(l->host->handle, token, l->verdict, &a);
	if (l->mode != TWICE)
		return;
	snprintf(line, sizeof(line), "second answer: %d",
		l->host->answer(l->host->handle, token, RINGPOST_REJECT, &a));
	l->host->log(l->host->handle, RINGPOST_LOG_INFO, line);
}

static bool is_due(const struct timespec *t)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec > t->tv_sec || (now.tv_sec == t->tv_sec && now.tv_nsec >= t->tv_nsec);
}

static struct question *take_first(struct later *l)
{
	struct question *q = l->first;

	l->first = q->next;
	if (!l->first)
		l->last = &l->first;
	return q;
}

static void *answering(void *arg)
{
	struct later *l = arg;

	pthread_mutex_lock(&l->lock);
	while (!l->ending) {
		struct question *q = l->first;

		if (!q) {
			pthread_cond_wait(&l->more, &l->lock);
		} else if (!is_due(&q->due)) {
			struct timespec until = q->due;

			pthread_cond_timedwait(&l->more, &l->lock, &until);
		} else {
			take_first(l);
			pthread_mutex_unlock(&l->lock);
			reply_to(l, q->token);
			free(q);
			pthread_mutex_lock(&l->lock);
		}
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

/* ---- events ---- */

static uint32_t wait_for_it(struct later *l, const struct ringpost_event *ev)
{
	struct question *q = calloc(1, sizeof(*q));

	if (!q)
		return RINGPOST_TEMPFAIL;
	q->token = l->host->suspend(l->host->handle, ev);
	l->host->count(l->host->handle, l->asked, 1);
	if (l->mode == NEVER || l->mode == TAKEN_BACK) {
		free(q);
		return l->mode == NEVER ? RINGPOST_PENDING : RINGPOST_PASS;
	}
	clock_gettime(CLOCK_MONOTONIC, &q->due);
	q->due.tv_sec += (time_t)(l->ms / 1000);
	q->due.tv_nsec += (long)(l->ms % 1000 * 1000000);
	if (q->due.tv_nsec >= 1000000000) {
		q->due.tv_sec++;
		q->due.tv_nsec -= 1000000000;
	}
	pthread_mutex_lock(&l->lock);
	*l->last = q;
	l->last = &q->next;
	pthread_cond_signal(&l->more);
	pthread_mutex_unlock(&l->lock);
	return RINGPOST_PENDING;
}

static bool waits_at(const struct later *l, const struct ringpost_event *ev)
{
	bool named = ev->kind == RINGPOST_MAIL || ev->kind == RINGPOST_RCPT;

	return (l->at & RINGPOST_ON(ev->kind)) && (!l->only || !named || is(ev->address, l->only));
}

static uint32_t event(void *self, const struct ringpost_event *ev, struct ringpost_answer *answer)
{
	struct later *l = self;

	if (ev->kind < RINGPOST_STARTTLS)
		return waits_at(l, ev) ? wait_for_it(l, ev) : RINGPOST_PASS;
	if (l->news) {
		struct ringpost_token t = l->host->suspend(l->host->handle, ev);

		if (t.a != 0 || t.b != 0 ||
			l->host->answer(l->host->handle, t, RINGPOST_PASS, NULL) != -1)
			l->host->log(l->host->handle, RINGPOST_LOG_ERROR, "news can be suspended");
	}
	return RINGPOST_PASS;
}

/* ---- opening and closing ---- */

static bool set_verdict(struct later *l, const char *word)
{
	static const struct {
		const char *word;
		uint32_t verdict;
		enum mode mode;
	} words[] = {{"pass", RINGPOST_PASS, ANSWERS}, {"reject", RINGPOST_REJECT, ANSWERS},
		{"tempfail", RINGPOST_TEMPFAIL, ANSWERS}, {"drop", RINGPOST_DROP, ANSWERS},
		{"never", RINGPOST_PASS, NEVER}, {"twice", RINGPOST_PASS, TWICE},
		{"taken-back", RINGPOST_PASS, TAKEN_BACK}};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(words[i].word, word) == 0) {
			l->verdict = words[i].verdict;
			l->mode = words[i].mode;
			return true;
		}
	return false;
}

static bool set(struct later *l, const struct ringpost_option *o)
{
	char *end = NULL;

	if (strcmp(o->name, "at") == 0)
		return (l->at = events_of(o->value)) != 0;
	if (strcmp(o->name, "verdict") == 0)
		return set_verdict(l, o->value);
	if (strcmp(o->name, "ms") == 0) {
		l->ms = strtoul(o->value, &end, 10);
		return end != o->value && *end == '\0';
	}
	if (strcmp(o->name, "text") == 0)
		l->text = o->value;
	else if (strcmp(o->name, "only") == 0)
		l->only = o->value;
	else if (strcmp(o->name, "news") == 0)
		l->news = true;
	else
		return false;
	return true;
}

static bool start(struct later *l)
{
	pthread_condattr_t attr;

	l->last = &l->first;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->more, &attr);
	pthread_condattr_destroy(&attr);
	return pthread_create(&l->thread, NULL, answering, l) == 0;
}

static int open_it(const struct ringpost_host *host, const struct ringpost_option *options,
	size_t option_count, void **self, char *error, size_t error_size)
{
	struct later *l = calloc(1, sizeof(*l));

	if (!l) {
		snprintf(error, error_size, "no memory");
		return -1;
	}
	l->host = host;
	for (size_t i = 0; i < option_count; i++)
		if (!set(l, &options[i])) {
			snprintf(error, error_size, "option `%s: %s` is not one of later",
				options[i].name, options[i].value);
			free(l);
			return -1;
		}
	if (!l->at || !start(l)) {
		snprintf(error, error_size, "%s", l->at ? "no thread" : "option `at` is missing");
		free(l);
		return -1;
	}
	l->asked = host->counter(host->handle, "asked");
	*self = l;
	return 0;
}

static void close_it(void *self)
{
	struct later *l = self;

	pthread_mutex_lock(&l->lock);
	l->ending = true;
	pthread_cond_signal(&l->more);
	pthread_mutex_unlock(&l->lock);
	pthread_join(l->thread, NULL);
	while (l->first)
		free(take_first(l));
	pthread_cond_destroy(&l->more);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin),
	"later", 0, RINGPOST_ON_ENVELOPE, open_it, close_it, event};
