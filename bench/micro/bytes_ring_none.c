/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What a ring without a kernel has not: listeners, pipes, registered buffers, files. ring.h lets a
 * ring say so when it is asked for one; what works on one can then not be reached, and asserts.
 */
#include "bench/micro/bytes_ring.h"

#define UNREACHABLE(what) base_assert_failed("no " what " was given out", __FILE__, __LINE__)

void ring_accept(struct ring *r, struct ring_op *op, struct ring_fd listener)
{
	UNREACHABLE("listener");
}

void ring_poll(struct ring *r, struct ring_op *op, struct ring_fd fd, short events)
{
	UNREACHABLE("pipe"); /* only those who splice wait for a socket to be ready */
}

/* ---- pipes ---- */

struct ring_pipe *ring_pipe_get(struct ring *r)
{
	return NULL;
}

void ring_pipe_put(struct ring *r, struct ring_pipe *p)
{
	UNREACHABLE("pipe");
}

size_t ring_pipe_bytes(const struct ring_pipe *p)
{
	UNREACHABLE("pipe");
}

size_t ring_pipe_room(const struct ring_pipe *p)
{
	UNREACHABLE("pipe");
}

size_t ring_splice_in(
	struct ring *r, struct ring_fd from, struct ring_pipe *p, size_t n, enum ring_res *res)
{
	UNREACHABLE("pipe");
}

size_t ring_splice_out(
	struct ring *r, struct ring_pipe *p, struct ring_fd to, size_t n, enum ring_res *res)
{
	UNREACHABLE("pipe");
}

void ring_splice_in_op(
	struct ring *r, struct ring_op *op, struct ring_fd from, struct ring_pipe *p, size_t n)
{
	UNREACHABLE("pipe");
}

void ring_splice_out_op(
	struct ring *r, struct ring_op *op, struct ring_pipe *p, struct ring_fd to, size_t n)
{
	UNREACHABLE("pipe");
}

/* ---- registered buffers ---- */

bool ring_zc_get(struct ring *r, struct ring_zcbuf *out)
{
	return false;
}

void ring_zc_put(struct ring *r, const struct ring_zcbuf *b)
{
	UNREACHABLE("registered buffer");
}

void ring_zc_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t n)
{
	UNREACHABLE("registered buffer");
}

void ring_zc_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t off, uint32_t n)
{
	UNREACHABLE("registered buffer");
}

/* ---- files ---- */

enum ring_res ring_file_open(struct ring *r, const char *dir, struct ring_fd *out)
{
	return RING_NOENT;
}

void ring_file_write(struct ring *r, struct ring_op *op, struct ring_fd fd, const void *p,
	uint32_t n, uint64_t at)
{
	UNREACHABLE("file");
}

void ring_file_read(
	struct ring *r, struct ring_op *op, struct ring_fd fd, void *p, uint32_t n, uint64_t at)
{
	UNREACHABLE("file");
}
