/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The kernel implementation of ring.h: set-up, the table of armed operations, the turn.
 *
 * Kernel behaviour relied on: with DEFER_TASKRUN completions are made only inside io_uring_enter
 * with GETEVENTS, so every turn enters (U15); SUBMIT_ALL goes on behind a bad SQE; a completion
 * queue that overflows loses nothing (FEAT_NODROP), the rest is fetched by entering again (U5);
 * FEAT_SUBMIT_STABLE: msghdr and iovec are the kernel's own once their SQE is taken.
 *
 * Failure modes: ring_open() explains itself. io_uring_enter fails later only for want of memory
 * (-EAGAIN, -EBUSY: retried after collecting completions) or through a fault of ours (asserted).
 */
#include "ring/ring_int.h"
#include "ring/feat.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

#define SLOT_BITS 24
#define SLOT_MASK ((1u << SLOT_BITS) - 1)
_Static_assert(RING_OPS_MAX < SLOT_MASK, "a slot index is SLOT_BITS wide");
#define FD_TABLE_MAX (1u << 20) /* descriptors above are served, but not checked at close */

static const struct {
	void (*finish)(
		struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
} kinds[KIND_COUNT] = {
	[KIND_ACCEPT] = {finish_accept},
	[KIND_CONNECT] = {finish_connect},
	[KIND_RECV] = {finish_recv},
	[KIND_SEND] = {finish_send},
	[KIND_SPLICE_IN] = {finish_splice_in},
	[KIND_SPLICE_OUT] = {finish_splice_out},
	[KIND_ZC_RECV] = {finish_zc_recv},
	[KIND_ZC_SEND] = {finish_zc_send},
	[KIND_FILE_WRITE] = {finish_file_write},
	[KIND_FILE_READ] = {finish_file_read},
};

/* ---- clock ---- */

static uint64_t clock_us(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void read_clock(struct ring *r)
{
	r->now_us = clock_us(CLOCK_MONOTONIC);
	r->wall_us = clock_us(CLOCK_REALTIME);
}

uint64_t ring_now_us(const struct ring *r)
{
	return r->now_us;
}

uint64_t ring_wall_us(const struct ring *r)
{
	return r->wall_us;
}

/* splitmix64 (Steele, Lea, Flood 2014): enough for jitter and ids. */
uint64_t ring_random(struct ring *r)
{
	uint64_t z = r->random += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint32_t ring_features(const struct ring *r)
{
	return r->features;
}

struct ring_stats *ring_stats(struct ring *r)
{
	return &r->stats;
}

/* ---- submitting ---- */

static unsigned cq_ready(const struct ring *r)
{
	return io_uring_cq_ready(&r->u);
}

static bool cq_overflowed(const struct ring *r)
{
	return IO_URING_READ_ONCE(*r->u.sq.kflags) & IORING_SQ_CQ_OVERFLOW;
}

static unsigned sq_waiting(const struct ring *r)
{
	return r->sq_tail - io_uring_smp_load_acquire(r->u.sq.khead);
}

/* One io_uring_enter; returned receive buffers are published first, so that a receive which is
 * armed in the same turn finds them. */
static int enter(struct ring *r, unsigned wait, unsigned flags, struct __kernel_timespec *ts)
{
	struct io_uring_getevents_arg arg = {.sigmask_sz = _NSIG / 8, .ts = (uintptr_t)ts};
	int n;

	bufs_publish(r);
	io_uring_smp_store_release(r->u.sq.ktail, r->sq_tail);
	STAT(r, enters, 1);
	n = io_uring_enter2((unsigned)r->u.enter_ring_fd, sq_waiting(r), wait,
		flags | r->enter_flags, (sigset_t *)(void *)&arg, sizeof(arg));

	unsigned head = io_uring_smp_load_acquire(r->u.sq.khead);
	STAT(r, sqes, head - r->sq_taken);
	r->sq_taken = head;
	if (head == r->sq_tail)
		r->arena_used = 0;
	return n < 0 ? n : 0;
}

/* True when the call failed for want of memory or room and is worth repeating. Signals (U17) and a
 * passed deadline just end the wait. Anything else is a fault of ours: another thread (-EEXIST), a
 * forked child, a closed ring. -EBADR: completions were lost, nothing can be trusted any more. */
static bool enter_is_short(int err)
{
	switch (-err) {
	case 0:
	case ETIME:
	case EINTR:
		return false;
	case EAGAIN:
	case EBUSY:
	case ENOMEM:
		return true;
	}
	fprintf(stderr, "ringpost: io_uring_enter: %s\n", strerror(-err));
	ASSERT(!"io_uring_enter failed");
	return false;
}

static void got_grow(struct ring *r)
{
	unsigned used = r->got_tail - r->got_head;

	if (r->got_head) {
		memmove(r->got, r->got + r->got_head, used * sizeof(*r->got));
		r->got_head = 0;
		r->got_tail = used;
		return;
	}
	r->got = realloc(r->got, 2 * sizeof(*r->got) * r->got_cap);
	ASSERT(r->got);
	r->got_cap *= 2;
}

/* Copies what is in the completion queue behind what was collected before. */
static void reap(struct ring *r)
{
	struct io_uring_cq *cq = &r->u.cq;
	unsigned head = *cq->khead, tail = io_uring_smp_load_acquire(cq->ktail);

	if (r->got_head == r->got_tail)
		r->got_head = r->got_tail = 0; /* the same few cache lines every turn */
	STAT(r, cqes, tail - head);
	for (; head != tail; head++) {
		const struct io_uring_cqe *c = &cq->cqes[head & *cq->kring_mask];

		if (UNLIKELY(r->got_tail == r->got_cap))
			got_grow(r);
		r->got[r->got_tail++] = (struct seen){c->user_data, c->res, c->flags};
	}
	io_uring_smp_store_release(cq->khead, head);
}

void ring_push(struct ring *r)
{
	while (sq_waiting(r)) {
		if (!enter_is_short(enter(r, 0, 0, NULL)))
			continue;
		reap(r); /* delivered by the next turn */
		enter(r, 0, IORING_ENTER_GETEVENTS, NULL);
		sched_yield();
	}
}

void ring_room(struct ring *r)
{
	if (UNLIKELY(sq_waiting(r) == *r->u.sq.kring_entries))
		ring_push(r);
}

struct io_uring_sqe *ring_sqe(struct ring *r)
{
	struct io_uring_sqe *s;

	ring_room(r);
	s = &r->u.sq.sqes[r->sq_tail++ & *r->u.sq.kring_mask];
	memset(s, 0, sizeof(*s));
	return s;
}

/* ---- the table of armed operations ---- */

uint64_t ring_user_data(const struct ring *r, uint32_t slot)
{
	const struct op_slot *s = &r->slot[slot];

	return (uint64_t)slot << 40 | (uint64_t)s->gen << 8 | s->kind;
}

static uint32_t slot_take(struct ring *r)
{
	uint32_t i = r->slot_free;

	if (i) {
		r->slot_free = r->slot[i].next_free;
	} else {
		ASSERT(r->slot_fresh < r->ops_max);
		i = ++r->slot_fresh; /* memory of slots never used stays untouched */
	}
	r->ops_armed++;
	return i;
}

void ring_leave_fd(struct ring *r, struct op_slot *s)
{
	if ((uint32_t)s->fd < r->fd_ops_count)
		r->fd_ops[s->fd]--;
	s->fd = -1;
}

static void slot_give(struct ring *r, uint32_t i)
{
	struct op_slot *s = &r->slot[i];

	ring_leave_fd(r, s);
	s->op->slot = 0;
	s->op = NULL;
	s->gen = (s->gen + 1) & SLOT_MASK;
	s->next_free = r->slot_free;
	r->slot_free = i;
	r->ops_armed--;
}

struct io_uring_sqe *ring_arm(
	struct ring *r, struct ring_op *op, enum op_kind kind, uint8_t opcode, int fd, void *with)
{
	struct io_uring_sqe *sqe;
	struct op_slot *s;

	ASSERT(!ring_op_armed(op) && op->done);
	ASSERT(fd >= 0);
	op->slot = slot_take(r);
	s = &r->slot[op->slot];
	s->op = op;
	s->with = with;
	s->fd = fd;
	s->kind = (uint8_t)kind;
	if ((uint32_t)fd < r->fd_ops_count)
		r->fd_ops[fd]++;
	sqe = ring_sqe(r);
	sqe->opcode = opcode;
	sqe->fd = fd;
	sqe->user_data = ring_user_data(r, op->slot);
	return sqe;
}

void ring_cancel(struct ring *r, struct ring_op *op)
{
	struct io_uring_sqe *sqe;

	if (!ring_op_armed(op))
		return;
	STAT(r, cancels, 1);
	sqe = ring_sqe(r);
	sqe->opcode = IORING_OP_ASYNC_CANCEL;
	sqe->fd = -1;
	sqe->addr = ring_user_data(r, op->slot);
	sqe->user_data = KIND_CANCEL;
}

/* ---- the turn ---- */

/* A completion nobody waits for. What it carries must not leak. */
static void drop_stale(struct ring *r, const struct seen *c)
{
	struct ring_done d = {0};

	STAT(r, stale, 1);
	if (c->flags & IORING_CQE_F_BUFFER) {
		bufs_take(r, c, &d);
		if (d.buf_held)
			ring_buf_drop(r, d.buf);
	}
	if ((c->user_data & 0xff) == KIND_ACCEPT && c->res >= 0)
		fd_close_raw(c->res);
}

static void deliver_one(struct ring *r, const struct seen *c)
{
	uint32_t i = (uint32_t)(c->user_data >> 40),
		 gen = (uint32_t)(c->user_data >> 8) & SLOT_MASK;
	unsigned kind = c->user_data & 0xff;
	struct ring_op *op;
	struct ring_done d = {
		.res = c->res < 0 ? ring_res_of(-c->res) : RING_OK,
		.more = c->flags & IORING_CQE_F_MORE,
		.n = c->res < 0 ? 0 : (uint32_t)c->res,
		.fd = RING_FD_NONE,
	};

	if (c->user_data == KIND_CANCEL)
		return;
	if (i == 0 || i > r->slot_fresh || !r->slot[i].op || r->slot[i].gen != gen ||
		kind >= KIND_COUNT) {
		drop_stale(r, c);
		return;
	}
	op = r->slot[i].op;
	if (kinds[kind].finish)
		kinds[kind].finish(r, &r->slot[i], c, &d);
	if (!d.more)
		slot_give(r, i); /* before done(): it may arm the operation again, or free it */
	op->done(op, &d);
	if (d.buf_held)
		ring_buf_drop(r, d.buf);
}

/* Fetches everything, the overflown rest included, up to a bound that keeps a flood from holding
 * up delivery. */
static void collect(struct ring *r)
{
	reap(r);
	if (LIKELY(!cq_overflowed(r)))
		return;
	STAT(r, overflows, 1);
	while (cq_overflowed(r) && r->got_tail < 4 * *r->u.cq.kring_entries) {
		if (enter_is_short(enter(r, 0, IORING_ENTER_GETEVENTS, NULL)))
			break;
		reap(r);
	}
}

static void submit_and_wait(struct ring *r, uint64_t deadline_us)
{
	bool busy = r->got_head != r->got_tail || cq_ready(r) || cq_overflowed(r);
	struct __kernel_timespec ts, *limit = NULL;
	unsigned wait = !busy && deadline_us > 0;

	if (wait && deadline_us != UINT64_MAX) {
		uint64_t now = clock_us(CLOCK_MONOTONIC);

		wait = deadline_us > now;
		ts.tv_sec = (long long)((deadline_us - now) / 1000000u);
		ts.tv_nsec = (long long)((deadline_us - now) % 1000000u * 1000u);
		limit = wait ? &ts : NULL;
	}
	/* Short of memory: what was not taken stays queued for the next turn. */
	(void)enter_is_short(enter(r, wait, IORING_ENTER_GETEVENTS, limit));
}

void ring_turn(struct ring *r, uint64_t deadline_us)
{
	ASSERT(!r->delivering);
	submit_and_wait(r, deadline_us);
	read_clock(r);
	collect(r);
	r->delivering = true;
	for (unsigned n = r->got_tail - r->got_head; n > 0; n--) {
		struct seen c = r->got[r->got_head++]; /* a copy: done() may move the array */

		deliver_one(r, &c);
	}
	r->delivering = false;
}

/* ---- opening and closing ---- */

static int setup(struct ring *r, const struct ring_conf *c, uint32_t features)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
			 IORING_SETUP_SINGLE_ISSUER,
		.cq_entries = c->cq_entries,
	};
	int err;

	p.flags |=
		features & RING_FEAT_DEFER ? IORING_SETUP_DEFER_TASKRUN : IORING_SETUP_COOP_TASKRUN;
	err = io_uring_queue_init_params(c->sq_entries, &r->u, &p);
	if (err)
		return err;
	/* A child must not reach these pages: what it queues, we would submit (U16). */
	io_uring_ring_dontfork(&r->u);
	for (unsigned i = 0; i < *r->u.sq.kring_entries; i++)
		r->u.sq.array[i] = i;
	r->features = features;
	r->enter_flags = IORING_ENTER_EXT_ARG;
	if (features & RING_FEAT_REG_FD) {
		if (io_uring_register_ring_fd(&r->u) == 1)
			r->enter_flags |= IORING_ENTER_REGISTERED_RING;
		else
			r->features &= ~RING_FEAT_REG_FD;
	}
	if (features & RING_FEAT_NO_IOWAIT)
		r->enter_flags |= URING_ENTER_NO_IOWAIT;
	return 0;
}

static int tables(struct ring *r, const struct ring_conf *c)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_max > FD_TABLE_MAX)
		lim.rlim_max = FD_TABLE_MAX;
	r->fd_ops_count = (uint32_t)lim.rlim_max;
	r->ops_max = c->ops_max;
	r->got_cap = c->cq_entries;
	r->got = malloc(r->got_cap * sizeof(*r->got));
	r->slot = calloc(c->ops_max + 1u, sizeof(*r->slot));
	r->fd_ops = calloc(r->fd_ops_count, sizeof(*r->fd_ops));
	r->arena = malloc(RING_ARENA_BYTES);
	if (!r->got || !r->slot || !r->fd_ops || !r->arena)
		return -ENOMEM;
	if (getrandom(&r->random, sizeof(r->random), GRND_NONBLOCK) != sizeof(r->random))
		r->random = clock_us(CLOCK_REALTIME);
	return 0;
}

