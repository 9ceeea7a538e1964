/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The pool: see helpers.h. One lock for all of it: it is held for a few list operations, and what
 * the jobs do takes milliseconds. A strand with jobs is in the list of those that are ready or on a
 * thread, never both; a thread runs one job of the first strand and puts it behind the others, so
 * nobody's many jobs keep anybody else's from being run.
 */
#include "engine/hook/plugin/helpers.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <time.h>

struct helpers {
	pthread_mutex_t lock;	     /* of all below and of all strands */
	pthread_cond_t more;	     /* a strand is ready, or the end has come */
	pthread_cond_t done;	     /* a strand has nothing left */
	struct strand *first, *last; /* ready */
	uint32_t questions, questions_max;
	uint32_t threads, threads_max;
	bool ending;
	cpu_set_t cpus; /* where its maker may run */
	pthread_t thread[];
};

/* ---- strands; under the lock ---- */

static void make_ready(struct helpers *p, struct strand *s)
{
	s->next_ready = NULL;
	if (p->first)
		p->last->next_ready = s;
	else
		p->first = s;
	p->last = s;
	pthread_cond_signal(&p->more);
}

static struct strand *take_ready(struct helpers *p)
{
	struct strand *s = p->first;

	p->first = s->next_ready;
	return s;
}

static void add(struct strand *s, struct job *j)
{
	j->next = NULL;
	if (s->first)
		s->last->next = j;
	else
		s->first = j;
	s->last = j;
	s->octets += j->octets;
	s->news += !j->question && j->octets == 0;
	if (!s->busy) {
		s->busy = true;
		s->user->busy++;
		make_ready(s->user->pool, s);
	}
}

/* It does not wait any more. */
static void uncount(struct strand *s, const struct job *j)
{
	if (j->question) {
		s->asked = NULL;
		s->user->pool->questions--;
	}
	s->octets -= j->octets;
	s->news -= !j->question && j->octets == 0;
}

static struct job *take_first(struct strand *s)
{
	struct job *j = s->first;

	s->first = j->next;
	uncount(s, j);
	return j;
}

static bool over(const struct strand *s)
{
	return s->left && !s->busy && s->holds == 0;
}

/* ---- threads ---- */

/* One job of a strand that is ready; the lock is given up meanwhile. */
static void run_one(struct helpers *p)
{
	struct strand *s = take_ready(p);
	struct helpers_user *user = s->user;
	struct job *j = s->first ? take_first(s) : NULL;
	bool room;

	if (j) {
		pthread_mutex_unlock(&p->lock);
		j->run(s, j);
		pthread_mutex_lock(&p->lock);
	}
	room = s->crowded && !s->left && s->holds == 0 && s->octets <= STRAND_ROOMY_BYTES;
	if (room) {
		s->holds++;
		pthread_mutex_unlock(&p->lock);
		s->room(s);
		pthread_mutex_lock(&p->lock);
	}
	if (s->first) {
		make_ready(p, s);
		return;
	}
	/* It was busy until here, so nobody else has released it. */
	s->busy = false;
	if (over(s)) {
		pthread_mutex_unlock(&p->lock);
		s->release(s);
		pthread_mutex_lock(&p->lock);
	}
	/* Last: whoever waits for this may free what strands belong to. */
	user->busy--;
	pthread_cond_broadcast(&p->done);
}

static void *helper_main(void *arg)
{
	struct helpers *p = arg;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (!p->first && !p->ending)
			pthread_cond_wait(&p->more, &p->lock);
		if (!p->first)
			break;
		run_one(p);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* A worker that starts them is pinned, and they must not all sit on its core. */
static bool start_one(struct helpers *p)
{
	pthread_t *t = &p->thread[p->threads];
	pthread_attr_t attr;
	char name[16];
	bool good;

	if (pthread_attr_init(&attr) != 0)
		return false;
	good = pthread_attr_setaffinity_np(&attr, sizeof(p->cpus), &p->cpus) == 0 &&
	       pthread_create(t, &attr, helper_main, p) == 0;
	pthread_attr_destroy(&attr);
	if (!good)
		return false;
	snprintf(name, sizeof(name), "helper-%u", p->threads % 10000);
	pthread_setname_np(*t, name);
	p->threads++;
	return true;
}

bool helpers_start(struct helpers *p)
{
	bool good;

	pthread_mutex_lock(&p->lock);
	while (p->threads < p->threads_max && start_one(p))
		;
	/* With fewer than were asked for it is slower, no more. */
	p->threads_max = p->threads;
	good = p->threads > 0;
	pthread_mutex_unlock(&p->lock);
	return good;
}

struct helpers *helpers_new(uint32_t threads, uint32_t queue)
{
	struct helpers *p;
	pthread_condattr_t attr;

	ASSERT(threads > 0 && queue > 0);
	p = calloc(1, sizeof(*p) + threads * sizeof(p->thread[0]));
	if (!p)
		return NULL;
	p->threads_max = threads;
	p->questions_max = queue;
	if (pthread_getaffinity_np(pthread_self(), sizeof(p->cpus), &p->cpus) != 0)
		memset(&p->cpus, 0xff, sizeof(p->cpus));
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&p->done, &attr);
	pthread_condattr_destroy(&attr);
	return p;
}

