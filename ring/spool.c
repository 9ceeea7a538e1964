/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A spool is a row of blocks of SPOOL_BLOCK_BYTES. Where block i lies follows from i alone: the
 * front ones in memory for good; the last one in memory while it is filled; between these, in the
 * queue until the last octet of it was written (its octets are read from there, so no read meets a
 * write of the same octets), and then in the file. A message that is a little larger than the front
 * therefore never reaches the disk.
 *
 * Blocks of the queue are written in order, several at once, and end in any order. What is read
 * back goes through two more blocks: the one that was read, and the one behind it, read ahead. The
 * first of them is taken before anything goes to the file, so that what was written can always be
 * read.
 *
 * Who calls back: streams_flush(), through the two deferred calls; nobody else. A spool without an
 * owner (ev == NULL) is only waiting for its operations; the last of them frees it.
 */
#include "ring/spool.h"

#define ROOM_AT (SPOOL_WRITES_MAX / 2) /* blocks in the queue at which there is room again */
#define READERS 2u
#define NO_BLOCK UINT64_MAX

struct block {
	struct list node; /* of spool.queue, or of nothing */
	struct ring_op op;
	struct spool *sp;
	uint64_t index; /* its octets are [index * SPOOL_BLOCK_BYTES, ...) of the spool */
	uint32_t done;	/* of them, written or read so far */
	_Alignas(64) uint8_t octets[SPOOL_BLOCK_BYTES];
};

struct spool {
	struct spools *core;
	const struct spool_events *ev; /* NULL: dropped */
	void *who;
	struct deferred room_later, ready_later;
	struct ring_fd fd; /* RING_FD_NONE: nothing had to leave memory yet */
	uint64_t bytes;
	struct list queue;	  /* of full blocks that are not in the file yet, oldest first */
	uint32_t queued, writing; /* blocks in it; of those, in flight */
	struct block *last;	  /* is being filled; a front one, too */
	struct block *reader[READERS];
	struct block *served; /* the reader whose octets were handed out last */
	uint64_t want;	      /* the block that spool_read() waits for; NO_BLOCK: none */
	uint8_t state;	      /* enum spool_res */
	uint8_t why;	      /* enum ring_res, of SPOOL_FAILED */
	bool full;	      /* and on_room() is owed */
	struct block *front[];
};

/* ---- where things are ---- */

static uint64_t front_max(const struct spools *ss)
{
	return ss->conf.spill_bytes / SPOOL_BLOCK_BYTES;
}

/* Blocks of a spool with so many octets, the one to begin with included. */
static uint64_t blocks_for(uint64_t bytes)
{
	return MAX_OF((uint64_t)1, (bytes + SPOOL_BLOCK_BYTES - 1) / SPOOL_BLOCK_BYTES);
}

/* Those of them that go through the queue to the file. */
static uint64_t filed_for(const struct spools *ss, uint64_t bytes)
{
	uint64_t n = blocks_for(bytes), stay = front_max(ss) + 1;

	return n > stay ? n - stay : 0;
}

static struct block *reader_of(const struct spool *sp, uint64_t index)
{
	for (unsigned i = 0; i < READERS; i++)
		if (sp->reader[i] && sp->reader[i]->index == index)
			return sp->reader[i];
	return NULL;
}

/* The block's octets in memory; NULL: they are in the file only. */
static struct block *find(const struct spool *sp, uint64_t index)
{
	struct block *b;

	if (index < front_max(sp->core) && index < blocks_for(sp->bytes))
		return sp->front[index];
	if (index == sp->last->index)
		return sp->last;
	LIST_FOR(it, &sp->queue)
	{
		b = CONTAINER_OF(it, struct block, node);
		if (b->index == index)
			return b;
	}
	b = reader_of(sp, index);
	return b && !ring_op_armed(&b->op) && b->done == SPOOL_BLOCK_BYTES ? b : NULL;
}

/* ---- blocks ---- */