/* io_uring_queue_exit() with the C library's munmap(), of whole pages: ThreadSanitizer must see
 * them go, or it takes the next ring at that address for the same memory. */
static void unmap(void *p, size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	munmap(p, (n + page - 1) / page * page);
}

/* Not looked at by ThreadSanitizer: liburing maps the ring by raw system calls, so it may still
 * take this memory for what another thread had mapped at the same address a moment ago. */
__attribute__((no_sanitize("thread"))) void ring_queue_exit(struct io_uring *u)
{
	unmap(u->sq.sqes, *u->sq.kring_entries * sizeof(struct io_uring_sqe));
	if (u->cq.ring_ptr != u->sq.ring_ptr)
		unmap(u->cq.ring_ptr, u->cq.ring_sz);
	unmap(u->sq.ring_ptr, u->sq.ring_sz);
	if (u->enter_ring_fd != u->ring_fd)
		io_uring_unregister_ring_fd(u);
	fd_close_raw(u->ring_fd);
}

static void discard(struct ring *r)
{
	zc_close(r);
	pipes_close(r);
	bufs_close(r);
	if (r->u.sq.sqes)
		ring_queue_exit(&r->u);
	free(r->got);
	free(r->slot);
	free(r->fd_ops);
	free(r->arena);
	free(r);
}

