/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Receive buffers of the simulated kernel, with leases counted as ring/bufs.c does it.
 *
 * The kernel fills the first published buffer, piece by piece where they are incremental, whole
 * ones where they are plain. Its octets may be touched from the delivery of a piece on, for as long
 * as the buffer has a lease: before and afterwards they are poisoned, and overwritten when the last
 * lease goes. Every octet of the pool that nobody may read holds SIM_OVERWRITE.
 *
 * The memory outlives the ring, for the next world of this process.
 */
#include "tests/sim/kernel_int.h"

#define PLAIN_BUF_BYTES (16u << 10)
#define BUFS_MAX 32768u
#define GAP 64u

static struct {
	uint8_t *p;
	size_t n;
} spare;

static void shape(struct ring *r, const struct ring_conf *c)
{
	const struct sim_kernel_conf *kc = &r->k->conf;
	struct bufs *b = &r->bufs;

	b->incremental = r->features & RING_FEAT_PBUF_INC;
	b->count = kc->buf_count ? kc->buf_count : c->buf_count;
	b->bytes = kc->buf_bytes ? kc->buf_bytes : c->buf_bytes;
	if (b->incremental || b->bytes <= PLAIN_BUF_BYTES)
		return;
	for (; b->bytes > PLAIN_BUF_BYTES && b->count < BUFS_MAX; b->count *= 2)
		b->bytes = (b->bytes + 1) / 2;
	b->bytes = PLAIN_BUF_BYTES;
}

/* All of it holds SIM_OVERWRITE. */
static void take_memory(struct bufs *b, size_t n)
{
	if (spare.p != NULL && spare.n >= n) {
		b->mem = spare.p;
		b->mem_bytes = spare.n;
		spare.p = NULL;
	} else {
		b->mem = malloc(n);
		b->mem_bytes = n;
		ASSERT(b->mem);
		memset(b->mem, SIM_OVERWRITE, n);
	}
	POISON(b->mem, b->mem_bytes);
}

/* The larger one stays. */
static void give_memory(struct bufs *b)
{
	UNPOISON(b->mem, b->mem_bytes);
	if (spare.p != NULL && spare.n >= b->mem_bytes) {
		free(b->mem);
		return;
	}
	free(spare.p);
	spare.p = b->mem;
	spare.n = b->mem_bytes;
}

void bufs_open(struct ring *r, const struct ring_conf *c)
{
	struct bufs *b = &r->bufs;

	shape(r, c);
	ASSERT(b->count > 0 && b->count <= BUFS_MAX);
	b->stride = (b->bytes + GAP + 63) / 64 * 64;
	take_memory(b, b->count * b->stride);
	b->buf = calloc(b->count, sizeof(*b->buf));
	b->fifo = calloc(b->count, sizeof(*b->fifo));
	b->pending = calloc(b->count, sizeof(*b->pending));
	ASSERT(b->buf && b->fifo && b->pending);
	for (unsigned i = 0; i < b->count; i++) {
		b->buf[i].kernel_is = true;
		b->pending[b->pending_n++] = (uint16_t)i;
	}
	b->free = b->count;
}

void bufs_close(struct ring *r)
{
	struct bufs *b = &r->bufs;

	for (unsigned i = 0; i < b->count; i++)
		ASSERT(b->buf[i].refs == 0); /* a lease outlives the ring */
	give_memory(b);
	free(b->buf);
	free(b->fifo);
	free(b->pending);
}

static uint8_t *octets_of(const struct bufs *b, unsigned i, uint32_t off)
{
	return b->mem + i * b->stride + off;
}

void bufs_publish(struct ring *r)
{
	struct bufs *b = &r->bufs;

	for (uint32_t i = 0; i < b->pending_n; i++)
		b->fifo[(b->fifo_head + b->fifo_n++) % b->count] = b->pending[i];
	b->pending_n = 0;
}

bool bufs_left(const struct ring *r)
{
	return r->bufs.fifo_n > 0;
}

uint32_t bufs_piece(const struct ring *r)
{
	return r->bufs.bytes - r->bufs.fill;
}

void bufs_fill(struct ring *r, struct conn *c, uint32_t n, struct cqe *out)
{
	struct bufs *b = &r->bufs;
	uint16_t i = b->fifo[b->fifo_head];
	uint8_t *p = octets_of(b, i, b->fill);

	ASSERT(b->fifo_n > 0 && n > 0 && n <= bufs_piece(r));
	UNPOISON(p, n);
	conn_take(r->k, c, p, n);
	POISON(p, n);
	out->buf = i;
	out->has_buf = true;
	out->off = b->fill;
	out->n = n;
	b->fill += n;
	out->buf_full = !b->incremental || b->fill == b->bytes;
	if (!out->buf_full)
		return;
	b->fill = 0;
	b->fifo_head = (b->fifo_head + 1) % b->count;
	b->fifo_n--;
}

void bufs_deliver(struct ring *r, const struct cqe *c, struct ring_done *d)
{
	struct bufs *b = &r->bufs;
	struct buf *buf = &b->buf[c->buf];
	uint8_t *p = octets_of(b, c->buf, c->off);

	ASSERT(buf->kernel_is && c->off == buf->given);
	UNPOISON(p, c->n);
	d->buf = c->buf;
	d->buf_held = true;
	d->data = span_of(p, c->n);
	buf->refs++;
	buf->given += c->n;
	if (c->buf_full) {
		buf->kernel_is = false;
		b->free--;
	}
}

/* Nobody may read what was given out of it so far. */
static void clean(struct bufs *b, unsigned i)
{
	struct buf *buf = &b->buf[i];
	uint8_t *p = octets_of(b, i, buf->cleaned);
	uint32_t n = buf->given - buf->cleaned;

	memset(p, SIM_OVERWRITE, n);
	POISON(p, n);
	buf->cleaned = buf->given;
}

void ring_buf_keep(struct ring *r, uint16_t buf)
{
	ASSERT(buf < r->bufs.count && r->bufs.buf[buf].refs > 0);
	r->bufs.buf[buf].refs++;
}

void ring_buf_drop(struct ring *r, uint16_t i)
{
	struct bufs *b = &r->bufs;
	struct buf *buf = &b->buf[i];

	ASSERT(i < b->count && buf->refs > 0);
	if (--buf->refs > 0)
		return;
	clean(b, i);
	if (buf->kernel_is)
		return;
	*buf = (struct buf){.kernel_is = true};
	b->pending[b->pending_n++] = i;
	b->free++;
}

unsigned ring_bufs_free(const struct ring *r)
{
	return r->bufs.free;
}

unsigned ring_bufs_total(const struct ring *r)
{
	return r->bufs.count;
}
