/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Private to the simulated kernel: its memory, its table of operations, how an operation becomes
 * due, runs and completes.
 *
 * An operation goes through these steps. Armed: it has a row and waits for the next turn. Seen: the
 * kernel knows it; whenever something happened to its file, op_look() asks its kind whether it
 * could move, and puts it among the ready ones. The turn picks one of what could happen, by chance;
 * an operation that is picked runs one step, which may queue completions. Ended: its last
 * completion is queued, nothing moves it any more; its row is free once that is delivered.
 *
 * The ring's side (what ring.h counts: leases, free buffers, octets in a pipe) moves on when a
 * completion is delivered, the kernel's side when the operation runs. Both are kept apart, because
 * the engine must never see the one through the other.
 *
 * Rows move when the table grows, that is, in ring.h calls only, never while the kernel runs.
 */
#ifndef TESTS_SIM_KERNEL_INT_H
#define TESTS_SIM_KERNEL_INT_H

#include "tests/sim/kernel.h"

/* As ring/slab.c does it, for gcc and clang. */
#if defined(__SANITIZE_ADDRESS__)
#define SIM_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_POISONS 1
#endif
#endif

#ifdef SIM_POISONS
#include <sanitizer/asan_interface.h>
#define POISON(p, n) ASAN_POISON_MEMORY_REGION(p, n)
#define UNPOISON(p, n) ASAN_UNPOISON_MEMORY_REGION(p, n)
#else
#define POISON(p, n) ((void)(p), (void)(n))
#define UNPOISON(p, n) ((void)(p), (void)(n))
#endif

#define SIM_NEVER UINT64_MAX
#define SIM_IOV_MAX 64u
#define SIM_OVERWRITE 0xa5
#define SIM_DIAL_TIMEOUT_US (130ull * 1000000u)

/* ---- files: what operations hang on ---- */

struct file {
	uint32_t first;	   /* row of the first operation that the kernel has seen; 0 = none */
	uint32_t rows;	   /* operations that have not ended, as the ring counts */
	uint32_t armed;	   /* of those, the ones that keep the descriptor open (U1) */
	uint32_t readers;  /* of those, the ones that take octets from it */
	uint32_t writers;  /* and the ones that give it octets (U8) */
	uint32_t rec_sock; /* for faults */
};

/* One direction of a connection. */
struct queue {
	uint8_t *p;	  /* owns; a ring of conf.send_queue_bytes, NULL until it is used */
	uint32_t head, n; /* octets inside: from p[head] on */
	uint32_t arrived; /* of those; the rest is on its way */
	uint64_t read;	  /* octets that the reader has taken so far */
	uint64_t hold_us; /* the network is slow until then */
	uint32_t moving;  /* place in k->moving, plus one; 0 = nothing is on its way */
	bool fin, rst;	  /* sent behind the octets */
	bool fin_arrived;
};

/* A connection, or a socket that is yet to become one. The engine's side is called near. */
struct conn {
	struct file file; /* the engine's socket */
	uint32_t index;
	int fd;		 /* the engine's number; -1: not accepted yet, or closed */
	uint32_t next;	 /* in a backlog: index + 1; 0 = last */
	uint32_t who;	 /* see rec_sock */
	uint32_t number; /* of the listener, where accepted */
	struct queue in, out;
	struct ring_addr peer, local;
	struct rec_veil *veil; /* until there is a rec_sock; owns */
	bool dialled, connected, queued; /* queued: in a backlog */
	bool far_there;			 /* until far_free() */
	bool far_closed, far_dead, far_was_reset;
	bool linger, dead, cut; /* cut: the network passes nothing any more */
	uint8_t err;		/* pending: the next call that asks gets it, once */
	uint8_t err_later;
	uint64_t err_us; /* when err_later comes up */
};

struct listener {
	struct file file;
	uint32_t number;
	uint32_t first, last; /* the backlog: conn.index + 1 */
};

struct server {
	struct ring_addr at;
	uint32_t who;
	enum far_dial mode;
	uint32_t first, last;
};

/* An ordinary file. */
struct disk_file {
	struct file file;
	uint32_t index;
	uint8_t *p; /* owns */
	uint64_t n, cap;
};

enum fd_kind { FD_FREE, FD_CONN, FD_LISTENER, FD_FILE };