static struct block *block_get(struct spool *sp)
{
	struct block *b = slab_get(&sp->core->blocks);

	if (b == NULL)
		return NULL;
	memset(b, 0, offsetof(struct block, octets));
	list_init(&b->node);
	b->sp = sp;
	b->index = NO_BLOCK;
	return b;
}

static void block_put(struct block *b)
{
	ASSERT(!ring_op_armed(&b->op));
	list_remove(&b->node);
	slab_put(&b->sp->core->blocks, b);
}

static void put_all(struct list *blocks)
{
	LIST_FOR_SAFE(it, blocks)
	{
		block_put(CONTAINER_OF(it, struct block, node));
	}
}

/* ---- the end ---- */

/* Nothing is armed: the file and the rest can go. */
static void spool_free(struct spool *sp)
{
	struct spools *ss = sp->core;

	if (ring_fd_ok(sp->fd))
		ring_close_fd(ss->streams->ring, &sp->fd);
	ss->disk_used -= filed_for(ss, sp->bytes) * SPOOL_BLOCK_BYTES;
	slab_put(&ss->spools, sp);
}

static void settle(struct spool *sp)
{
	bool armed = sp->writing > 0;

	for (unsigned i = 0; i < READERS; i++)
		armed = armed || sp->reader[i];
	if (sp->ev == NULL && !armed)
		spool_free(sp);
}

static bool goes_on(const struct spool *sp)
{
	return sp->ev && sp->state != SPOOL_FAILED;
}

/* Takes back what was not given to the kernel yet. */
static void drop_queue(struct spool *sp)
{
	LIST_FOR_SAFE(it, &sp->queue)
	{
		struct block *b = CONTAINER_OF(it, struct block, node);

		if (ring_op_armed(&b->op))
			continue;
		sp->queued--;
		block_put(b);
	}
}

/* Whoever waits is told by the next completion: there are writes in flight while there is no room,
 * and reads while one is waited for. */
static void fail(struct spool *sp, enum ring_res why)
{
	if (sp->state == SPOOL_FAILED)
		return;
	sp->state = SPOOL_FAILED;
	sp->why = (uint8_t)why;
	drop_queue(sp);
}

static void tell_room(struct spool *sp)
{
	if (sp->full && (sp->state == SPOOL_FAILED || sp->queued <= ROOM_AT))
		streams_defer(sp->core->streams, &sp->room_later);
}

static void tell_ready(struct spool *sp)
{
	if (sp->want != NO_BLOCK && (sp->state == SPOOL_FAILED || find(sp, sp->want)))
		streams_defer(sp->core->streams, &sp->ready_later);
}

/* ---- writing ---- */

static uint64_t place_in_file(const struct spool *sp, const struct block *b)
{
	return b->index * SPOOL_BLOCK_BYTES - sp->core->conf.spill_bytes + b->done;
}

static void write_on(struct spool *sp, struct block *b)
{
	sp->writing++;
	ring_file_write(sp->core->streams->ring, &b->op, sp->fd, b->octets + b->done,
		SPOOL_BLOCK_BYTES - b->done, place_in_file(sp, b));
}

static void write_waiting(struct spool *sp)
{
	LIST_FOR(it, &sp->queue)
	{
		struct block *b = CONTAINER_OF(it, struct block, node);

		if (sp->writing == SPOOL_WRITES_MAX)
			return;
		if (!ring_op_armed(&b->op))
			write_on(sp, b);
	}
}

static void write_done(struct ring_op *op, const struct ring_done *d)
{
	struct block *b = CONTAINER_OF(op, struct block, op);
	struct spool *sp = b->sp;

	sp->writing--;
	b->done += d->n;
	if (goes_on(sp) && d->res == RING_OK && b->done < SPOOL_BLOCK_BYTES) {
		write_on(sp, b); /* a part of it */
		return;
	}
	sp->queued--;
	block_put(b);
	if (sp->ev == NULL) {
		settle(sp);
		return;
	}
	if (d->res != RING_OK)
		fail(sp, d->res);
	if (goes_on(sp))
		write_waiting(sp);
	tell_room(sp);
}

