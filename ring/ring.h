/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * THE NARROW WAIST: the only way anything reaches the kernel on the data path.
 *
 * One ring serves one core. Every call, every callback and every buffer belongs to the thread
 * that runs ring_turn(); the sole exception is ring_bell_ring(). Two implementations exist: this
 * room's (io_uring) and the simulated kernel of the tests, chosen at link time. No clock, errno,
 * random number, allocation or descriptor arithmetic goes past this header.
 *
 * Operations are owned by the caller: a struct ring_op is embedded in a longer-lived object and
 * must stay in place from the call that arms it until its done() ran with more == false. Each
 * armed operation ends exactly once that way, cancelled ones included (U1, U7). Completions are
 * first collected, then delivered; done() may arm, cancel and close freely.
 */
#ifndef RING_RING_H
#define RING_RING_H

#include "ring/base.h"

#include <sys/socket.h>
#include <sys/uio.h>

enum ring_res {
#define X(name, err, word, text) name,
#include "ring/res.def"
#undef X
	RING_RES_COUNT
};

const char *ring_res_word(enum ring_res r); /* "ECONNREFUSED"; static */
const char *ring_res_text(enum ring_res r); /* one sentence; static */

struct ring;

/* A socket, opaque above the ring: compare with ring_fd_ok() only. */
struct ring_fd {
	int v;
};
#define RING_FD_NONE ((struct ring_fd){-1})
static inline bool ring_fd_ok(struct ring_fd f)
{
	return f.v >= 0;
}

/* IPv4, IPv6 or Unix socket address. */
struct ring_addr {
	socklen_t len;
	union {
		struct sockaddr sa;
		struct sockaddr_storage ss;
	};
};

struct ring_conf {
	unsigned sq_entries; /* power of two; 1024 */
	unsigned cq_entries; /* power of two; 8192: at least two per operation armed at once (U5) */
	unsigned ops_max;    /* operations armed at once; more is a programming error */
	unsigned buf_count;  /* receive buffers, power of two: 16..64 incremental, 256 plain */
	unsigned buf_bytes;  /* each: 256 KiB incremental; the plain fall-back uses 16 KiB */
	unsigned pipe_count_max; /* pooled pipes; 0 = movers that need one fall back to copying */
	unsigned pipe_bytes;	 /* 1 MiB asked for; the kernel may give less */
	unsigned zc_count;     /* registered buffers for zero-copy sends; 0 = none (they are locked
				  memory) */
	unsigned zc_bytes;     /* of each */
	uint32_t features_off; /* RING_FEAT_* bits not to use though the kernel has them */
};

#define RING_OPS_MAX ((1u << 24) - 2) /* of ops_max */

void ring_conf_defaults(struct ring_conf *c);

/* What the probe found; a bit set = in use on this ring. Rows with fall-backs: ring/feat.h. */
enum ring_feat {
	RING_FEAT_PBUF_INC = 1u << 0, /* incremental receive buffers, 6.12; else plain 16 KiB */
	RING_FEAT_RECV_CAP =
		1u << 1, /* byte cap of a multishot receive, 6.17; else cancel at the high mark */
	RING_FEAT_DEFER = 1u << 2,     /* DEFER_TASKRUN, 6.1 */
	RING_FEAT_REG_FD = 1u << 3,    /* registered ring descriptor, 5.18 */
	RING_FEAT_NO_IOWAIT = 1u << 4, /* an idle ring is not shown as iowait, 6.15 */
	RING_FEAT_SEND_ZC = 1u << 5,   /* zero-copy send, 6.0 */
};

/* Counters of one ring; read by other threads with relaxed loads, written by the ring's thread. */
#define RING_STATS(X)                                                           \
	X(enters, "io_uring_enter calls")                                       \
	X(sqes, "operations submitted")                                         \
	X(cqes, "completions seen")                                             \
	X(recvs, "receive completions with data")                               \
	X(recv_bytes, "octets received")                                        \
	X(sends_now, "send calls made at once")                                 \
	X(sends_ring, "sends given to the ring")                                \
	X(send_bytes, "octets sent")                                            \
	X(rearms, "multishot receives armed")                                   \
	X(cancels, "operations taken back")                                     \
	X(nobufs, "receives that ended for want of a buffer")                   \
	X(stale, "completions of an operation that no longer exists (dropped)") \
	X(overflows, "turns that found the completion queue overflowed")        \
	X(accepts, "connections accepted")                                      \
	X(connects, "connections opened")                                       \
	X(closes, "descriptors closed")                                         \
	X(splices, "splices, by splice(2) or by the ring")                      \
	X(zc_sends, "zero-copy sends")                                          \
	X(zc_fallbacks, "zero-copy sends that the kernel refused for memory")   \
	X(file_writes, "writes to files")                                       \
	X(file_reads, "reads from files")