struct fd_row {
	enum fd_kind kind;
	uint32_t index;
};

/* ---- operations ---- */

enum op_kind {
	OP_ACCEPT,
	OP_CONNECT,
	OP_RECV,
	OP_SEND,
	OP_POLL,
	OP_SPLICE_IN,
	OP_SPLICE_OUT,
	OP_ZC_RECV,
	OP_ZC_SEND,
	OP_BELL,
	OP_FILE_WRITE,
	OP_FILE_READ,
	OP_KIND_COUNT
};

struct row {
	struct ring_op *op; /* borrowed; NULL = free */
	struct file *file;
	struct conn *conn;
	void *with;    /* listener, pipe, bell, address; octets of a file operation */
	uint32_t next; /* of the same file, or the next free one */
	uint32_t gen;
	uint32_t ready; /* place in k->ready, plus one */
	uint8_t kind;	/* enum op_kind */
	bool seen, ended;
	bool fresh;	    /* a receive that has not looked for a buffer yet */
	bool lost;	    /* FAULT_LOST_WAKEUP */
	bool counted;	    /* a zero-copy send whose first completion is queued */
	bool left;	    /* and delivered: the descriptor is not in use any more */
	uint64_t hold_us;   /* not before */
	uint64_t cancel_us; /* taken back from then on */
	uint64_t due_us;    /* connect: times out; zero-copy: notification, file: effect not before */
	uint32_t cap, got;  /* receive: octets it may give, octets given */
	uint32_t n;	    /* splice, zero-copy, file: octets asked; poll: events */
	uint32_t off;	    /* zero-copy send: where in the buffer */
	uint16_t buf;	    /* zero-copy: which */
	uint64_t sum;	    /* zero-copy, file write: of the octets lent */
	uint64_t at;	    /* file: place */
	uint64_t mark;	    /* zero-copy: place of the last octet in the stream */
	struct iovec *iov;  /* owns; kept for the next use of the row */
	uint32_t iov_count, iov_at;
	size_t iov_off; /* of iov[iov_at], taken */
	uint64_t taken; /* octets so far */
};

struct cqe {
	uint32_t row, n, off;
	int fd;
	uint16_t buf;
	uint8_t res; /* enum ring_res */
	bool more, has_buf, buf_full;
};

/* ---- the ring's pools ---- */

struct buf {
	uint32_t refs;
	uint32_t given;	  /* octets delivered so far */
	uint32_t cleaned; /* of those, overwritten again */
	bool kernel_is;	  /* the kernel still fills it, as far as the ring knows */
};

struct bufs {
	uint8_t *mem; /* owns; buffer i at i * stride, a gap behind each */
	size_t stride, mem_bytes;
	struct buf *buf; /* owns, as the rest */
	uint16_t *fifo,
		*pending; /* buffers to fill, first at fifo[head]; returned, not published */
	uint32_t fifo_head, fifo_n, pending_n, fill;
	unsigned count, bytes, free;
	bool incremental;
};

struct ring_pipe {
	struct ring_pipe *next;
	size_t cap, inside; /* inside: as the ring counts */
	uint8_t *p;	    /* owns; the kernel's octets: p[head .. head + n) */
	size_t head, n;
	uint16_t *page; /* octets in each page, a ring of cap / SIM_PAGE */
	uint32_t page_head, pages;
	uint32_t armed;
	bool made;
};

struct zc_pool {
	uint8_t *mem; /* owns */
	size_t stride;
	uint16_t *idle;
	uint32_t *dirty; /* octets at the front of each that may hold anything */
	uint8_t *lent;	 /* operations armed on each; ZC_IDLE when nobody has it */
	unsigned idle_count, count, bytes;
};

struct ring {
	struct sim_kernel *k;
	uint32_t features;
	unsigned ops_max;
	bool delivering;
	struct bufs bufs;
	struct ring_pipe *pipe, *pipe_idle;
	unsigned pipe_count;
	size_t pipe_bytes;
	struct zc_pool zc;
	unsigned bells_closing;
	uint64_t now_us, random;
	struct ring_stats stats;
};

struct submit {
	uint32_t row, gen;
	bool cancel;
};