/* splice(2) to a socket whose peer is gone raises SIGPIPE and has no flag against it; nor has a
 * write beyond RLIMIT_FSIZE against SIGXFSZ where this thread does it and not a worker. */
static void block_signals(void)
{
	sigset_t s;

	sigemptyset(&s);
	sigaddset(&s, SIGPIPE);
	sigaddset(&s, SIGXFSZ);
	pthread_sigmask(SIG_BLOCK, &s, NULL);
}

static struct ring *build(const struct ring_conf *conf, uint32_t features, int *err)
{
	struct ring *r = calloc(1, sizeof(*r));

	*err = -ENOMEM;
	if (!r)
		return NULL;
	*err = tables(r, conf);
	if (!*err)
		*err = setup(r, conf, features);
	if (!*err)
		*err = bufs_open(r, conf);
	if (!*err)
		*err = pipes_open(r, conf);
	if (!*err)
		*err = zc_open(r, conf);
	if (!*err)
		return r;
	discard(r);
	return NULL;
}

struct ring *ring_open(const struct ring_conf *conf, struct ring_barrier *why)
{
	const struct timespec pause = {.tv_nsec = RING_RETRY_NS};
	struct ring *r = NULL;
	uint32_t features;
	int err = -ENOMEM;

	ASSERT(conf->ops_max > 0 && conf->ops_max <= RING_OPS_MAX);
	ASSERT(conf->buf_count > 0 && (conf->buf_count & (conf->buf_count - 1)) == 0);
	if (!feat_probe(&features, why))
		return NULL;
	for (unsigned i = 0; i < RING_RETRIES && err == -ENOMEM; i++) {
		r = build(conf, features & ~conf->features_off, &err);
		if (err == -ENOMEM)
			nanosleep(&pause, NULL);
	}
	if (!r) {
		feat_explain(-err, conf, why);
		return NULL;
	}
	block_signals();
	read_clock(r);
	return r;
}

void ring_close(struct ring *r)
{
	/* Bells that were just closed still have their read to take back. */
	while (r->ops_armed && r->ops_armed == r->bells_closing)
		ring_turn(r, UINT64_MAX);
	ASSERT(r->ops_armed == 0);
	discard(r);
}
