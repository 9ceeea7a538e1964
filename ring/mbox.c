/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The mailbox: Vyukov's bounded queue, many posters, one receiver. Each cell carries a sequence
 * number that says whose turn it is: == position: free for that post; == position + 1: filled.
 * A poster claims a position with one compare-and-swap and publishes it with one release store;
 * nobody waits for anybody.
 *
 * Wake-ups: `rung` is set by the first post after the receiver looked and cleared by the receiver
 * before it looks again, so a burst costs one bell and no message is left without one. A poster
 * that was stopped between claim and publish holds back those behind it, not for ever: it finds
 * `rung` cleared when it goes on and rings itself.
 *
 * Failure modes: full (mbox_post says so, counted); no memory or bell at mbox_open().
 */
#include "ring/mbox.h"

#include <stdatomic.h>

#define LINE_BYTES 64

struct cell {
	_Atomic(uint64_t) turn;
	struct mbox_msg msg;
};

struct mbox {
	_Alignas(LINE_BYTES) _Atomic(uint64_t) tail; /* posters: next position to claim */
	_Alignas(LINE_BYTES) atomic_bool rung;
	_Atomic(uint64_t) refused;
	_Alignas(LINE_BYTES) uint64_t head; /* receiver: next position to read */
	uint64_t mask;
	struct ring_bell *bell; /* owns */
	void (*receive)(void *arg, const struct mbox_msg *m);
	void *arg;
	bool delivering;
	struct cell cells[];
};

static bool take(struct mbox *b, struct mbox_msg *m)
{
	struct cell *c = &b->cells[b->head & b->mask];

	if (atomic_load_explicit(&c->turn, memory_order_acquire) != b->head + 1)
		return false;
	*m = c->msg;
	/* Free for the poster that comes around to it next. */
	atomic_store_explicit(&c->turn, b->head + b->mask + 1, memory_order_release);
	b->head++;
	return true;
}

/* At most one boxful, so that busy posters cannot keep the ring's thread here. */
static bool deliver(struct mbox *b)
{
	struct mbox_msg m;

	ASSERT(!b->delivering);
	b->delivering = true;
	for (uint64_t i = 0; i <= b->mask; i++) {
		if (!take(b, &m)) {
			b->delivering = false;
			return false;
		}
		b->receive(b->arg, &m);
	}
	b->delivering = false;
	return true;
}

static void ring_the_bell(struct mbox *b)
{
	if (!atomic_exchange_explicit(&b->rung, true, memory_order_acq_rel))
		ring_bell_ring(b->bell);
}

static void rung(void *arg)
{
	struct mbox *b = arg;

	/* An exchange, not a store: it must read the posters' exchanges to see what they posted. */
	atomic_exchange_explicit(&b->rung, false, memory_order_acq_rel);
	if (deliver(b))
		ring_the_bell(b);
}

struct mbox *mbox_open(struct ring *r, uint32_t capacity,
	void (*receive)(void *arg, const struct mbox_msg *m), void *arg)
{
	struct mbox *b;
	size_t bytes = sizeof(*b) + (size_t)capacity * sizeof(struct cell);

	ASSERT(capacity >= 2 && (capacity & (capacity - 1)) == 0);
	ASSERT(receive != NULL);
	bytes = (bytes + LINE_BYTES - 1) & ~(size_t)(LINE_BYTES - 1);
	b = aligned_alloc(LINE_BYTES, bytes);
	if (b == NULL)
		return NULL;
	memset(b, 0, bytes);
	b->mask = capacity - 1;
	b->receive = receive;
	b->arg = arg;
	for (uint64_t i = 0; i < capacity; i++)
		atomic_init(&b->cells[i].turn, i);
	b->bell = ring_bell_open(r, rung, b);
	if (b->bell == NULL) {
		free(b);
		return NULL;
	}
	return b;
}

bool mbox_post(struct mbox *b, struct mbox_msg m)
{
	uint64_t at = atomic_load_explicit(&b->tail, memory_order_relaxed);
	struct cell *c;

	for (;;) {
		c = &b->cells[at & b->mask];
		uint64_t turn = atomic_load_explicit(&c->turn, memory_order_acquire);

		if (turn == at) {
			if (atomic_compare_exchange_weak_explicit(&b->tail, &at, at + 1,
				    memory_order_relaxed, memory_order_relaxed))
				break;
		} else if (turn < at) {
			atomic_fetch_add_explicit(&b->refused, 1, memory_order_relaxed);
			return false;
		} else {
			at = atomic_load_explicit(&b->tail, memory_order_relaxed);
		}
	}
	c->msg = m;
	atomic_store_explicit(&c->turn, at + 1, memory_order_release);
	ring_the_bell(b);
	return true;
}

uint64_t mbox_refused(const struct mbox *b)
{
	return atomic_load_explicit(&b->refused, memory_order_relaxed);
}

void mbox_close(struct ring *r, struct mbox *b)
{
	if (b == NULL)
		return;
	/* What was accepted is delivered: a message may carry the ownership of what it points to.
	 */
	while (deliver(b))
		;
	ring_bell_close(r, b->bell);
	free(b);
}