/* X(type, member): arrays that only grow within a world, each with member_n and member_cap. */
#define SIM_ARRAYS(X)                  \
	X(struct row, row)             \
	X(struct submit, submit)       \
	X(struct cqe, cq)              \
	X(uint32_t, ready)             \
	X(uint32_t, moving)            \
	X(struct conn *, conn)         \
	X(uint32_t, conn_free)         \
	X(struct fd_row, fd)           \
	X(uint32_t, fd_free)           \
	X(struct listener *, listener) \
	X(struct disk_file *, disk)    \
	X(struct server, server)

struct sim_kernel {
	struct sim_kernel_conf conf;
	struct tape *t; /* borrowed, as the record */
	struct record *rec;
	struct sim_env env;
	bool env_awake; /* it may have something to do */
	struct ring *ring;
	uint64_t now_us;
	uint64_t due_us; /* nothing becomes possible by time alone before that */
	uint64_t random;
	uint8_t stop; /* of 256: a turn that has a completion ends at once */
	bool stuck, overflowed;
	uint32_t stuck_turns;
	uint32_t row_free, armed;
	uint32_t cq_max;
	uint64_t disk_used;
	uint64_t completions;
#define X(type, member) \
	type *member;   \
	uint32_t member##_n, member##_cap;
	SIM_ARRAYS(X)
#undef X
};