struct ring_stats {
#define X(name, text) uint64_t name;
	RING_STATS(X)
#undef X
};

/* Why a ring could not be made, in words an operator can act on. */
struct ring_barrier {
	char what[96]; /* "io_uring is disabled by sysctl" */
	char fix[256]; /* "set kernel.io_uring_disabled=0 or ..." */
};

/* NULL and *why filled when the kernel refuses. The calling thread becomes the only user. */
struct ring *ring_open(const struct ring_conf *conf, struct ring_barrier *why) MUST_USE;
/* Every operation must have completed and every descriptor of it been closed. */
void ring_close(struct ring *r);

uint32_t ring_features(const struct ring *r);
struct ring_stats *ring_stats(struct ring *r);

/* One clock reading per turn, taken when completions arrive. */
uint64_t ring_now_us(const struct ring *r);  /* monotonic */
uint64_t ring_wall_us(const struct ring *r); /* since 1970, for logs only */
uint64_t ring_random(struct ring *r);	     /* seeded once; not for secrets */

/* ---- operations ---- */

struct ring_done {
	enum ring_res res;
	bool more;     /* the operation stays armed (multishot) */
	bool buf_held; /* `data` lies in receive buffer `buf`, valid until done() returns unless
			  kept */
	uint16_t buf;
	uint32_t n;	   /* octets sent, poll mask, ... */
	struct span data;  /* received octets */
	struct ring_fd fd; /* accepted socket */
};

struct ring_op {
	void (*done)(struct ring_op *op, const struct ring_done *d);
	uint32_t slot; /* the ring's; 0 = not armed */
};

static inline bool ring_op_armed(const struct ring_op *op)
{
	return op->slot != 0;
}

/* Submits what was armed, waits for at least one completion or until `deadline_us` (monotonic;
 * 0 = do not wait, UINT64_MAX = no limit), reads the clock once, delivers all completions. */
void ring_turn(struct ring *r, uint64_t deadline_us);

/* Multishot: done() per connection with fd; ends on EMFILE and friends with more == false (U14).
 * Accepted sockets inherit TCP_NODELAY from the listener. The peer address is asked separately. */
void ring_accept(struct ring *r, struct ring_op *op, struct ring_fd listener);
enum ring_res ring_peer_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out);
enum ring_res ring_local_addr(struct ring *r, struct ring_fd fd, struct ring_addr *out);

/* A non-blocking, close-on-exec stream socket for connecting to `peer`, TCP_NODELAY set, bound to
 * `src` (NULL = any) without reserving a port before the connect. */
enum ring_res ring_socket(struct ring *r, const struct ring_addr *peer, const struct ring_addr *src,
	struct ring_fd *out) MUST_USE;
/* `peer` must stay in place until done(). */
void ring_connect(
	struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_addr *peer);

/* Multishot receive into the ring's buffers. With a `cap` (0 = none; ignored without
 * RING_FEAT_RECV_CAP) it ends by itself, with more == false, behind the piece that reaches so many
 * octets, and a piece has at most so many, so it is less than twice that in all; without one a
 * piece is as much as a buffer has room. The end of input is RING_EOF. RING_NOBUFS: re-arm only
 * when ring_bufs_free() says so, never at once (U4). */
void ring_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, uint32_t cap);

/* One send per socket may be in flight (U8); the kernel sends all or fails (MSG_WAITALL), a short
 * count is followed by an error on the next send. The iovec is copied, the octets are not. */
void ring_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct iovec *iov,
	unsigned iov_count);
/* At once, without waiting: octets taken (> 0), or 0 with *res = RING_AGAIN or an error. */
size_t ring_send_now(struct ring *r, struct ring_fd fd, const struct iovec *iov, unsigned iov_count,
	enum ring_res *res);

/* One-shot. d->n is the poll(2) mask. */
void ring_poll(struct ring *r, struct ring_op *op, struct ring_fd fd, short events);

/* Asks for the end of an armed operation. Its done() still comes, with RING_CANCELED or with what
 * happened first. Repeating the request is harmless. */
void ring_cancel(struct ring *r, struct ring_op *op);

