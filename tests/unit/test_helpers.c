/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The pool of helper threads alone: order within a strand, many strands at the same time, what is
 * refused, what is taken out again, the ways a strand can end. Nothing here depends on how long
 * anything takes: jobs wait for a gate that the test opens.
 */
#include "engine/hook/plugin/helpers.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 4, STRANDS = 32, EACH = 200 };

static struct helpers *pool;
static struct helpers_user user;

/* ---- a gate, and what has happened ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool open_gate;
static unsigned inside, ran, released, rooms;

static void note(unsigned *what)
{
	pthread_mutex_lock(&lock);
	(*what)++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void wait_for(const unsigned *what, unsigned n)
{
	pthread_mutex_lock(&lock);
	while (*what < n)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
}

static unsigned read_count(const unsigned *what)
{
	unsigned n;

	pthread_mutex_lock(&lock);
	n = *what;
	pthread_mutex_unlock(&lock);
	return n;
}

static void set_gate(bool now)
{
	pthread_mutex_lock(&lock);
	open_gate = now;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

static void wait_at_gate(void)
{
	pthread_mutex_lock(&lock);
	inside++;
	pthread_cond_broadcast(&changed);
	while (!open_gate)
		pthread_cond_wait(&changed, &lock);
	inside--;
	pthread_mutex_unlock(&lock);
}

/* ---- strands and jobs ---- */

struct thing {
	struct strand s;
	unsigned next;	/* the number that its next job must have: no lock, so TSan looks */
	bool running;	/* the same */
	unsigned wrong; /* out of order, or two at once */
};

struct numbered {
	struct job job;
	unsigned number;
	bool gated;
};

static void release(struct strand *s)
{
	free(CONTAINER_OF(s, struct thing, s));
	note(&released);
}

static void room(struct strand *s)
{
	note(&rooms);
}

static struct thing *new_thing(void)
{
	struct thing *t = calloc(1, sizeof(*t));

	cr_assert_not_null(t);
	t->s = (struct strand){.user = &user, .release = release, .room = room};
	return t;
}

static void run(struct strand *s, struct job *j)
{
	struct thing *t = CONTAINER_OF(s, struct thing, s);
	struct numbered *n = (struct numbered *)(void *)j;

	t->wrong += t->running || n->number != t->next;
	t->running = true;
	if (n->gated)
		wait_at_gate();
	t->next = n->number + 1;
	t->running = false;
	cr_assert_eq(t->wrong, 0u);
	free(n);
	note(&ran);
}

static struct job *new_job(unsigned number, bool question, bool gated)
{
	struct numbered *n = calloc(1, sizeof(*n));

	cr_assert_not_null(n);
	*n = (struct numbered){{.run = run, .question = question}, number, gated};
	return &n->job;
}

static void begin(uint32_t threads, uint32_t queue)
{
	pool = helpers_new(threads, queue);
	cr_assert_not_null(pool);
	user.pool = pool;
	cr_assert(helpers_start(pool));
	cr_assert(helpers_start(pool), "the second worker");
}

static void end(void)
{
	while (!helpers_settle(&user, 20))
		;
	cr_expect_eq(user.busy, 0u);
	helpers_free(pool);
}

/* ---- ---- */

Test(helpers, many_strands_each_in_its_order)
{
	struct thing *t[STRANDS];

	begin(THREADS, 10);
	for (unsigned i = 0; i < STRANDS; i++)
		t[i] = new_thing();
	for (unsigned n = 0; n < EACH; n++)
		for (unsigned i = 0; i < STRANDS; i++)
			cr_assert(strand_tell(&t[i]->s, new_job(n, false, false)));
	for (unsigned i = 0; i < STRANDS; i++)
		strand_leave(&t[i]->s);
	end();
	cr_expect_eq(ran, (unsigned)STRANDS * EACH);
	cr_expect_eq(released, (unsigned)STRANDS);
}