static void run_room(struct deferred *d)
{
	struct spool *sp = CONTAINER_OF(d, struct spool, room_later);

	/* The owner may have added more meanwhile. */
	if (sp->state != SPOOL_FAILED && sp->queued > ROOM_AT)
		return;
	sp->full = false;
	sp->ev->on_room(sp->who);
}

/* ---- adding ---- */

/* `n` blocks to fill, and one to read back through if there is none. */
static bool take_blocks(struct spool *sp, uint64_t n, bool reader, struct list *fresh)
{
	struct block *b;

	list_init(fresh);
	if (reader && sp->reader[0] == NULL)
		sp->reader[0] = block_get(sp);
	if (reader && sp->reader[0] == NULL)
		return false;
	for (; n > 0; n--) {
		b = block_get(sp);
		if (b == NULL) {
			put_all(fresh);
			return false;
		}
		list_push_back(fresh, &b->node);
	}
	return true;
}

/* Everything that `n` more octets need, or nothing but the state that says why not. */
static bool make_room(struct spool *sp, uint64_t n, struct list *fresh)
{
	struct spools *ss = sp->core;
	uint64_t filed = filed_for(ss, sp->bytes + n),
		 more = (filed - filed_for(ss, sp->bytes)) * SPOOL_BLOCK_BYTES;
	uint64_t blocks = blocks_for(sp->bytes + n) - blocks_for(sp->bytes);
	enum ring_res res;

	if (more > ss->conf.disk_bytes - ss->disk_used ||
		!take_blocks(sp, blocks, filed > 0, fresh)) {
		sp->state = SPOOL_FULL;
		return false;
	}
	if (filed > 0 && !ring_fd_ok(sp->fd)) {
		res = ring_file_open(ss->streams->ring, ss->conf.directory, &sp->fd);
		if (res != RING_OK) {
			put_all(fresh);
			fail(sp, res);
			return false;
		}
		ss->files++;
	}
	ss->disk_used += more;
	return true;
}

/* The last block is full. */
static void next_block(struct spool *sp, struct list *fresh)
{
	struct block *b = CONTAINER_OF(list_pop_front(fresh), struct block, node);

	if (sp->last->index >= front_max(sp->core)) {
		sp->last->op.done = write_done;
		list_push_back(&sp->queue, &sp->last->node);
		sp->queued++;
	}
	b->index = sp->last->index + 1;
	if (b->index < front_max(sp->core))
		sp->front[b->index] = b;
	sp->last = b;
}

enum spool_res spool_add(struct spool *sp, struct span data)
{
	struct list fresh;

	if (sp->state != SPOOL_OK || !make_room(sp, data.n, &fresh))
		return (enum spool_res)sp->state;
	while (data.n > 0) {
		uint64_t used = sp->bytes - sp->last->index * SPOOL_BLOCK_BYTES;
		size_t n = MIN_OF(data.n, (size_t)(SPOOL_BLOCK_BYTES - used));

		if (n == 0) {
			next_block(sp, &fresh);
			continue;
		}
		memcpy(sp->last->octets + used, data.p, n);
		sp->bytes += n;
		data = span_drop(data, n);
	}
	write_waiting(sp);
	sp->full = sp->full || sp->queued >= SPOOL_WRITES_MAX;
	return SPOOL_OK;
}

/* ---- reading ---- */

static void read_on(struct spool *sp, struct block *b)
{
	ring_file_read(sp->core->streams->ring, &b->op, sp->fd, b->octets + b->done,
		SPOOL_BLOCK_BYTES - b->done, place_in_file(sp, b));
}

/* A block to read into, other than `b`; the second is taken when there is one to spare. */
static struct block *free_reader(struct spool *sp, const struct block *b)
{
	const struct slab *s = &sp->core->blocks;