/* At once: no more octets to the peer (FIN after what was sent). */
void ring_shut(struct ring *r, struct ring_fd fd);
/* The next ring_close_fd() sends a reset instead of an orderly end. */
void ring_linger_reset(struct ring *r, struct ring_fd fd);
/* No operation on it may be armed (U1): the caller counted them. Sets *fd to RING_FD_NONE. */
void ring_close_fd(struct ring *r, struct ring_fd *fd);

/* ---- receive buffers ---- */

/* A buffer goes back to the kernel when its last octet was handed out, its done() has returned and
 * nobody keeps it. keep/drop are counted leases; a drop too many is a programming error. */
void ring_buf_keep(struct ring *r, uint16_t buf);
void ring_buf_drop(struct ring *r, uint16_t buf);
unsigned ring_bufs_free(const struct ring *r); /* buffers the kernel can still fill */
unsigned ring_bufs_total(const struct ring *r);

/* ---- pipes: pooled, non-blocking ---- */

struct ring_pipe;
struct ring_pipe *ring_pipe_get(struct ring *r);	 /* NULL: none left (the caller copies) */
void ring_pipe_put(struct ring *r, struct ring_pipe *p); /* must be empty, or it is replaced */
size_t ring_pipe_bytes(const struct ring_pipe *p);	 /* octets inside */
size_t ring_pipe_room(const struct ring_pipe *p);	 /* capacity - inside, in the best case */
/* splice(2), at once. Octets moved, or 0 with *res = RING_AGAIN, RING_EOF or an error. Out of a
 * pipe ask for what is inside and no more: for the rest Linux would hold the last segment back (200
 * ms). */
size_t ring_splice_in(
	struct ring *r, struct ring_fd from, struct ring_pipe *p, size_t n, enum ring_res *res);
size_t ring_splice_out(
	struct ring *r, struct ring_pipe *p, struct ring_fd to, size_t n, enum ring_res *res);
/* The same two by IORING_OP_SPLICE (always a worker thread, U12). d->n octets; 0 with RING_OK is
 * end of input. */
void ring_splice_in_op(
	struct ring *r, struct ring_op *op, struct ring_fd from, struct ring_pipe *p, size_t n);
void ring_splice_out_op(
	struct ring *r, struct ring_op *op, struct ring_pipe *p, struct ring_fd to, size_t n);

/* ---- zero-copy: registered buffers ---- */

struct ring_zcbuf {
	uint8_t *p;
	uint32_t bytes;
	uint16_t idx;
};
bool ring_zc_get(struct ring *r, struct ring_zcbuf *out); /* false: none left (the caller copies) */
void ring_zc_put(struct ring *r, const struct ring_zcbuf *b);
/* One-shot receive into the buffer. RING_EOF at the end of input. */
void ring_zc_recv(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t n);
/* done() comes first with the count and more == true, then with more == false when the kernel has
 * let go of the buffer (U7); with more == false at once when it never took it. Between the two the
 * descriptor is not in use and may be closed: after ring_linger_reset() the second comes soon,
 * otherwise when the peer has taken the octets. */
void ring_zc_send(struct ring *r, struct ring_op *op, struct ring_fd fd, const struct ring_zcbuf *b,
	uint32_t off, uint32_t n);

/* ---- files: for octets that do not fit into memory ---- */

/* A new file without a name in `dir`, for reading and writing, close-on-exec; at once. Kernels and
 * file systems without O_TMPFILE: made with a name, which is taken away before this returns. Close
 * it with ring_close_fd(). */
enum ring_res ring_file_open(struct ring *r, const char *dir, struct ring_fd *out) MUST_USE;
/* One-shot. With RING_OK d->n octets were written or read, at least one and maybe fewer than asked
 * for; a read at the end of the file is RING_EOF. Until done() the octets must stay in place: those
 * to be written as they are, those to be read are anybody's guess. Of operations in flight at the
 * same time on one file, those that write share no octet of it with any other. */
void ring_file_write(struct ring *r, struct ring_op *op, struct ring_fd fd, const void *p,
	uint32_t n, uint64_t at);
void ring_file_read(
	struct ring *r, struct ring_op *op, struct ring_fd fd, void *p, uint32_t n, uint64_t at);

/* ---- bell: wakes this ring from any thread ---- */

struct ring_bell;
struct ring_bell *ring_bell_open(struct ring *r, void (*rung)(void *arg), void *arg);
void ring_bell_ring(struct ring_bell *b); /* any thread; async-signal-safe */
void ring_bell_close(struct ring *r, struct ring_bell *b);

#endif
