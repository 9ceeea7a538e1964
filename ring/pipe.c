/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Pooled pipes for splicing: made when first wanted, kept when they come back empty. Bytes inside
 * are counted here, so nobody has to ask the kernel.
 *
 * Kernel behaviour relied on: splice(2) cannot tell an empty socket from a full pipe, both are
 * EAGAIN: RING_AGAIN with octets inside means "empty the pipe first". A pipe holds pages, not
 * octets: small segments fill it early. F_SETPIPE_SZ is refused above pipe-max-size and when the
 * user's pipe pages are used up: smaller sizes are tried. IORING_OP_SPLICE runs in a worker thread
 * and never waits there (SPLICE_F_NONBLOCK), or idle ones would starve the rest (U12).
 * SIGPIPE is blocked by ring_open().
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <fcntl.h>

#define PIPE_BYTES_MIN (64u << 10) /* what a pipe has anyway */

int pipes_open(struct ring *r, const struct ring_conf *c)
{
	r->pipe_count = c->pipe_count_max;
	r->pipe_bytes = c->pipe_bytes;
	if (r->pipe_count == 0)
		return 0;
	r->pipe = calloc(r->pipe_count, sizeof(*r->pipe));
	if (!r->pipe)
		return -ENOMEM;
	for (unsigned i = r->pipe_count; i-- > 0;) {
		r->pipe[i] = (struct ring_pipe){.rd = -1, .wr = -1, .next = r->pipe_idle};
		r->pipe_idle = &r->pipe[i];
	}
	return 0;
}

static void unmake(struct ring_pipe *p)
{
	if (p->rd >= 0) {
		fd_close_raw(p->rd);
		fd_close_raw(p->wr);
	}
	p->rd = p->wr = -1;
	p->inside = 0;
}

static bool make(struct ring *r, struct ring_pipe *p)
{
	int fd[2], got;

	if (syscall(SYS_pipe2, fd, O_NONBLOCK | O_CLOEXEC) != 0)
		return false;
	for (size_t want = r->pipe_bytes; want > PIPE_BYTES_MIN; want /= 2)
		if (fcntl(fd[1], F_SETPIPE_SZ, (int)want) > 0)
			break;
	got = fcntl(fd[1], F_GETPIPE_SZ);
	p->rd = fd[0];
	p->wr = fd[1];
	p->cap = got > 0 ? (size_t)got : 4096;
	p->inside = 0;
	return true;
}

void pipes_close(struct ring *r)
{
	for (unsigned i = 0; r->pipe && i < r->pipe_count; i++)
		unmake(&r->pipe[i]);
	free(r->pipe);
	r->pipe = NULL;
}

struct ring_pipe *ring_pipe_get(struct ring *r)
{
	struct ring_pipe *p = r->pipe_idle;

	if (!p || (p->rd < 0 && !make(r, p)))
		return NULL;
	r->pipe_idle = p->next;
	p->next = NULL;
	return p;
}

void ring_pipe_put(struct ring *r, struct ring_pipe *p)
{
	struct ring_pipe **at = &r->pipe_idle;

	if (p->inside) {
		unmake(p);  /* another session's octets must never come out of it */
		while (*at) /* behind the made ones: they are got first */
			at = &(*at)->next;
	}
	p->next = *at;
	*at = p;
}

size_t ring_pipe_bytes(const struct ring_pipe *p)
{
	return p->inside;
}

size_t ring_pipe_room(const struct ring_pipe *p)
{
	return p->cap - p->inside;
}

static size_t splice_now(struct ring *r, int from, int to, size_t n, enum ring_res *res)
{
	ssize_t k;

	STAT(r, splices, 1);
	do
		k = splice(from, NULL, to, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	while (k < 0 && errno == EINTR);
	*res = k < 0 ? ring_res_of(errno) : k == 0 ? RING_EOF : RING_OK;
	return k > 0 ? (size_t)k : 0;
}

size_t ring_splice_in(
	struct ring *r, struct ring_fd from, struct ring_pipe *p, size_t n, enum ring_res *res)
{
	size_t k = splice_now(r, from.v, p->wr, n, res);

	p->inside += k;
	STAT(r, recv_bytes, k);
	return k;
}

size_t ring_splice_out(
	struct ring *r, struct ring_pipe *p, struct ring_fd to, size_t n, enum ring_res *res)
{
	size_t k;

	if (p->inside == 0) {
		*res = RING_AGAIN;
		return 0;
	}
	k = splice_now(r, p->rd, to.v, n, res);
	p->inside -= k;
	STAT(r, send_bytes, k);
	return k;
}

/* The slot counts the operation on the socket; the pipe is the pool's and closed by nobody else. */
static void arm_splice(struct ring *r, struct ring_op *op, enum op_kind kind, int sock, int from,
	int to, struct ring_pipe *p, size_t n)
{
	struct io_uring_sqe *s = ring_arm(r, op, kind, IORING_OP_SPLICE, sock, p);

	STAT(r, splices, 1);
	s->fd = to;
	s->splice_fd_in = from;
	s->off = s->splice_off_in = UINT64_MAX; /* neither end has a position */
	s->len = (uint32_t)MIN_OF(n, (size_t)INT32_MAX);
	s->splice_flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK;
}

void ring_splice_in_op(
	struct ring *r, struct ring_op *op, struct ring_fd from, struct ring_pipe *p, size_t n)
{
	arm_splice(r, op, KIND_SPLICE_IN, from.v, from.v, p->wr, p, n);
}

void ring_splice_out_op(
	struct ring *r, struct ring_op *op, struct ring_pipe *p, struct ring_fd to, size_t n)
{
	arm_splice(r, op, KIND_SPLICE_OUT, to.v, p->rd, to.v, p, n);
}

void finish_splice_in(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	((struct ring_pipe *)s->with)->inside += d->n;
	STAT(r, recv_bytes, d->n);
}

void finish_splice_out(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d)
{
	((struct ring_pipe *)s->with)->inside -= d->n;
	STAT(r, send_bytes, d->n);
}