	for (unsigned i = 0; i < READERS; i++) {
		struct block *have = sp->reader[i];

		if (have && have != b && !ring_op_armed(&have->op))
			return have;
	}
	if (sp->reader[1] == NULL && s->used < s->count_max)
		return sp->reader[1] = block_get(sp);
	return NULL;
}

static void read_done(struct ring_op *op, const struct ring_done *d);

static void read_block(struct spool *sp, struct block *b, uint64_t index)
{
	b->op.done = read_done;
	b->index = index;
	b->done = 0;
	read_on(sp, b);
}

/* Sees to it that the wanted block comes, as soon as there is something to read it into. */
static void fetch(struct spool *sp)
{
	struct block *b = reader_of(sp, sp->want);

	if (b) /* it is coming */
		return;
	b = free_reader(sp, sp->served);
	if (b == NULL && sp->served && !ring_op_armed(&sp->served->op))
		b = sp->served;
	if (b)
		read_block(sp, b, sp->want);
}

/* Octets of block `index` were handed out: is the next one in the file? */
static void read_ahead(struct spool *sp, uint64_t index)
{
	struct block *b;

	index++;
	if (index >= blocks_for(sp->bytes) || find(sp, index) || reader_of(sp, index))
		return;
	b = free_reader(sp, sp->served);
	if (b)
		read_block(sp, b, index);
}

static void drop_reader(struct spool *sp, struct block *b)
{
	for (unsigned i = 0; i < READERS; i++)
		if (sp->reader[i] == b)
			sp->reader[i] = NULL;
	block_put(b);
}

static void read_done(struct ring_op *op, const struct ring_done *d)
{
	struct block *b = CONTAINER_OF(op, struct block, op);
	struct spool *sp = b->sp;

	b->done += d->n;
	if (goes_on(sp) && d->res == RING_OK && b->done < SPOOL_BLOCK_BYTES) {
		read_on(sp, b); /* a part of it */
		return;
	}
	if (sp->ev == NULL) {
		drop_reader(sp, b);
		settle(sp);
		return;
	}
	/* EOF: the file is shorter than what was written to it. */
	if (d->res != RING_OK)
		fail(sp, d->res == RING_EOF ? RING_IO : d->res);
	tell_ready(sp);
	if (goes_on(sp) && sp->want != NO_BLOCK && !find(sp, sp->want))
		fetch(sp);
}

static void run_ready(struct deferred *d)
{
	struct spool *sp = CONTAINER_OF(d, struct spool, ready_later);

	sp->want = NO_BLOCK;
	sp->ev->on_ready(sp->who);
}

bool spool_read(struct spool *sp, uint64_t at, struct span *out)
{
	uint64_t index = at / SPOOL_BLOCK_BYTES, off = at % SPOOL_BLOCK_BYTES;
	struct block *b;

	ASSERT(at <= sp->bytes);
	sp->want = NO_BLOCK;
	list_remove(&sp->ready_later.node);
	if (at == sp->bytes || sp->state == SPOOL_FAILED)
		return false;
	b = find(sp, index);
	if (b == NULL) {
		sp->want = index;
		fetch(sp);
		return false;
	}
	if (b == sp->reader[0] || b == sp->reader[1])
		sp->served = b;
	*out = span_of(b->octets + off, (size_t)MIN_OF(SPOOL_BLOCK_BYTES - off, sp->bytes - at));
	read_ahead(sp, index);
	return true;
}

bool spool_reading(const struct spool *sp)
{
	return sp->want != NO_BLOCK;
}

/* ---- what is there ---- */

bool spool_full(const struct spool *sp)
{
	return sp->full;
}

uint64_t spool_bytes(const struct spool *sp)
{
	return sp->bytes;
}

bool spool_spilled(const struct spool *sp)
{
	return sp->bytes > sp->core->conf.spill_bytes;
}