/* Makes room for one more; returns its place. */
#define SIM_PUSH(k, member)                                                               \
	((k)->member = sim_room(                                                          \
		 (k)->member, (k)->member##_n, &(k)->member##_cap, sizeof(*(k)->member)), \
		&(k)->member[(k)->member##_n++])
void *sim_room(void *p, uint32_t n, uint32_t *cap, size_t item);

/* ---- kernel.c ---- */

struct sim_kernel *sim_current(void);
uint64_t sim_splitmix(uint64_t *state);
/* A fault at a place: counted and recorded if it strikes. */
bool sim_strikes(struct sim_kernel *k, enum sim_fault f, uint32_t sock);
uint32_t sim_short(struct sim_kernel *k, enum sim_fault f, uint32_t sock, uint32_t n);
/* Small delays are much likelier: half of them below 4 ms, up to a second. */
uint64_t sim_delay(struct sim_kernel *k);
/* At that time something may be possible that is not now. */
void sim_due(struct sim_kernel *k, uint64_t us);

/* ---- ops.c ---- */

/* What the kinds do. ready: it could move now. step: one thing; takes back, too, when `taken_back`.
 * finish: completes *d for the engine, on the ring's side. */
struct op_way {
	bool (*ready)(struct sim_kernel *k, struct row *o);
	void (*step)(struct sim_kernel *k, struct row *o, bool taken_back);
	void (*finish)(
		struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d);
	bool multishot, reads, writes;
};
extern const struct op_way op_ways[OP_KIND_COUNT];

struct row *op_arm(
	struct ring *r, struct ring_op *op, enum op_kind kind, struct file *f, struct conn *c);
void op_look(struct sim_kernel *k, uint32_t i);
void ops_look(struct sim_kernel *k, struct file *f);
void ops_look_all(struct sim_kernel *k); /* time has passed; finds the next due time, too */
void op_run(struct sim_kernel *k, uint32_t i);
void ops_submit(struct sim_kernel *k);
void ops_deliver(struct ring *r);
/* Queues a completion; `more` may be turned off by an overflow. */
void op_post(struct sim_kernel *k, struct row *o, const struct cqe *c);
void op_post_res(struct sim_kernel *k, struct row *o, enum ring_res res, uint32_t n);

/* ---- conn.c: queues, the network ---- */

struct conn *conn_new(struct sim_kernel *k);
void conn_settle(struct sim_kernel *k, struct conn *c); /* freed when nobody needs it */
void conns_free(struct sim_kernel *k);
struct conn *conn_of_fd(const struct sim_kernel *k, struct ring_fd fd);
struct ring_fd fd_new(struct sim_kernel *k, enum fd_kind kind, uint32_t index);
void fd_give(struct sim_kernel *k, int fd);
struct listener *listener_of_fd(const struct sim_kernel *k, struct ring_fd fd);
struct disk_file *disk_of_fd(const struct sim_kernel *k, struct ring_fd fd);
bool fd_is_file(const struct sim_kernel *k, struct ring_fd fd);
void backlog_put(struct sim_kernel *k, struct conn *c, uint32_t *first, uint32_t *last);
struct conn *backlog_take(struct sim_kernel *k, uint32_t *first, uint32_t *last);

uint32_t queue_room(const struct sim_kernel *k, const struct queue *q);
void queue_put(struct sim_kernel *k, struct queue *q, const void *p, uint32_t n);
/* dst NULL: thrown away. */
void queue_get(struct sim_kernel *k, struct queue *q, void *dst, uint32_t n);
/* A reset follows: by chance it destroys what has not arrived. */
void queue_maybe_overtaken(struct sim_kernel *k, struct queue *q);
/* Something is (or is no longer) on its way. */
void conn_moves(struct sim_kernel *k, struct conn *c);
void net_move(struct sim_kernel *k, uint32_t which); /* an element of k->moving */
/* The engine's side is told that the connection is gone. */
void conn_dies(struct sim_kernel *k, struct conn *c, enum ring_res why);
/* Both ends at once, by the network. */
void conn_broken(struct sim_kernel *k, struct conn *c, enum ring_res why);
void conn_reset_by_engine(struct sim_kernel *k, struct conn *c);
/* The record: the engine gives the kernel `n` octets for it. */
void conn_offered(struct sim_kernel *k, const struct conn *c, size_t n);
/* The engine takes octets out of c->in, for itself or for a pipe. */
void conn_take(struct sim_kernel *k, struct conn *c, void *dst, uint32_t n);
/* Octets of the engine into c->out: recorded. */
void conn_give(struct sim_kernel *k, struct conn *c, const void *p, uint32_t n);
/* What a receive would say without octets: EOF, an error (used up by this), or AGAIN. */
enum ring_res conn_in_end(struct conn *c);
bool conn_in_event(const struct conn *c);     /* octets, EOF or an error */
enum ring_res conn_out_fault(struct conn *c); /* OK: may send */
bool conn_out_event(const struct sim_kernel *k, const struct conn *c);
struct server *server_at(struct sim_kernel *k, const struct ring_addr *at);

/* ---- records ---- */

struct rec_sock *rec_of(struct sim_kernel *k, const struct conn *c); /* NULL: has none */
void rec_note(struct sim_kernel *k, const struct conn *c, enum rec_kind kind, enum ring_res res,
	uint32_t n);
void rec_told_in(struct sim_kernel *k, const struct conn *c, enum ring_res res);
void rec_told_out(struct sim_kernel *k, const struct conn *c, enum ring_res res);

/* ---- pools ---- */

void bufs_open(struct ring *r, const struct ring_conf *c);
void bufs_close(struct ring *r);
void bufs_publish(struct ring *r);
bool bufs_left(const struct ring *r);
uint32_t bufs_piece(const struct ring *r); /* octets that the next piece may have */
void bufs_fill(struct ring *r, struct conn *c, uint32_t n, struct cqe *out);
void bufs_deliver(struct ring *r, const struct cqe *c, struct ring_done *d);
void pipes_open(struct ring *r, const struct ring_conf *c);
void pipes_close(struct ring *r);
void zc_open(struct ring *r, const struct ring_conf *c);
void zc_close(struct ring *r);
void disk_close(struct sim_kernel *k, struct ring_fd fd); /* nothing armed */
/* Of octets that are lent: to see whether somebody changes them. */
uint64_t sim_sum(const uint8_t *p, uint32_t n);

/* The kinds, each where its calls are. */
#define SIM_OP_PARTS(name)                                                      \
	bool name##_ready(struct sim_kernel *k, struct row *o);                 \
	void name##_step(struct sim_kernel *k, struct row *o, bool taken_back); \
	void name##_finish(                                                     \
		struct sim_kernel *k, struct row *o, const struct cqe *c, struct ring_done *d)
SIM_OP_PARTS(accept);
SIM_OP_PARTS(connect);
SIM_OP_PARTS(recv);
SIM_OP_PARTS(send);
SIM_OP_PARTS(poll);
SIM_OP_PARTS(splice_in);
SIM_OP_PARTS(splice_out);
SIM_OP_PARTS(zc_recv);
SIM_OP_PARTS(zc_send);
SIM_OP_PARTS(bell);
SIM_OP_PARTS(file_write);
SIM_OP_PARTS(file_read);

#endif
