/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Receive buffers: one provided-buffer ring that all multishot receives of this core share, with
 * counted leases.
 *
 * Incremental (IOU_PBUF_RING_INC, 6.12): the kernel fills a buffer piece by piece, front to back,
 * and says with each completion whether it goes on (F_BUF_MORE). Where a piece lies is ours to
 * count. Plain: one completion takes the whole buffer. In both, a buffer goes back when the kernel
 * is done with it, its last done() has returned and nobody keeps it. The tail is written by the
 * ring's thread alone (U21) and once per turn.
 *
 * Failure modes: -ENOMEM at open. A pool that runs dry ends receives with RING_NOBUFS.
 */
#include "ring/ring_int.h"

#include <errno.h>
#include <sys/mman.h>

#define BUFS_MAX 32768u /* the kernel's limit for one group */

void bufs_shape(const struct ring_conf *c, bool incremental, unsigned *count, unsigned *bytes)
{
	*count = c->buf_count;
	*bytes = c->buf_bytes;
	if (incremental || *bytes <= RING_PLAIN_BUF_BYTES)
		return;
	/* The same memory in small pieces: a short command takes a whole plain buffer. */
	for (; *bytes > RING_PLAIN_BUF_BYTES && *count < BUFS_MAX; *count *= 2)
		*bytes = (*bytes + 1) / 2;
	*bytes = RING_PLAIN_BUF_BYTES;
}

static void publish_later(struct ring *r, unsigned i)
{
	struct bufs *b = &r->bufs;

	b->buf[i] = (struct recv_buf){.kernel_is = true};
	io_uring_buf_ring_add(b->shared, b->mem + (size_t)i * b->bytes, b->bytes, (unsigned short)i,
		(int)b->count - 1, (int)b->pending);
	b->pending++;
	b->free++;
}

void bufs_publish(struct ring *r)
{
	if (r->bufs.pending == 0)
		return;
	io_uring_buf_ring_advance(r->bufs.shared, (int)r->bufs.pending);
	r->bufs.pending = 0;
}

static size_t shared_bytes(const struct bufs *b)
{
	return b->count * sizeof(struct io_uring_buf);
}

static void *pages(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, n, MADV_DONTFORK);
	return p;
}

int bufs_open(struct ring *r, const struct ring_conf *c)
{
	struct bufs *b = &r->bufs;
	struct io_uring_buf_reg reg = {.bgid = RING_BUF_GROUP};
	int err;

	b->incremental = r->features & RING_FEAT_PBUF_INC;
	bufs_shape(c, b->incremental, &b->count, &b->bytes);
	ASSERT(b->count <= BUFS_MAX);
	b->buf = calloc(b->count, sizeof(*b->buf));
	b->shared = pages(shared_bytes(b));
	b->mem = pages((size_t)b->count * b->bytes);
	if (!b->buf || !b->shared || !b->mem)
		return -ENOMEM;
	io_uring_buf_ring_init(b->shared);
	reg.ring_addr = (uintptr_t)b->shared;
	reg.ring_entries = b->count;
	reg.pad = b->incremental ? URING_PBUF_RING_INC : 0; /* `flags` in newer headers */
	err = io_uring_register_buf_ring(&r->u, &reg, 0);
	if (err)
		return err;
	b->registered = true;
	for (unsigned i = 0; i < b->count; i++)
		publish_later(r, i);
	return 0;
}

void bufs_close(struct ring *r)
{
	struct bufs *b = &r->bufs;

	for (unsigned i = 0; b->registered && i < b->count; i++)
		ASSERT(b->buf[i].refs == 0); /* a lease outlives the ring */
	if (b->registered)
		io_uring_unregister_buf_ring(&r->u, RING_BUF_GROUP);
	if (b->shared)
		munmap(b->shared, shared_bytes(b));
	if (b->mem)
		munmap(b->mem, (size_t)b->count * b->bytes);
	free(b->buf);
	*b = (struct bufs){0};
}

void bufs_take(struct ring *r, const struct seen *c, struct ring_done *d)
{
	struct bufs *b = &r->bufs;
	unsigned i = c->flags >> IORING_CQE_BUFFER_SHIFT;
	struct recv_buf *buf = &b->buf[i];

	ASSERT(i < b->count && buf->kernel_is);
	/* A completion without octets takes nothing out of an incremental buffer, whatever its
	 * flags say: kernels up to 6.17 leave F_BUF_MORE out at the end of input. */
	if (c->res <= 0 && b->incremental)
		return;
	d->buf = (uint16_t)i;
	d->buf_held = true;
	buf->refs++;
	if (c->res > 0) {
		ASSERT((uint32_t)c->res <= b->bytes - buf->off);
		d->data = span_of(b->mem + (size_t)i * b->bytes + buf->off, (size_t)c->res);
		buf->off += (uint32_t)c->res;
	}
	if (!b->incremental || !(c->flags & URING_CQE_F_BUF_MORE)) {
		buf->kernel_is = false;
		b->free--;
	}
}

void ring_buf_keep(struct ring *r, uint16_t buf)
{
	ASSERT(buf < r->bufs.count && r->bufs.buf[buf].refs > 0);
	r->bufs.buf[buf].refs++;
}

void ring_buf_drop(struct ring *r, uint16_t buf)
{
	struct recv_buf *b = &r->bufs.buf[buf];

	ASSERT(buf < r->bufs.count && b->refs > 0);
	if (--b->refs == 0 && !b->kernel_is)
		publish_later(r, buf);
}

unsigned ring_bufs_free(const struct ring *r)
{
	return r->bufs.free;
}

unsigned ring_bufs_total(const struct ring *r)
{
	return r->bufs.count;
}