enum spool_res spool_state(const struct spool *sp)
{
	return (enum spool_res)sp->state;
}

enum ring_res spool_why(const struct spool *sp)
{
	return (enum ring_res)sp->why;
}

uint64_t spool_front(const struct spool *sp)
{
	return MIN_OF(sp->bytes, sp->core->conf.spill_bytes);
}

void spool_copy_front(const struct spool *sp, uint64_t at, size_t n, uint8_t *to)
{
	ASSERT(at <= spool_front(sp) && n <= spool_front(sp) - at);
	while (n > 0) {
		uint64_t off = at % SPOOL_BLOCK_BYTES;
		size_t piece = MIN_OF(n, (size_t)(SPOOL_BLOCK_BYTES - off));

		memcpy(to, sp->front[at / SPOOL_BLOCK_BYTES]->octets + off, piece);
		to += piece;
		at += piece;
		n -= piece;
	}
}

/* ---- beginning and end ---- */

struct spool *spool_new(struct spools *ss, const struct spool_events *ev, void *who)
{
	struct spool *sp = slab_get(&ss->spools);

	if (sp == NULL)
		return NULL;
	memset(sp, 0, sizeof(*sp));
	sp->core = ss;
	sp->ev = ev;
	sp->who = who;
	sp->fd = RING_FD_NONE;
	sp->want = NO_BLOCK;
	list_init(&sp->queue);
	deferred_init(&sp->room_later, run_room);
	deferred_init(&sp->ready_later, run_ready);
	sp->last = block_get(sp);
	if (sp->last == NULL) {
		slab_put(&ss->spools, sp);
		return NULL;
	}
	sp->last->index = 0;
	sp->front[0] = sp->last;
	return sp;
}

void spool_drop(struct spool *sp)
{
	struct ring *r = sp->core->streams->ring;
	uint64_t front = MIN_OF(blocks_for(sp->bytes), front_max(sp->core));

	ASSERT(sp->ev);
	sp->ev = NULL;
	list_remove(&sp->room_later.node);
	list_remove(&sp->ready_later.node);
	if (sp->last->index >= front_max(sp->core))
		block_put(sp->last);
	for (uint64_t i = 0; i < front; i++)
		block_put(sp->front[i]);
	drop_queue(sp);
	LIST_FOR(it, &sp->queue)
	{
		ring_cancel(r, &CONTAINER_OF(it, struct block, node)->op);
	}
	for (unsigned i = 0; i < READERS; i++) {
		if (sp->reader[i] && ring_op_armed(&sp->reader[i]->op))
			ring_cancel(r, &sp->reader[i]->op);
		else if (sp->reader[i])
			drop_reader(sp, sp->reader[i]);
	}
	settle(sp);
}

bool spools_init(struct spools *ss, const struct spools_conf *conf, struct streams *streams)
{
	uint64_t blocks = conf->memory_bytes / sizeof(struct block);
	uint64_t front = blocks_for(conf->spill_bytes);

	memset(ss, 0, sizeof(*ss));
	ss->streams = streams;
	ss->conf = *conf;
	ss->conf.spill_bytes = front * SPOOL_BLOCK_BYTES;
	blocks = MIN_OF(MAX_OF(blocks, (uint64_t)1), (uint64_t)UINT32_MAX);
	if (!slab_init(&ss->spools, "spools", sizeof(struct spool) + front * sizeof(struct block *),
		    conf->spools_max))
		return false;
	if (slab_init(&ss->blocks, "spool-blocks", sizeof(struct block), (uint32_t)blocks))
		return true;
	slab_fini(&ss->spools);
	return false;
}

void spools_fini(struct spools *ss)
{
	ASSERT(spools_idle(ss) && ss->disk_used == 0);
	slab_fini(&ss->blocks);
	slab_fini(&ss->spools);
}

bool spools_idle(const struct spools *ss)
{
	return ss->spools.used == 0;
}
