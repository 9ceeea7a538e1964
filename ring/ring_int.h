/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Private to the kernel implementation of ring.h (and to its own tests): the ring's memory, the
 * table of armed operations, how an SQE is got and how a CQE is turned into a struct ring_done.
 *
 * user_data = slot (24 bits) | generation (24 bits) | kind (8 bits). A slot is taken when an
 * operation is armed and given back at its final completion, where the generation moves on: a
 * completion that names another generation is stale, dropped and counted (U2). Cancel requests have
 * no slot (they carry slot 0) and their completions are swallowed.
 */
#ifndef RING_RING_INT_H
#define RING_RING_INT_H

#include "ring/ring.h"
#include "ring/uapi.h"

#include <sys/syscall.h>
#include <unistd.h>

#define RING_IOV_MAX 64u
#define RING_ARENA_BYTES (64u << 10)
#define RING_PLAIN_BUF_BYTES (16u << 10)
#define RING_BUF_GROUP 0
/* The locked memory of a ring that was just closed (a trial of feat.c, an old generation) is
 * uncharged late, by a kernel worker: -ENOMEM at set-up is tried again for a while. */
#define RING_RETRIES 20u
#define RING_RETRY_NS 10000000L

enum op_kind {
	KIND_CANCEL, /* no slot */
	KIND_ACCEPT,
	KIND_CONNECT,
	KIND_RECV,
	KIND_SEND,
	KIND_POLL,
	KIND_SPLICE_IN,
	KIND_SPLICE_OUT,
	KIND_ZC_RECV,
	KIND_ZC_SEND,
	KIND_BELL,
	KIND_FILE_WRITE,
	KIND_FILE_READ,
	KIND_COUNT
};

/* What is kept of a CQE. */
struct seen {
	uint64_t user_data;
	int32_t res;
	uint32_t flags;
};

struct op_slot {
	struct ring_op *op; /* borrowed from the caller; NULL = free */
	void *with;	    /* the pipe or zero-copy buffer of the kinds that have one */
	uint32_t gen;	    /* 24 bits used */
	uint32_t next_free;
	int32_t fd;
	uint8_t kind; /* enum op_kind */
};

struct recv_buf {
	uint32_t off;	/* where the kernel writes next */
	uint32_t refs;	/* leases, the completion that is being delivered included */
	bool kernel_is; /* the kernel still fills it */
};

struct bufs {
	struct io_uring_buf_ring *shared; /* entries that the kernel reads; ours, mmap */
	uint8_t *mem;
	struct recv_buf *buf;
	unsigned count, bytes;
	unsigned free;	  /* the kernel can still fill these (unpublished ones included) */
	unsigned pending; /* of those, returned and not yet published */
	bool incremental, registered;
};

struct ring_pipe {
	struct ring_pipe *next;
	int rd, wr; /* -1 = not made yet */
	size_t cap, inside;
};

struct zc_pool {
	uint8_t *mem;
	uint16_t *idle; /* stack of indices */
	unsigned idle_count, count, bytes;
	bool registered;
};

struct ring {
	struct io_uring u; /* set-up and mappings are liburing's, the queues are run here */
	unsigned sq_tail;  /* next SQE; what the kernel knows is *u.sq.ktail */
	unsigned sq_taken; /* SQEs the kernel has taken so far */
	uint32_t features;
	unsigned enter_flags;
	bool delivering;

	struct seen *got; /* collected completions [got_head, got_tail) */
	unsigned got_head, got_tail, got_cap;

	struct op_slot *slot; /* [1 .. ops_max] */
	uint32_t slot_free, slot_fresh, ops_max, ops_armed;
	uint16_t *fd_ops; /* operations armed per descriptor number (U1) */
	uint32_t fd_ops_count;

	uint8_t *arena; /* msghdr and iovec of sends that are not submitted yet */
	size_t arena_used;