/* A strand that stands still holds one thread, and nobody else waits for what is behind it. */
Test(helpers, others_go_on)
{
	struct thing *slow, *quick;

	begin(2, 10);
	slow = new_thing();
	quick = new_thing();
	cr_assert(strand_tell(&slow->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	for (unsigned n = 1; n < 10; n++)
		cr_assert(strand_tell(&slow->s, new_job(n, false, false)));
	for (unsigned n = 0; n < 10; n++)
		cr_assert(strand_tell(&quick->s, new_job(n, false, false)));
	wait_for(&ran, 10);
	cr_expect_eq(read_count(&ran), 10u, "none of the slow one's");
	cr_expect_eq(strand_news(&slow->s), 9u);
	cr_expect_eq(strand_news(&quick->s), 0u);
	cr_expect_not(helpers_settle(&user, 1), "one hangs");
	set_gate(true);
	strand_leave(&slow->s);
	strand_leave(&quick->s);
	end();
	cr_expect_eq(ran, 20u);
	cr_expect_eq(released, 2u);
}

static char order[16];

static void write_down(struct strand *s, struct job *j)
{
	pthread_mutex_lock(&lock);
	order[strlen(order)] = (char)((struct numbered *)(void *)j)->number;
	pthread_mutex_unlock(&lock);
	free(j);
}

static void will_write(struct thing *t, char what)
{
	struct job *j = new_job((unsigned char)what, false, false);

	j->run = write_down;
	cr_assert(strand_tell(&t->s, j));
}

/* Who has many jobs does not keep others from being run. */
Test(helpers, strands_take_turns)
{
	struct thing *holder, *many, *one;

	begin(1, 10);
	holder = new_thing();
	many = new_thing();
	one = new_thing();
	cr_assert(strand_tell(&holder->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	for (const char *c = "abc"; *c; c++)
		will_write(many, *c);
	will_write(one, 'X');
	set_gate(true);
	strand_leave(&holder->s);
	strand_leave(&one->s);
	strand_leave(&many->s);
	end();
	cr_expect_str_eq(order, "aXbc");
}

Test(helpers, only_so_many_questions_wait)
{
	struct thing *t[4];
	struct job *j;

	begin(1, 2);
	for (unsigned i = 0; i < 4; i++)
		t[i] = new_thing();
	cr_assert(strand_ask(&t[0]->s, new_job(0, true, true)));
	wait_for(&inside, 1); /* it does not wait any more */
	cr_assert(strand_ask(&t[1]->s, new_job(0, true, false)));
	cr_assert(strand_ask(&t[2]->s, new_job(0, true, false)));
	j = new_job(0, true, false);
	cr_expect_not(strand_ask(&t[3]->s, j));
	/* News are not counted, and one that is taken back makes room. */
	cr_assert(strand_tell(&t[3]->s, new_job(0, false, false)));
	strand_forget(&t[2]->s);
	strand_forget(&t[2]->s);
	strand_forget(&t[0]->s);
	cr_expect(strand_ask(&t[3]->s, (((struct numbered *)(void *)j)->number = 1, j)));
	set_gate(true);
	for (unsigned i = 0; i < 4; i++)
		strand_leave(&t[i]->s);
	end();
	cr_expect_eq(ran, 4u, "all but the one that was taken back");
	cr_expect_eq(released, 4u);
}

/* Wherever it stands in its strand, what is before and behind it stays. */
Test(helpers, a_question_is_taken_out)
{
	for (unsigned before = 0; before < 3; before++)
		for (unsigned behind = 0; behind < 3; behind++) {
			struct thing *t;
			unsigned n = 1;

			ran = released = 0;
			open_gate = false;
			begin(2, 2);
			t = new_thing();
			cr_assert(strand_tell(&t->s, new_job(0, false, true)));
			wait_for(&inside, 1);
			for (unsigned i = 0; i < before; i++)
				cr_assert(strand_tell(&t->s, new_job(n++, false, false)));
			cr_assert(strand_ask(&t->s, new_job(99, true, false)));
			for (unsigned i = 0; i < behind; i++)
				cr_assert(strand_tell(&t->s, new_job(n++, false, false)));
			strand_forget(&t->s);
			cr_assert(strand_tell(&t->s, new_job(n++, false, false)));
			set_gate(true);
			strand_leave(&t->s);
			end();
			cr_expect_eq(ran, n);
			cr_expect_eq(released, 1u);
		}
}

/* The only job of a strand that waits for a thread. */
Test(helpers, a_strand_that_has_nothing_left_to_do)
{
	struct thing *t, *holder;

	begin(1, 2);
	holder = new_thing();
	t = new_thing();
	cr_assert(strand_tell(&holder->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	cr_assert(strand_ask(&t->s, new_job(0, true, false)));
	strand_forget(&t->s);
	strand_leave(&t->s);
	cr_expect_eq(read_count(&released), 0u, "a thread will look at it still");
	strand_leave(&holder->s);
	set_gate(true);
	end();
	cr_expect_eq(ran, 1u);
	cr_expect_eq(released, 2u);
}

Test(helpers, the_same_again_is_not_taken)
{
	struct thing *t;
	struct job *j[4];

	begin(1, 2);
	t = new_thing();
	for (unsigned i = 0; i < 4; i++) {
		j[i] = new_job(i + 1, false, false);
		j[i]->merge = i == 2 ? 0 : 7;
	}
	cr_assert(strand_tell(&t->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	cr_expect(strand_tell(&t->s, j[0]));
	cr_expect_not(strand_tell(&t->s, j[1]));
	((struct numbered *)(void *)j[2])->number = 2;
	cr_expect(strand_tell(&t->s, j[2]));
	((struct numbered *)(void *)j[3])->number = 3;
	cr_expect(strand_tell(&t->s, j[3]));
	set_gate(true);
	strand_leave(&t->s);
	end();
	free(j[1]);
	cr_expect_eq(ran, 4u);
}

static struct job *bulk(unsigned number, size_t octets, bool gated)
{
	struct job *j = new_job(number, false, gated);

	j->octets = octets;
	return j;
}

Test(helpers, bulk_makes_a_crowd_and_room_again)
{
	struct thing *t;

	begin(1, 2);
	t = new_thing();
	cr_assert(strand_tell(&t->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	cr_assert(strand_tell(&t->s, bulk(1, STRAND_CROWDED_BYTES, false)));
	cr_expect_not(strand_crowd(&t->s));
	cr_assert(strand_tell(&t->s, bulk(2, 1, false)));
	cr_expect(strand_crowd(&t->s));
	cr_expect_not(strand_crowd(&t->s), "said once");
	cr_expect_eq(strand_news(&t->s), 0u, "bulk is no news");
	set_gate(true);
	wait_for(&rooms, 1);
	/* More came before its owner heard of it: it is told again. */
	set_gate(false);
	cr_assert(strand_tell(&t->s, bulk(3, 1, true)));
	wait_for(&inside, 1);
	cr_assert(strand_tell(&t->s, bulk(4, STRAND_ROOMY_BYTES + 1, false)));
	cr_expect_not(strand_roomy(&t->s));
	set_gate(true);
	wait_for(&rooms, 2);
	cr_expect(strand_roomy(&t->s));
	cr_expect_not(strand_crowd(&t->s));
	strand_leave(&t->s);
	end();
	cr_expect_eq(rooms, 2u);
	cr_expect_eq(released, 1u);
}

/* Its owner is to be told of room, and has gone: the strand stays until that was delivered. */
Test(helpers, left_while_room_is_on_its_way)
{
	struct thing *t;

	begin(1, 2);
	t = new_thing();
	cr_assert(strand_tell(&t->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	cr_assert(strand_tell(&t->s, bulk(1, STRAND_CROWDED_BYTES + 1, false)));
	cr_expect(strand_crowd(&t->s));
	set_gate(true);
	wait_for(&rooms, 1);
	strand_leave(&t->s);
	while (!helpers_settle(&user, 20))
		;
	cr_expect_eq(read_count(&released), 0u);
	cr_expect_not(strand_roomy(&t->s), "nobody is there");
	cr_expect_eq(read_count(&released), 1u);
	end();
}

Test(helpers, one_who_leaves_hears_of_no_room)
{
	struct thing *t;

	begin(1, 2);
	t = new_thing();
	cr_assert(strand_tell(&t->s, new_job(0, false, true)));
	wait_for(&inside, 1);
	cr_assert(strand_tell(&t->s, bulk(1, STRAND_CROWDED_BYTES + 1, false)));
	cr_expect(strand_crowd(&t->s));
	strand_leave(&t->s);
	set_gate(true);
	end();
	cr_expect_eq(rooms, 0u);
	cr_expect_eq(released, 1u);
}

Test(helpers, never_started)
{
	pool = helpers_new(3, 1);
	user.pool = pool;
	cr_expect(helpers_settle(&user, 1));
	helpers_free(pool);
	helpers_free(NULL);
}

static cpu_set_t seen_cpus;
static char seen_name[16];

static void look_around(struct strand *s, struct job *j)
{
	pthread_getaffinity_np(pthread_self(), sizeof(seen_cpus), &seen_cpus);
	pthread_getname_np(pthread_self(), seen_name, sizeof(seen_name));
	free(j);
	note(&ran);
}

/* Started by a worker that sits on one core. */
Test(helpers, they_run_where_their_maker_may)
{
	cpu_set_t before, one;
	struct thing *t;
	struct job *j;

	pool = helpers_new(1, 1);
	user.pool = pool;
	pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
	CPU_ZERO(&one);
	for (unsigned i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
		if (CPU_ISSET(i, &before))
			CPU_SET(i, &one);
	pthread_setaffinity_np(pthread_self(), sizeof(one), &one);
	cr_assert(helpers_start(pool));
	t = new_thing();
	j = new_job(0, false, false);
	j->run = look_around;
	cr_assert(strand_tell(&t->s, j));
	strand_leave(&t->s);
	end();
	cr_expect(CPU_EQUAL(&seen_cpus, &before));
	cr_expect_str_eq(seen_name, "helper-0");
}
