/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Registered buffers and zero-copy sends.
 *
 * Kernel behaviour relied on (U7): the first completion of a SEND_ZC carries F_MORE if and only if
 * a second one (F_NOTIF) follows, when the network has let go of the pages; that may take as long
 * as the peer does not read. By then the operation has let go of the file: its descriptor may be
 * closed, and closing it with a reset makes the notification come. Sends count against
 * RLIMIT_MEMLOCK: -ENOMEM, with or without a notification, is counted and the caller copies.
 * Registered buffers are locked memory too; if they cannot be had the ring runs without, counted
 * once per open.
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <sys/mman.h>

int zc_open(struct ring *r, const struct ring_conf *c)
{
	struct zc_pool *z = &r->zc;
	struct iovec *iov;
	int err;

	if (c->zc_count == 0 || !(r->features & RING_FEAT_SEND_ZC))
		return 0;
	ASSERT(c->zc_count <= UINT16_MAX);
	z->count = c->zc_count;
	z->bytes = c->zc_bytes;
	z->mem = mmap(NULL, (size_t)z->count * z->bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (z->mem == MAP_FAILED)
		z->mem = NULL;
	else
		madvise(z->mem, (size_t)z->count * z->bytes, MADV_DONTFORK);
	z->idle = calloc(z->count, sizeof(*z->idle));
	iov = calloc(z->count, sizeof(*iov));
	if (!z->mem || !z->idle || !iov) {
		free(iov);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < z->count; i++)
		iov[i] = (struct iovec){z->mem + (size_t)i * z->bytes, z->bytes};
	err = io_uring_register_buffers(&r->u, iov, z->count);
	free(iov);
	if (err) {
		STAT(r, zc_fallbacks, 1);
		zc_close(r);
		return 0;
	}
	z->registered = true;
	for (unsigned i = 0; i < z->count; i++)
		z->idle[z->idle_count++] = (uint16_t)(z->count - 1 - i);
	return 0;
}

void zc_close(struct ring *r)
{
	struct zc_pool *z = &r->zc;

	ASSERT(!z->registered || z->idle_count == z->count); /* a buffer outlives the ring */
	if (z->registered)
		io_uring_unregister_buffers(&r->u);
	if (z->mem)
		munmap(z->mem, (size_t)z->count * z->bytes);
	free(z->idle);
	*z = (struct zc_pool){0};
}

bool ring_zc_get(struct ring *r, struct ring_zcbuf *out)
{
	struct zc_pool *z = &r->zc;
	uint16_t i;

	if (z->idle_count == 0)
		return false;
	i = z->idle[--z->idle_count];
	*out = (struct ring_zcbuf){z->mem + (size_t)i * z->bytes, z->bytes, i};
	return true;
}

void ring_zc_put(struct ring *r, const struct ring_zcbuf *b)
{
	ASSERT(r->zc.idle_count < r->zc.count && b->idx < r->zc.count);
	r->zc.idle[r->zc.idle_count++] = b->idx;
}

void ring_zc_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t n)
{
	struct io_uring_sqe *s;

	ASSERT(n > 0 && n <= b->bytes);
	s = ring_arm(r, op, KIND_ZC_RECV, IORING_OP_RECV, fd.v, b->p);
	s->addr = (uintptr_t)b->p;
	s->len = n;
}

void finish_zc_recv(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->res > 0) {
		d->data = span_of(s->with, (size_t)c->res);
		STAT(r, recvs, 1);
		STAT(r, recv_bytes, c->res);
	} else if (c->res == 0) {
		d->res = RING_EOF;
	}
}

void ring_zc_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t off, uint32_t n)
{
	struct io_uring_sqe *s;

	ASSERT(n > 0 && off <= b->bytes && n <= b->bytes - off);
	STAT(r, zc_sends, 1);
	s = ring_arm(r, op, KIND_ZC_SEND, IORING_OP_SEND_ZC, fd.v, NULL);
	s->addr = (uintptr_t)b->p + off;
	s->len = n;
	s->msg_flags = MSG_NOSIGNAL | MSG_WAITALL;
	s->ioprio = IORING_RECVSEND_FIXED_BUF;
	s->buf_index = b->idx;
}

void finish_zc_send(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	if (c->flags & IORING_CQE_F_NOTIF) {
		d->res = RING_OK;
		d->n = 0;
		return;
	}
	STAT(r, send_bytes, d->n);
	if (d->more)
		ring_leave_fd(r, s);
	if (c->res == -ENOMEM)
		STAT(r, zc_fallbacks, 1);
}