	struct bufs bufs;
	struct ring_pipe *pipe, *pipe_idle; /* array; list through next */
	unsigned pipe_count;
	size_t pipe_bytes;
	struct zc_pool zc;
	unsigned bells_closing; /* their reads are being taken back */

	uint64_t now_us, wall_us, random;
	struct ring_stats stats;
};

/* Only the ring's thread writes; relaxed atomics because others read while it does. */
#define STAT(r, name, by)                                                             \
	__atomic_store_n(&(r)->stats.name,                                            \
		__atomic_load_n(&(r)->stats.name, __ATOMIC_RELAXED) + (uint64_t)(by), \
		__ATOMIC_RELAXED)

/* ---- ring.c ---- */

void ring_queue_exit(struct io_uring *u);

/* Room for one SQE: what has to stay in place until the next SQE is submitted is laid out behind
 * this call, because making room submits, and a submission ends the use of the arena. */
void ring_room(struct ring *r);
/* A zeroed SQE; submits what is waiting when the queue is full (U6). */
struct io_uring_sqe *ring_sqe(struct ring *r);
/* Submits everything that waits, without waiting for completions. */
void ring_push(struct ring *r);
/* Takes a slot for `op` and returns its SQE with opcode, fd and user_data set. Nothing that may
 * submit comes between this call and the last write to the SQE. */
struct io_uring_sqe *ring_arm(
	struct ring *r, struct ring_op *op, enum op_kind kind, uint8_t opcode, int fd, void *with);
/* The operation no longer needs its descriptor, though it has not ended: it may be closed. */
void ring_leave_fd(struct ring *r, struct op_slot *s);
uint64_t ring_user_data(const struct ring *r, uint32_t slot);

/* ---- res.c ---- */

enum ring_res ring_res_of(int err); /* errno, positive */

/* ---- completions: fill *d, which holds res, n and more already ---- */

void finish_accept(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_connect(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_recv(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_send(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_splice_in(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_splice_out(
	struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_zc_recv(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_zc_send(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_file_write(
	struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);
void finish_file_read(struct ring *r, struct op_slot *s, const struct seen *c, struct ring_done *d);

/* ---- bufs.c ---- */

int bufs_open(struct ring *r, const struct ring_conf *c); /* 0 or -errno */
void bufs_close(struct ring *r);
/* Accounts for the octets of a completion that carries a buffer; d->buf is leased once. */
void bufs_take(struct ring *r, const struct seen *c, struct ring_done *d);
void bufs_publish(struct ring *r);
/* The shape of the pool: clamped and regrouped when buffers are not incremental. */
void bufs_shape(const struct ring_conf *c, bool incremental, unsigned *count, unsigned *bytes);

/* ---- pipe.c, zc.c ---- */

int pipes_open(struct ring *r, const struct ring_conf *c);
void pipes_close(struct ring *r);
int zc_open(struct ring *r, const struct ring_conf *c);
void zc_close(struct ring *r);

/* ---- file.c ---- */

/* Where there is no O_TMPFILE: made with a name, which is taken away at once. */
enum ring_res file_open_named(const char *dir, struct ring_fd *out) MUST_USE;

/* ---- descriptors ----
 * Raw system calls on purpose: ThreadSanitizer follows the libc wrappers and takes a number that
 * another ring's accept reuses for a race, because it cannot see descriptors that a ring makes. */
static inline int fd_close_raw(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static inline int fd_socket_raw(int family, int flags)
{
	return (int)syscall(SYS_socket, family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

static inline int fd_bind_raw(int fd, const void *addr, socklen_t len)
{
	return (int)syscall(SYS_bind, fd, addr, len);
}

static inline int fd_listen_raw(int fd, int backlog)
{
	return (int)syscall(SYS_listen, fd, backlog);
}

static inline int fd_connect_raw(int fd, const void *addr, socklen_t len)
{
	return (int)syscall(SYS_connect, fd, addr, len);
}

#endif