/* ---- the end ---- */

static struct timespec from_now(uint32_t ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += (time_t)(ms / 1000);
	t.tv_nsec += (long)(ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

bool helpers_settle(struct helpers_user *u, uint32_t wait_ms)
{
	const struct timespec until = from_now(wait_ms);
	struct helpers *p = u->pool;
	bool good;

	pthread_mutex_lock(&p->lock);
	while (u->busy > 0 && pthread_cond_timedwait(&p->done, &p->lock, &until) != ETIMEDOUT)
		;
	good = u->busy == 0;
	pthread_mutex_unlock(&p->lock);
	return good;
}

void helpers_free(struct helpers *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_broadcast(&p->more);
	pthread_mutex_unlock(&p->lock);
	for (uint32_t i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	ASSERT(!p->first);
	pthread_cond_destroy(&p->done);
	pthread_cond_destroy(&p->more);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* ---- jobs ---- */

bool strand_ask(struct strand *s, struct job *j)
{
	struct helpers *p = s->user->pool;
	bool room;

	ASSERT(j->question);
	pthread_mutex_lock(&p->lock);
	ASSERT(!s->asked && !s->left);
	room = p->questions < p->questions_max;
	if (room) {
		p->questions++;
		s->asked = j;
		add(s, j);
	}
	pthread_mutex_unlock(&p->lock);
	return room;
}

bool strand_tell(struct strand *s, struct job *j)
{
	struct helpers *p = s->user->pool;
	bool same;

	ASSERT(!j->question);
	pthread_mutex_lock(&p->lock);
	ASSERT(!s->left);
	same = s->first && j->merge != 0 && s->last->merge == j->merge;
	if (!same)
		add(s, j);
	pthread_mutex_unlock(&p->lock);
	return !same;
}

uint32_t strand_news(struct strand *s)
{
	struct helpers *p = s->user->pool;
	uint32_t n;

	pthread_mutex_lock(&p->lock);
	n = s->news;
	pthread_mutex_unlock(&p->lock);
	return n;
}

void strand_forget(struct strand *s)
{
	struct helpers *p = s->user->pool;
	struct job *j, **at, *before = NULL;

	pthread_mutex_lock(&p->lock);
	j = s->asked;
	if (j) {
		for (at = &s->first; *at != j; at = &before->next)
			before = *at;
		*at = j->next;
		if (s->last == j)
			s->last = before;
		uncount(s, j);
		/* The strand may have nothing left and be ready still: run_one() sees to that. */
	}
	pthread_mutex_unlock(&p->lock);
	free(j);
}

bool strand_crowd(struct strand *s)
{
	struct helpers *p = s->user->pool;
	bool now;

	pthread_mutex_lock(&p->lock);
	now = !s->crowded && s->octets > STRAND_CROWDED_BYTES;
	if (now)
		s->crowded = true;
	pthread_mutex_unlock(&p->lock);
	return now;
}

bool strand_roomy(struct strand *s)
{
	struct helpers *p = s->user->pool;
	bool roomy, gone;

	pthread_mutex_lock(&p->lock);
	ASSERT(s->holds > 0 && s->crowded);
	s->holds--;
	roomy = !s->left && s->octets <= STRAND_ROOMY_BYTES;
	if (roomy)
		s->crowded = false;
	gone = over(s);
	pthread_mutex_unlock(&p->lock);
	if (gone)
		s->release(s);
	return roomy;
}

void strand_leave(struct strand *s)
{
	struct helpers *p = s->user->pool;
	bool gone;

	pthread_mutex_lock(&p->lock);
	s->left = true;
	gone = over(s);
	pthread_mutex_unlock(&p->lock);
	if (gone)
		s->release(s);
}
