/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Wakes a ring from any thread or signal handler: an eventfd that the ring reads with a one-shot
 * IORING_OP_READ, armed again after each ring. Rings between the completion and the next read add
 * up in the eventfd, so none is lost and a storm costs one completion per turn (U19).
 *
 * The eventfd is a blocking one: io_uring answers -EAGAIN at once for a non-blocking file instead
 * of waiting. write(2) could block only with 2^64 - 2 rings outstanding.
 *
 * Ownership: the bell belongs to the ring; after ring_bell_close() it lives until its read has
 * been taken back, which ring_close() waits for.
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <sys/eventfd.h>

struct ring_bell {
	struct ring *r; /* borrowed */
	struct ring_op op;
	void (*rung)(void *arg);
	void *arg;
	uint64_t count; /* written by the kernel */
	unsigned order; /* makes what the ringer wrote before visible to rung() */
	int fd;
	bool closing;
};

static void listen_for_rings(struct ring_bell *b)
{
	struct io_uring_sqe *s = ring_arm(b->r, &b->op, KIND_BELL, IORING_OP_READ, b->fd, NULL);

	s->addr = (uintptr_t)&b->count;
	s->len = sizeof(b->count);
}

static void on_ring(struct ring_op *op, const struct ring_done *d)
{
	struct ring_bell *b = CONTAINER_OF(op, struct ring_bell, op);

	if (!b->closing) {
		listen_for_rings(b);
		(void)__atomic_load_n(&b->order, __ATOMIC_ACQUIRE);
		b->rung(b->arg); /* may close the bell */
		return;
	}
	b->r->bells_closing--;
	fd_close_raw(b->fd);
	free(b);
}

struct ring_bell *ring_bell_open(struct ring *r, void (*rung)(void *arg), void *arg)
{
	struct ring_bell *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->fd = (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC);
	if (b->fd < 0) {
		free(b);
		return NULL;
	}
	b->r = r;
	b->rung = rung;
	b->arg = arg;
	b->op.done = on_ring;
	listen_for_rings(b);
	return b;
}

void ring_bell_ring(struct ring_bell *b)
{
	const uint64_t one = 1;
	int saved = errno; /* of the code that a signal handler interrupted */

	__atomic_fetch_add(&b->order, 1, __ATOMIC_RELEASE);
	while (syscall(SYS_write, b->fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	errno = saved;
}

void ring_bell_close(struct ring *r, struct ring_bell *b)
{
	ASSERT(b->r == r && !b->closing);
	b->closing = true;
	r->bells_closing++;
	ring_cancel(r, &b->op);
}
