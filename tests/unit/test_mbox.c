/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * ring/mbox.h: nothing lost, each poster's order kept, the counted refusal, few bells for a burst,
 * posting from receive(), closing with messages inside. Run under tsan as well.
 */
#include "ring/mbox.h"

#include "tests/unit/bed.h"

#include <pthread.h>
#include <stdatomic.h>

enum { POSTERS = 4, EACH = 50000 };

static struct bed bed;
static struct mbox *box;
static uint32_t next_num[POSTERS];
static unsigned received;

static void receive(void *arg, const struct mbox_msg *m)
{
	cr_assert_eq(arg, &bed);
	cr_assert(m->kind < POSTERS);
	cr_assert_eq(m->num, next_num[m->kind], "poster %u out of order", m->kind);
	cr_assert_eq(m->ptr, &next_num[m->kind]);
	next_num[m->kind]++;
	received++;
}

static void open_box(uint32_t capacity)
{
	struct ring_conf c = bed_conf();

	bed_open(&bed, &c, 16, 16);
	box = mbox_open(bed.r, capacity, receive, &bed);
	cr_assert(box != NULL);
}

static void close_box(void)
{
	mbox_close(bed.r, box);
	streams_fini(&bed.ss);
	ring_close(bed.r);
	cr_assert_eq(bed_fds(), bed.fds_before);
}

static struct mbox_msg message(uint32_t poster, uint32_t num)
{
	return (struct mbox_msg){poster, num, &next_num[poster]};
}

static _Atomic(uint64_t) refused;

static void *poster(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg;

	for (uint32_t i = 0; i < EACH; i++)
		while (!mbox_post(box, message(me, i))) {
			atomic_fetch_add(&refused, 1);
			usleep(50);
		}
	return NULL;
}

Test(mbox, many_posters_lose_nothing)
{
	pthread_t t[POSTERS];

	open_box(1024);
	for (uintptr_t i = 0; i < POSTERS; i++)
		cr_assert_eq(pthread_create(&t[i], NULL, poster, (void *)i), 0);
	BED_UNTIL(&bed, received == POSTERS * EACH, (void)0);
	for (unsigned i = 0; i < POSTERS; i++)
		pthread_join(t[i], NULL);
	cr_assert_eq(mbox_refused(box), atomic_load(&refused));
	bed_turn(&bed);
	cr_assert_eq(received, POSTERS * EACH);
	close_box();
}

Test(mbox, full_is_a_counted_refusal)
{
	open_box(8);
	for (uint32_t i = 0; i < 8; i++)
		cr_assert(mbox_post(box, message(0, i)));
	cr_assert_not(mbox_post(box, message(0, 8)));
	cr_assert_eq(mbox_refused(box), 1);
	BED_UNTIL(&bed, received == 8, (void)0);
	for (uint32_t i = 8; i < 16; i++)
		cr_assert(mbox_post(box, message(0, i)));
	BED_UNTIL(&bed, received == 16, (void)0);
	close_box();
}

Test(mbox, a_burst_wakes_once)
{
	open_box(256);
	bed_turn(&bed);
	uint64_t before = ring_stats(bed.r)->cqes;
	for (uint32_t i = 0; i < 200; i++)
		cr_assert(mbox_post(box, message(0, i)));
	BED_UNTIL(&bed, received == 200, (void)0);
	for (int i = 0; i < 5; i++)
		bed_turn(&bed);
	cr_assert_eq(ring_stats(bed.r)->cqes - before, 1);
	close_box();
}

static void echo(void *arg, const struct mbox_msg *m)
{
	received++;
	if (m->num > 0)
		cr_assert(mbox_post(box, (struct mbox_msg){0, m->num - 1, NULL}));
}

Test(mbox, receive_may_post)
{
	struct ring_conf c = bed_conf();

	bed_open(&bed, &c, 16, 16);
	box = mbox_open(bed.r, 2, echo, NULL);
	cr_assert(mbox_post(box, (struct mbox_msg){0, 1000, NULL}));
	BED_UNTIL(&bed, received == 1001, (void)0);
	close_box();
}

Test(mbox, closing_receives_what_is_inside)
{
	open_box(8);
	for (uint32_t i = 0; i < 5; i++)
		cr_assert(mbox_post(box, message(1, i)));
	close_box();
	cr_assert_eq(received, 5);
}
